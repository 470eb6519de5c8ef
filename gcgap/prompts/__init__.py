"""Prompts for language models: clean, corrupted, answer and wrong answer, from a file or made up. Owns no model."""

"""Tokens: tasks, batches as pure functions, layouts, corruption and prompts."""

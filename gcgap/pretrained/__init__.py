"""Hugging Face models, and modules of the user's own, as models whose components can be measured."""

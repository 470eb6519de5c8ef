"""How well attribution methods do: against exact effects, and against circuits that are known."""

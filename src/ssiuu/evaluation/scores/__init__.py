"""How a model is scored on facts: one score a file, and what they share in `base`."""

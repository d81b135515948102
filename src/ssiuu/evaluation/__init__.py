"""Scores of a model: option ranking, answer log-probability, free answers."""

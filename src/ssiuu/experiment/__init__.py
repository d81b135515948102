"""Experiments: the recipe, the run, and what is kept of both."""

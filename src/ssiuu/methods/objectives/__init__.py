"""Forget losses: one a file."""

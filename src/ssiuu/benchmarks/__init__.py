"""Benchmarks: versioned facts with their splits."""

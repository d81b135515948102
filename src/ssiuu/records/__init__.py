"""What a run writes: a versioned schema and its files."""

"""What is done to a forget gradient: one a file."""

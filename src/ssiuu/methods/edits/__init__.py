"""Changes of the weights that are no descent on a loss."""

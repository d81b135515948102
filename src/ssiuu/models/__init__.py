"""Load and save causal language models, and find the neurons in them."""

"""What changed inside: influence variation, logit lens, and the verdict."""

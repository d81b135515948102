"""What was found of a model, in a file that can be checked against it and signed. Needs no torch."""

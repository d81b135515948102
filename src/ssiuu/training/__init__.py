"""The loop: draw batches, take steps, stop, save and continue."""

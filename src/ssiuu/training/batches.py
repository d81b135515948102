"""Draw batches without state: step t of a seed is always the same rows."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ssiuu.likelihood import Batch, Example, collate


def draw(rows: int, size: int, step: int, seed: int) -> list[int]:
    """Return the row indices of one step: endless permutations, cut into batches.

    Args:
        rows: Number of rows, at least 1.
        size: Rows a step; at most `rows`, so that no row stands twice in a batch.
        step: Counted from 1.
        seed: Decides the permutations.
    """
    size = min(size, rows)
    indices: list[int] = []
    position = (step - 1) * size
    while len(indices) < size:
        epoch, offset = divmod(position + len(indices), rows)
        order = list(range(rows))
        random.Random(f"{seed}:{epoch}").shuffle(order)
        indices += [i for i in order[offset:] if i not in indices][: size - len(indices)] or [
            next(i for i in range(rows) if i not in indices)
        ]
    return indices


def micro_batches(
    examples: Sequence[Example], size: int | None, pad: int, device: object
) -> list[Batch]:
    """Split the rows of one step into batches of at most `size`, on the device."""
    size = size or len(examples) or 1
    chunks = [examples[i : i + size] for i in range(0, len(examples), size)]
    return [collate(chunk, pad).to(str(device)) for chunk in chunks]

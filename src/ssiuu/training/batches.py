"""Draw batches without state: step t of a seed is always the same rows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from ssiuu.likelihood import Batch, Example, collate
from ssiuu.models import shards


def draw_rows(rows: int, size: int, step: int, seed: int) -> list[int]:
    """Return the row indices of one step: endless permutations, cut into batches.

    Args:
        rows: Number of rows, at least 1.
        size: Rows a step; at most `rows`, so that no row stands twice in a batch.
        step: Counted from 1.
        seed: Decides the permutations.
    """
    size = min(size, rows)
    epoch, offset = divmod((step - 1) * size, rows)
    indices = _permutation(rows, size, epoch, seed)[offset : offset + size]
    if len(indices) < size:
        indices += _permutation(rows, size, epoch + 1, seed)[: size - len(indices)]
    return indices


def _permutation(rows: int, size: int, epoch: int, seed: int) -> list[int]:
    """Return the order of one epoch: shuffled, and the rows it would repeat in a batch put back.

    The first batch may have begun with the last rows of the epoch before. With two batches an epoch
    or more, what is put back never reaches the epoch's own last rows; with fewer it may, so the
    epochs before must be gone through.
    """
    order: list[int] = []
    for number in range(max(0, epoch - 1) if rows >= 2 * size else 0, epoch + 1):
        shuffled = list(range(rows))
        random.Random(f"{seed}:{number}").shuffle(shuffled)
        begun = number * rows % size if order else 0
        ahead = set(order[rows - begun :])
        head = [i for i in shuffled if i not in ahead][: size - begun] if begun else []
        moved = set(head)
        order = head + [i for i in shuffled if i not in moved]
    return order


def micro_batches(
    examples: Sequence[Example], size: int | None, pad: int, device: object
) -> list[Batch]:
    """Split the rows of one step into batches of at most `size`, on the device."""
    size = size or len(examples) or 1
    chunks = [examples[i : i + size] for i in range(0, len(examples), size)]
    return [collate(chunk, pad).to(str(device)) for chunk in chunks]


def step_batches(
    examples: Sequence[Example], size: int | None, pad: int, device: object
) -> list[Batch]:
    """Return what of the rows of one step this process passes through; all of it where it is alone.

    The rows are dealt out one at a time, and each process takes as many passes as the one with most:
    blocks are put together by all of them at once. A pass without a row of its own does not count.

    Args:
        examples: Of the whole step, the same on every process.
        size: Rows in memory at once, on one process; None: all that it has.
        pad: See `collate`.
        device: Where to.
    """
    world = shards.world()
    if world == 1:
        return micro_batches(examples, size, pad, device)
    if not examples:
        return []
    found = micro_batches(examples[shards.rank() :: world], size, pad, device)
    most = -(-len(examples) // world)
    idle = replace(collate(examples[-1:], pad), counts=False).to(str(device))
    return found + [idle] * (-(-most // (size or most)) - len(found))

"""Rank statistics. Pure numbers in, pure numbers out."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import rankdata


def auc(higher: Sequence[float], lower: Sequence[float]) -> float | None:
    """Return the chance that one of `higher` exceeds one of `lower`, a tie counting one half.

        (sum of the n ranks of `higher` among all - n (n + 1) / 2) / (n m)

    None where a side is empty. Source: Mann and Whitney 1947.
    """
    n, m = len(higher), len(lower)
    if not n or not m:
        return None
    ranks = rankdata([*higher, *lower])
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))

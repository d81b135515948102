"""Intervals for accuracies and for differences. Pure numbers in, pure numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import norm, t

from ssiuu.statistics.bootstrap import (
    Estimate,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_ratio,
    differs,
)

__all__ = [
    "Estimate",
    "Interval",
    "bootstrap_difference",
    "bootstrap_mean",
    "bootstrap_ratio",
    "differs",
    "next_draw",
    "ratio_of_sums",
    "wilson",
]


class Interval(NamedTuple):
    """A share (or another value) with its interval."""

    share: float
    low: float
    high: float


def wilson(successes: int, trials: int, confidence: float = 0.95, looks: int = 1) -> Interval:
    r"""Return a share and its two-sided Wilson score interval.

        (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)

    Args:
        successes: How many of the trials succeeded.
        trials: Number of trials, at least 1.
        confidence: Coverage of one interval, in (0, 1).
        looks: Number of intervals that are read together; the interval is widened for that
            (Bonferroni), so that all hold at once with this confidence.

    Raises:
        ValueError: No trials, more successes than trials, or a confidence or number of looks that
            is out of range.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"need 0 <= successes <= trials and trials >= 1, got {successes}/{trials}")
    if not 0 < confidence < 1 or looks < 1:
        raise ValueError(
            f"need 0 < confidence < 1 and looks >= 1, got confidence {confidence}, looks {looks}"
        )
    z = float(norm.isf((1 - confidence) / (2 * looks)))
    p = successes / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half))


def ratio_of_sums(
    parts: Sequence[float], wholes: Sequence[float], clusters: Sequence[str], seed: int = 0
) -> Interval | None:
    """Return sum(parts) / sum(wholes) with a 95 % bootstrap interval over whole clusters.

    Args:
        parts: One value an item.
        wholes: One value an item; all 1 for a mean.
        clusters: Which items belong together and are drawn together (facts of one entity).
        seed: Of the draws.

    Returns:
        None where the wholes do not sum to more than 0, or there are fewer than two clusters.
    """
    names = sorted(set(clusters))
    if len(names) < 2 or sum(wholes) <= 0:
        return None
    place = [names.index(cluster) for cluster in clusters]
    sums = [np.bincount(place, weights=np.asarray(values)) for values in (parts, wholes)]
    found = scipy_bootstrap(
        sums,
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=2000,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(sum(parts) / sum(wholes), float(found.low), float(found.high))


def next_draw(values: Sequence[float]) -> Interval:
    """Return the mean of some draws and the 95 % interval in which another draw falls.

        mean ± t(k-1) s sqrt(1 + 1/k)

    Raises:
        ValueError: Fewer than two draws.
    """
    count = len(values)
    if count < 2:
        raise ValueError(f"need at least 2 draws, got {count}")
    centre, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(t.isf(0.025, count - 1)) * spread * math.sqrt(1 + 1 / count)
    return Interval(centre, centre - half, centre + half)

"""Intervals for accuracies and for differences. Pure numbers in, pure numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit  # scipy.stats takes most of a second to import

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
    "wilson",
]


class Interval(NamedTuple):
    """A share with its interval."""

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
    z = -float(ndtri((1 - confidence) / (2 * looks)))
    p = successes / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half))


def next_draw(values: Sequence[float]) -> Estimate:
    """Return the mean of some draws and the 95 % interval in which another draw falls.

        mean ± t(k-1) s sqrt(1 + 1/k)

    Raises:
        ValueError: Fewer than two draws.
    """
    count = len(values)
    if count < 2:
        raise ValueError(f"need at least 2 draws, got {count}")
    centre, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    half = -float(stdtrit(count - 1, 0.025)) * spread * math.sqrt(1 + 1 / count)
    return Estimate(centre, centre - half, centre + half)

"""Bootstrap intervals that keep together what belongs together: entities, pairs, seeds.

    estimate = bootstrap_difference(gd, npo, entities)      # outcomes of both: [seeds, seeds, facts]
    if differs(estimate): ...

An outcome array has the shape [unlearning seeds, attack seeds, facts]; a score without seeds has
ones there. Each resample draws, with replacement and independently of each other, as many entities,
unlearning seeds and attack seeds as there are (the pigeonhole bootstrap for crossed factors). All
facts of a drawn entity come along, and so do both methods' outcomes, since they are subtracted
before. A factor with one level is not drawn: the interval then speaks for this seed alone.

Sources: Owen 2007, "The pigeonhole bootstrap" (crossed factors); Davison and Hinkley 1997,
"Bootstrap methods and their application", 3.8 (clusters); Hesterberg 2015, "What teachers should know
about the bootstrap", 5.3 (expanded percentiles).

Departures: none. With S seeds their share of the variance comes out too small by (S-1)/S, as in any
bootstrap of S levels: with 3 x 3 seeds, each half as variable as the facts, nominal 95 % intervals
held the truth in 86 % of 300 simulations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

Floats = NDArray[np.float64]

RESAMPLES = 10_000
# An exact sign test of fewer than six entities cannot reach 5 %: 2 / 2^5 = 6.25 %.
ENOUGH = 6


class Estimate(NamedTuple):
    """A number with the ends of its interval, all in the unit of the outcomes."""

    value: float
    low: float
    high: float


def differs(estimate: Estimate) -> bool:
    """Say whether the interval of a difference excludes 0: the only ground to call one better."""
    return estimate.low > 0 or estimate.high < 0


def bootstrap_mean(
    outcomes: Any, entities: Sequence[str], *, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """Return the mean over all facts and seeds with its interval, clustered by entity.

    Args:
        outcomes: [unlearning seeds, attack seeds, facts], in any unit.
        entities: The entity of each fact.
        confidence: Coverage of the interval, in (0, 1).
        seed: Seed of the resampling.

    Raises:
        ValueError: No facts, fewer than two entities, a shape that does not fit, an outcome that is
            not finite, or a confidence that is out of range.
    """
    values = _checked(outcomes, entities)
    estimate = _ratio(values, np.ones_like(values), entities, confidence, seed)
    assert estimate is not None  # the denominator counts facts
    return estimate


def bootstrap_difference(
    first: Any, second: Any, entities: Sequence[str], *, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """Return the mean of `first` less that of `second` over the same facts, with its interval.

    Where fewer than six entities differ at all, the interval is stretched to hold 0: resampling a
    handful of equal signs shows no spread, while a sign test of so few shows nothing.

    Args:
        first: Outcomes of one method, [unlearning seeds, attack seeds, facts].
        second: Outcomes of the other on the same facts, with the same seeds.
        entities: The entity of each fact.
        confidence: Coverage of the interval, in (0, 1).
        seed: Seed of the resampling.

    Raises:
        ValueError: As `bootstrap_mean`, or shapes that differ.
    """
    ours, theirs = _checked(first, entities), _checked(second, entities)
    if ours.shape != theirs.shape:
        raise ValueError(f"need outcomes of one shape to pair, got {ours.shape} and {theirs.shape}")
    change = ours - theirs
    estimate = bootstrap_mean(change, entities, confidence=confidence, seed=seed)
    sums = _by_entity(change, entities).sum(axis=(0, 1))
    if np.count_nonzero(~np.isclose(sums, 0)) < ENOUGH:
        return Estimate(estimate.value, min(estimate.low, 0.0), max(estimate.high, 0.0))
    return estimate


def bootstrap_ratio(
    numerator: Any,
    denominator: Any,
    entities: Sequence[str],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate | None:
    """Return a ratio of two sums over the same facts with its interval.

    For example the share of the way back: (attacked - unlearned) over (original - unlearned).

    Args:
        numerator: [unlearning seeds, attack seeds, facts].
        denominator: The same shape.
        entities: The entity of each fact.
        confidence: Coverage of the interval, in (0, 1).
        seed: Seed of the resampling.

    Returns:
        None where the denominator is not positive in every resample: then it has no sure size.

    Raises:
        ValueError: As `bootstrap_difference`.
    """
    above, below = _checked(numerator, entities), _checked(denominator, entities)
    if above.shape != below.shape:
        raise ValueError(f"need outcomes of one shape to pair, got {above.shape} and {below.shape}")
    return _ratio(above, below, entities, confidence, seed)


def _checked(outcomes: Any, entities: Sequence[str]) -> Floats:
    values = np.asarray(outcomes, dtype=np.float64)
    if values.ndim != 3 or 0 in values.shape or values.shape[2] != len(entities):
        raise ValueError(
            "need outcomes [unlearning seeds, attack seeds, facts] with at least one of each and one "
            f"entity a fact, got shape {values.shape} and {len(entities)} entities"
        )
    if not np.isfinite(values).all():
        raise ValueError("need finite outcomes, got NaN or an infinity")
    if len(set(entities)) < 2:
        raise ValueError(f"need at least two entities to resample, got {len(set(entities))}")
    return values


def _by_entity(values: Floats, entities: Sequence[str]) -> Floats:
    """Sum over the facts of each entity; sorted by name, so that the order of facts is no matter."""
    names, place = np.unique(np.asarray(entities, dtype=str), return_inverse=True)
    sums: Floats = values @ (place[:, None] == np.arange(len(names))).astype(np.float64)
    return sums


def _ratio(
    above: Floats, below: Floats, entities: Sequence[str], confidence: float, seed: int
) -> Estimate | None:
    if not 0 < confidence < 1:
        raise ValueError(f"need 0 < confidence < 1, got {confidence}")
    sums = np.stack([_by_entity(above, entities), _by_entity(below, entities)])
    *seeds, drawn = [draw_counts(size, seed + axis) for axis, size in enumerate(sums.shape[1:])]
    # Entities first: they are many, and this is one product of matrices, [resamples, 2, seeds, seeds].
    by_seed = np.tensordot(drawn, sums, axes=(1, 3))
    tops, bottoms = np.einsum("rsuk,ru,rk->sr", by_seed, *seeds)
    if below.sum() <= 0 or bottoms.min() <= 0:
        return None
    tail = _tail(sums.shape[3], confidence)
    low, high = np.quantile(tops / bottoms, [tail, 1 - tail])
    return Estimate(float(above.sum() / below.sum()), float(low), float(high))


def _tail(entities: int, confidence: float) -> float:
    """Return the percentile to cut at: a little further out than nominal, for few entities."""
    # Hesterberg's expanded percentiles: the quantile of t for the normal one, the unbiased spread.
    spread = math.sqrt(entities / (entities - 1)) * -stdtrit(entities - 1, (1 - confidence) / 2)
    return float(ndtr(-spread))


def draw_indices(size: int, seed: int, resamples: int = RESAMPLES) -> NDArray[np.int64]:
    """Return [resamples, size] indices drawn with replacement; one level is always itself."""
    return np.random.default_rng(seed).integers(0, size, (resamples, size))


@lru_cache(maxsize=16)
def draw_counts(size: int, seed: int) -> Floats:
    """Return how often each of `size` levels is drawn in each resample, [resamples, size]."""
    indices = draw_indices(size, seed)
    # Every resample counts in a range of its own, so that one call counts all.
    flat = indices + size * np.arange(len(indices))[:, None]
    return np.bincount(flat.ravel(), minlength=indices.size).reshape(indices.shape).astype(np.float64)

"""The bootstrap against a plain loop over the same draws: entities, seeds, pairs, one at a time."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy.stats import norm, t

from ssiuu.statistics import bootstrap_difference, bootstrap_mean, bootstrap_ratio
from ssiuu.statistics.bootstrap import RESAMPLES, draw_indices

SHAPES = [(1, 1, 9), (3, 1, 8), (1, 2, 7), (3, 2, 12)]


def resampled_ratios(
    above: np.ndarray, below: np.ndarray, entities: list[str], seed: int
) -> list[float]:
    """Draw unlearning seeds, attack seeds and entities; add up every fact of every drawn entity."""
    names = sorted(set(entities))
    sizes = (above.shape[0], above.shape[1], len(names))
    draws = [draw_indices(size, seed + axis) for axis, size in enumerate(sizes)]
    ratios = []
    for resample in range(RESAMPLES):
        top = bottom = 0.0
        for first in draws[0][resample]:
            for second in draws[1][resample]:
                for chosen in draws[2][resample]:
                    for fact, entity in enumerate(entities):
                        if entity == names[chosen]:
                            top += above[first, second, fact]
                            bottom += below[first, second, fact]
        ratios.append(top / bottom)
    return ratios


def percentiles(ratios: list[float], entities: int) -> tuple[float, float]:
    # Hesterberg 2015: cut where a t interval of the uncorrected spread would.
    tail = norm.sf((entities / (entities - 1)) ** 0.5 * t.isf(0.025, entities - 1))
    ordered = sorted(ratios)

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        below = int(place)
        return ordered[below] + (place - below) * (ordered[below + 1] - ordered[below])

    return at(tail), at(1 - tail)


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_loop(shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "ssiuu.statistics.bootstrap.draw_indices", lambda size, seed: draw_indices(size, seed)[:150]
    )
    monkeypatch.setitem(globals(), "RESAMPLES", 150)
    # A counter of its own, so that the shortened draws stay out of the cache of the others.
    from ssiuu.statistics import bootstrap

    monkeypatch.setattr(bootstrap, "draw_counts", bootstrap.draw_counts.__wrapped__)
    rng = random.Random(sum(shape))
    generator = np.random.default_rng(sum(shape))
    entities = [f"e{rng.randrange(shape[2] - 2)}" for _ in range(shape[2])]
    first, second = generator.normal(size=(2, *shape))
    cost = 1 + generator.random(size=shape)
    size = len(set(entities))

    mean = bootstrap_mean(first, entities, seed=4)
    assert mean.value == pytest.approx(first.mean())
    wanted = percentiles(resampled_ratios(first, np.ones(shape), entities, 4), size)
    assert mean[1:] == pytest.approx(wanted)

    ratio = bootstrap_ratio(first, cost, entities, seed=5)
    assert ratio is not None and ratio.value == pytest.approx(first.sum() / cost.sum())
    assert ratio[1:] == pytest.approx(percentiles(resampled_ratios(first, cost, entities, 5), size))

    difference = bootstrap_difference(first, second, entities)
    assert difference.value == pytest.approx(first.mean() - second.mean())
    low, high = percentiles(resampled_ratios(first - second, np.ones(shape), entities, 0), size)
    few = size < 6
    assert difference[1:] == pytest.approx((min(low, 0), max(high, 0)) if few else (low, high))

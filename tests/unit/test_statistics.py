"""Wilson intervals against scipy's, and how they widen; bootstrap over clusters; the next draw."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from ssiuu.statistics import next_draw, wilson

counts = st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@settings(max_examples=60, deadline=None)
@given(counts, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_equals_scipy(count: tuple[int, int], confidence: float) -> None:
    k, n = count
    found = wilson(k, n, confidence)
    wanted = binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert found.share == k / n
    assert found.low == pytest.approx(wanted.low, abs=1e-9)
    assert found.high == pytest.approx(wanted.high, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(counts, st.integers(1, 40))
def test_looks_are_bonferroni(count: tuple[int, int], looks: int) -> None:
    k, n = count
    found = wilson(k, n, 0.95, looks)
    wanted = binomtest(k, n).proportion_ci(1 - 0.05 / looks, method="wilson")
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-7)
    wider = wilson(k, n, 0.95, looks + 1)
    assert wider.high - wider.low > found.high - found.low


@settings(max_examples=60, deadline=None)
@given(counts)
def test_holds_its_share_and_mirrors(count: tuple[int, int]) -> None:
    k, n = count
    found, mirror = wilson(k, n), wilson(n - k, n)
    rounding = 1e-12  # the ends of 0 of n and n of n are computed, not set
    assert 0 <= found.low <= found.share + rounding
    assert found.share - rounding <= found.high <= 1
    assert found.low == pytest.approx(1 - mirror.high, abs=1e-12)


def test_none_and_all_of_ten() -> None:
    """0 of n ends at z^2 / (n + z^2)."""
    z2 = 1.959963984540054**2
    assert wilson(0, 10) == pytest.approx((0.0, 0.0, z2 / (10 + z2)))
    assert wilson(10, 10) == pytest.approx((1.0, 10 / (10 + z2), 1.0))


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 5), (6, 5), (0, -2)])
def test_impossible_counts_are_refused(k: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"got {k}/{n}"):
        wilson(k, n)


@pytest.mark.parametrize("given", [{"confidence": 1.0}, {"confidence": 0.0}, {"looks": 0}])
def test_impossible_coverage_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="got"):
        wilson(1, 2, **given)


def test_next_draw_covers_the_next_draw() -> None:
    rng = random.Random(1)
    inside = 0
    for _ in range(2000):
        *seen, new = (rng.gauss(3, 2) for _ in range(5))
        interval = next_draw(seen)
        inside += interval.low <= new <= interval.high
    assert inside / 2000 == pytest.approx(0.95, abs=0.015)
    assert next_draw([2.0, 2.0]) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="at least 2"):
        next_draw([1.0])

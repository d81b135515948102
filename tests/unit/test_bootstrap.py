"""The bootstrap: known cases, coverage, pairing, clusters, seeds, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssiuu.statistics import (
    Estimate,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_ratio,
    differs,
)


def names(count: int) -> list[str]:
    return [f"e{index}" for index in range(count)]


def width(estimate: Estimate) -> float:
    return estimate.high - estimate.low


def of(*values: float) -> np.ndarray:
    """Outcomes of one seed and one attack seed."""
    return np.array(values, dtype=float)[None, None]


# --- known cases ----------------------------------------


def test_equal_outcomes_have_no_spread() -> None:
    assert bootstrap_mean(of(*[0.7] * 9), names(9)) == pytest.approx((0.7, 0.7, 0.7))
    assert bootstrap_difference(of(*[1] * 9), of(*[1] * 9), names(9)) == (0, 0, 0)


def test_the_interval_of_a_mean_is_near_the_normal_one() -> None:
    """For many facts: mean ± 1.96 s / sqrt(n)."""
    values = np.random.default_rng(0).normal(3, 2, size=(1, 1, 900))
    found = bootstrap_mean(values, names(900))
    half = 1.96 * values.std() / 30
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.01)


def test_the_share_of_the_way_back() -> None:
    lost, back = of(4, 2, 6, 8, 2, 4, 6, 4), of(2, 1, 3, 4, 1, 2, 3, 2)
    assert bootstrap_ratio(back, lost, names(8)) == pytest.approx((0.5, 0.5, 0.5))


def test_a_ratio_to_what_may_be_nothing_is_none() -> None:
    lost = of(3, -2, 1, -1, 2, 0)
    assert bootstrap_ratio(of(1, 1, 1, 1, 1, 1), lost, names(6)) is None
    assert bootstrap_ratio(of(1, 1, 1), of(-1, -1, -1), names(3)) is None


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(0.01, 0.2, True), (-0.2, -0.01, True), (0.0, 0.2, False), (-0.1, 0.1, False), (-0.2, 0.0, False)],
)
def test_only_an_interval_without_0_differs(low: float, high: float, wanted: bool) -> None:
    assert differs(Estimate((low + high) / 2, low, high)) is wanted


@pytest.mark.parametrize(("changed", "wanted"), [(3, False), (5, False), (6, True), (12, True)])
def test_fewer_than_six_changed_entities_never_differ(changed: int, wanted: bool) -> None:
    first = of(*[1] * changed, *[0] * (40 - changed))
    found = bootstrap_difference(first, of(*[0] * 40), names(40))
    assert found.value == pytest.approx(changed / 40)
    assert differs(found) is wanted


# --- coverage ----------------------------------------


def test_coverage_at_nominal_95_and_error_at_nominal_5() -> None:
    """300 made-up runs of 36 facts of 18 entities whose outcomes hang together."""
    rng = np.random.default_rng(7)
    entities = [name for name in names(18) for _ in range(2)]
    held = wrong = 0
    for _ in range(300):
        # A fact follows its entity, and the second method follows the first, most of the time.
        entity = np.repeat(rng.random(18) < 0.4, 2)
        first, second = (np.where(rng.random(36) < 0.7, entity, rng.random(36) < 0.4) for _ in "ab")
        mean = bootstrap_mean(of(*first), entities)
        held += mean.low <= 0.4 <= mean.high
        wrong += differs(bootstrap_difference(of(*first), of(*second), entities))
    assert 0.90 <= held / 300 <= 0.99
    assert wrong / 300 <= 0.08


def test_coverage_holds_with_crossed_seeds() -> None:
    """150 made-up runs of 5 x 5 seeds and 40 facts, each seed a fifth as variable as a fact."""
    rng = np.random.default_rng(8)
    held = 0
    for _ in range(150):
        noise = [(1, 1, 40), (5, 1, 1), (1, 5, 1), (5, 5, 40)]
        values = sum(
            scale * rng.normal(size=s) for scale, s in zip((1, 0.2, 0.2, 1), noise, strict=True)
        )
        found = bootstrap_mean(values, names(40))
        held += found.low <= 0 <= found.high
    assert 0.90 <= held / 150 <= 0.995


# --- what must change the interval, and what must not ----------------------------------------


def test_pairing_narrows_the_interval_of_methods_that_go_together() -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(size=60)
    first, second = base + 0.1 * rng.normal(size=60), base + 0.1 * rng.normal(size=60)
    paired = bootstrap_difference(of(*first), of(*second), names(60))
    shuffled = bootstrap_difference(of(*first), of(*rng.permutation(second)), names(60))
    assert paired.value == pytest.approx(shuffled.value)
    assert width(paired) < width(shuffled) / 4


def test_facts_of_one_entity_count_as_one() -> None:
    """Each outcome four times over, under the same entity, tells nothing new."""
    values = np.random.default_rng(4).random(12)
    once = bootstrap_mean(of(*values), names(12))
    fourfold = bootstrap_mean(of(*np.tile(values, 4)), names(12) * 4)
    assert fourfold == pytest.approx(once)
    apart = bootstrap_mean(of(*np.tile(values, 4)), names(48))
    assert width(apart) < 0.6 * width(once)


def test_seeds_that_disagree_widen_the_interval() -> None:
    values = np.random.default_rng(5).random((1, 1, 30))
    alike = bootstrap_mean(np.repeat(values, 3, axis=0), names(30))
    assert alike == pytest.approx(bootstrap_mean(values, names(30)))
    shifted = values + np.array([-0.3, 0.0, 0.3])[:, None, None]
    assert width(bootstrap_mean(shifted, names(30))) > 1.5 * width(alike)


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(14)), st.permutations(range(2)))
def test_the_order_of_facts_and_the_sign_are_no_matter(order: list[int], methods: list[int]) -> None:
    rng = np.random.default_rng(6)
    pair = rng.random((2, 2, 1, 14))
    entities = [f"e{index % 8}" for index in range(14)]
    plain = bootstrap_difference(pair[0], pair[1], entities)
    moved = pair[..., order][methods]
    found = bootstrap_difference(moved[0], moved[1], [entities[index] for index in order])
    if methods[0]:
        found = Estimate(-found.value, -found.high, -found.low)
    assert found == pytest.approx(plain)


def test_the_same_seed_gives_the_same_interval_and_another_hardly_another() -> None:
    values = np.random.default_rng(9).random((1, 1, 50))
    first = bootstrap_mean(values, names(50), seed=1)
    assert bootstrap_mean(values, names(50), seed=1) == first
    other = bootstrap_mean(values, names(50), seed=20)
    assert other != first
    assert other == pytest.approx(first, abs=0.01)


def test_more_confidence_is_wider() -> None:
    values = np.random.default_rng(10).random((1, 1, 50))
    wide = bootstrap_mean(values, names(50), confidence=0.99)
    assert width(wide) > 1.2 * width(bootstrap_mean(values, names(50)))


# --- refusals ----------------------------------------


@pytest.mark.parametrize(
    ("values", "entities", "words"),
    [
        (np.zeros((1, 1, 0)), [], "at least one of each"),
        (np.zeros((0, 1, 2)), ["a", "b"], "at least one of each"),
        (np.zeros(3), names(3), "shape \\(3,\\)"),
        (np.zeros((1, 1, 3)), names(2), "2 entities"),
        (of(1, 2, 3), ["a"] * 3, "at least two entities"),
        (of(1, float("nan")), names(2), "finite"),
        (of(1, float("inf")), names(2), "finite"),
    ],
)
def test_what_cannot_be_resampled_is_refused(values: Any, entities: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        bootstrap_mean(values, entities)
    with pytest.raises(ValueError, match=words):
        bootstrap_difference(values, values, entities)
    with pytest.raises(ValueError, match=words):
        bootstrap_ratio(values, np.abs(values), entities)


def test_pairs_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape to pair, got \(1, 1, 4\) and \(2, 1, 4\)"):
        bootstrap_difference(np.zeros((1, 1, 4)), np.zeros((2, 1, 4)), names(4))
    with pytest.raises(ValueError, match="one shape to pair"):
        bootstrap_ratio(np.zeros((1, 1, 4)), np.zeros((1, 3, 4)), names(4))


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0])
def test_impossible_confidence_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match=f"got {confidence}"):
        bootstrap_mean(of(1, 2), names(2), confidence=confidence)

"""TOFU's scores against hand-computed cases and a literal copy of their definitions.

pytest tests/unit/test_tofu_scores.py
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssiuu.evaluation.rouge import rouge_recall
from ssiuu.statistics.tofu import (
    forget_quality,
    forget_truth_ratio,
    kept_truth_ratio,
    model_utility,
    normalised_probability,
    privleak,
    probability,
    truth_ratio,
    truth_ratio_geometric,
)

logprobs = st.floats(-30, -0.01)
several = st.lists(logprobs, min_size=1, max_size=5)


def test_probability_is_a_geometric_mean() -> None:
    assert probability((math.log(0.9) + math.log(0.4)) / 2) == pytest.approx(0.6)


def test_normalised_probability_by_hand() -> None:
    half, quarter = math.log(0.5), math.log(0.25)
    assert normalised_probability(half, [quarter, quarter, half]) == pytest.approx(1 / 3)
    assert normalised_probability(-5000.0, [-5000.0, -5000.0]) == pytest.approx(1 / 3)  # no underflow


@settings(max_examples=50, deadline=None)
@given(logprobs, several, st.floats(-20, 20))
def test_normalised_probability_is_the_share(right: float, wrong: list[float], shift: float) -> None:
    wanted = math.exp(right) / (math.exp(right) + sum(map(math.exp, wrong)))
    assert normalised_probability(right, wrong) == pytest.approx(wanted)
    shifted = normalised_probability(right + shift, [w + shift for w in wrong])
    assert shifted == pytest.approx(wanted)


def test_truth_ratios_by_hand() -> None:
    """Of 1/4 and 1/16 the mean is 5/32 and the geometric mean 1/8; both over 1/2."""
    wrong = [math.log(0.25), math.log(0.0625)]
    assert truth_ratio(math.log(0.5), wrong) == pytest.approx(5 / 16)
    assert truth_ratio_geometric(math.log(0.5), wrong) == pytest.approx(1 / 4)
    for ratio in (truth_ratio, truth_ratio_geometric):
        assert math.isfinite(ratio(-5000.0, [-1.0])) and ratio(-1.0, [-5000.0]) == 0
        assert ratio(-5000.0, [-5001.0, -5001.0]) == pytest.approx(math.exp(-1))  # no underflow


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(logprobs, several), min_size=1, max_size=6))
def test_truth_ratios_are_the_published_ones(items: list[tuple[float, list[float]]]) -> None:
    """Word for word from losses: the mean of probabilities, and the probability of the mean loss."""
    right = np.array([-p for p, _ in items])
    arithmetic = np.array([np.mean(np.exp(wrong)) for _, wrong in items]) / np.exp(-right)
    geometric = np.exp(-np.array([np.mean([-p for p in wrong]) for _, wrong in items])) / np.exp(-right)
    for kind, wanted in ((truth_ratio, arithmetic), (truth_ratio_geometric, geometric)):
        found = [kind(p, wrong) for p, wrong in items]
        assert found == pytest.approx(wanted)
        assert forget_truth_ratio(found) == pytest.approx(np.mean(np.minimum(wanted, 1 / wanted)))
        assert kept_truth_ratio(found) == pytest.approx(np.mean(np.maximum(0, 1 - wanted)))
    assert all(geometric <= arithmetic * (1 + 1e-9))


def test_privleak_by_hand() -> None:
    """Against a control that cannot tell (0.5): all known is -100, all stand out is +100."""
    assert privleak(0.5, 0.5) == 0
    assert privleak(1.0, 0.5) == -100 and privleak(0.0, 0.5) == 100
    assert privleak(0.7, 0.6) == pytest.approx(100 * ((1 - 0.7) - (1 - 0.6)) / (1 - 0.6))
    assert privleak(0.7, 1.0) is None


def test_aggregates_of_truth_ratios_by_hand() -> None:
    assert forget_truth_ratio([0.25, 4.0]) == 0.25  # min(t, 1/t) does not know t from 1/t
    assert forget_truth_ratio([1.0, 1.0]) == 1
    assert forget_truth_ratio([0.0]) == 0
    assert kept_truth_ratio([0.25, 4.0, 0.0]) == pytest.approx((0.75 + 0 + 1) / 3)


def test_model_utility_is_a_harmonic_mean() -> None:
    assert model_utility([1.0] * 8 + [0.5]) == pytest.approx(9 / 10)
    assert model_utility([0.7] * 9) == pytest.approx(0.7)
    assert model_utility([0.9] * 8 + [0.0]) == 0


def test_forget_quality_by_hand() -> None:
    """Two and two values that do not overlap: 2 of the 6 orders are as extreme."""
    assert forget_quality([1.0, 2.0], [3.0, 4.0]) == pytest.approx(1 / 3)
    assert forget_quality([0.3, 0.5, 0.9], [0.3, 0.5, 0.9]) == 1
    apart = forget_quality([0.1 + i for i in range(40)], [100.0 + i for i in range(40)])
    assert apart == pytest.approx(2 / math.comb(80, 40))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=9),
    st.lists(st.integers(1, 9), min_size=2, max_size=9),
)
def test_forget_quality_only_knows_the_order(one: list[int], other: list[int]) -> None:
    """TOFU takes it of the reciprocals, which is the same."""
    found = forget_quality([float(t) for t in one], [float(t) for t in other])
    assert forget_quality([1 / t for t in one], [1 / t for t in other]) == pytest.approx(found)


def test_rouge_recall_by_hand() -> None:
    """Of the stems "the cat sat" the text has "cat sat" in order, and nothing costs what is added."""
    assert rouge_recall("The cats sat.", "a cat then sat down on it") == pytest.approx(2 / 3)
    assert rouge_recall("The cats sat.", "sat cat") == pytest.approx(1 / 3)
    assert rouge_recall("The cats sat.", "the cats sat and sat") == 1
    assert rouge_recall("The cats sat.", "") == 0

"""OpenUnlearning's overall scores: by hand, at their limits, and from a record word for word.

pytest tests/unit/test_aggregates.py
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hmean

from sample_record import sample_record
from ssiuu.analysis.columns import columns, models, shown
from ssiuu.analysis.rows import rows
from ssiuu.analysis.scores import score_of
from ssiuu.analysis.scores.aggregates import AUCS, GROUP
from ssiuu.records.schema import AttackCurve, Cell, Evaluation, FactScore, RunRecord
from ssiuu.statistics.aggregates import alignment, forgotten, harmonic, kept, knowledge, memorisation

PARTS = st.lists(st.floats(0.001, 1), min_size=2, max_size=6)
UNIT = st.floats(0.001, 0.999)


def test_memorisation_by_hand() -> None:
    """Gone: 1/2, 3/4, 1 and 1/5."""
    found = memorisation([0.25, 0.2, 0.0, 0.4], [0.5, 0.8, 0.1, 0.5])
    assert found == pytest.approx(4 / (2 + 4 / 3 + 1 + 5))


def test_memorisation_at_its_limits() -> None:
    before = [0.7, 0.9, 0.1, 0.6]
    assert memorisation(before, before) == 0
    assert memorisation([0.0] * 4, before) == 1
    assert memorisation([0.0, 0.0, 0.0, 0.6], before) == 0  # one that is all there
    assert memorisation([0.0, 0.0, 0.2, 0.0], before) == 0  # one that grew
    assert memorisation([0.0] * 4, [0.7, 0.9, 0.0, 0.6]) is None  # nothing there to be forgotten


@given(st.lists(st.tuples(UNIT, UNIT), min_size=4, max_size=4), st.floats(0.1, 10))
def test_memorisation_does_not_depend_on_order_and_unit(
    pairs: list[tuple[float, float]], unit: float
) -> None:
    now, before = zip(*pairs, strict=True)
    found = memorisation(now, before)
    assert found == pytest.approx(memorisation(now[::-1], before[::-1]))
    scaled = memorisation([unit * n for n in now], [unit * b for b in before])
    assert found == pytest.approx(scaled, abs=1e-9)


@given(PARTS)
def test_harmonic_is_scipys_and_between_the_least_and_twice_it_of_two(parts: list[float]) -> None:
    assert harmonic(parts) == pytest.approx(float(hmean(parts)))
    assert min(parts) <= harmonic(parts) * (1 + 1e-12) and harmonic(parts) <= max(parts) * (1 + 1e-12)
    assert harmonic([parts[0], 1.0]) == pytest.approx(2 * parts[0] / (1 + parts[0]))
    assert harmonic([*parts, 0.0]) == 0


def test_what_is_gone_and_what_is_kept() -> None:
    assert forgotten(0.1, 0.4) == pytest.approx(0.75) and forgotten(0.5, 0.4) == 0
    assert kept(0.3, 0.4) == pytest.approx(0.75) and kept(0.5, 0.4) == 1
    assert forgotten(0.1, 0.0) is None and kept(0.1, 0.0) is None


def test_knowledge_by_hand() -> None:
    """Right and wrong alike: 1/2; the wrong ones three times as likely: 1/4."""
    assert knowledge([1.0, 3.0]) == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert knowledge([0.0]) == 1 and knowledge([math.inf]) == 0


def test_alignment_by_hand_and_at_its_limits() -> None:
    assert alignment(0.6, 0.4, 1.0) == pytest.approx(2 / 3)
    assert alignment(0.4, 0.4, 1.0) == 1 and alignment(1.0, 0.4, 1.0) == 0
    assert alignment(0.0, 0.4, 0.6) == 0  # farther off on the other side
    assert alignment(0.5, 0.4, 0.4) is None


@given(UNIT, UNIT, UNIT)
def test_alignment_does_not_depend_on_who_is_the_member(
    auc: float, retrained: float, before: float
) -> None:
    found, turned = alignment(auc, retrained, before), alignment(1 - auc, 1 - retrained, 1 - before)
    if abs(before - retrained) > 1e-6:
        assert found == pytest.approx(turned, abs=1e-6)


def test_the_papers_models_come_near_its_table() -> None:
    """The retained 1B model: 0.31 and 0.99 in Table 3; the one before unlearning: 0.00 and 1.00.

    What is measured of the two published models is gnueaj/unlearning-depth-score's (its
    runs/ep10/memorization), model utility OpenUnlearning's own (docs/repro.md). Divided by nothing,
    memorisation would be 0.58 and 0.10.
    """
    full, retained = [0.6792, 0.9681, 0.1048, 0.6822], [0.0590, 0.5901, 0.0551, 0.5671]
    assert memorisation(full, full) == 0
    assert memorisation(retained, full) == pytest.approx(0.31, abs=0.04)
    assert kept(0.59, 0.60) == pytest.approx(0.99, abs=0.01)
    assert harmonic([1 - x for x in retained]) > 0.55 and harmonic([1 - x for x in full]) > 0.09


# --- of a record ----------------------------------------------------------------------------------


def evaluated(level: float, ratios: tuple[float, ...] = (0.5, 2.0)) -> Evaluation:
    """Return an evaluation whose every score is `level`, but for the truth ratios."""
    scores = {
        f"f{place}": FactScore(
            correct=True,
            logprob=-1.0,
            tokens=2,
            probability=level,
            reworded_probability=level / 2,
            rouge=level,
            truth_ratio=ratio,
            truth_ratio_geometric=ratio,
            extraction_strength=level,
            exact_memorisation=level,
        )
        for place, ratio in enumerate(ratios)
    }
    others = {"real_authors": scores, "world_facts": scores}
    return Evaluation(forget=scores, retain=scores, heldout={}, others=others, seconds=1.0)


def a_run(score: str, aucs: dict[str, float], **changes: Any) -> RunRecord:
    """Return a run of `none`, a method and the control, with one AUC for all four scores of each."""
    record = sample_record()
    levels = {"none": evaluated(0.8), "gd": evaluated(0.2, (0.5, 1.0)), "never-learned": evaluated(0.4)}
    cells = []
    for name, evaluation in levels.items():
        method = record.cells[0].method.model_copy(update={"name": name, "label": name})
        curves = []
        if name in aucs:
            values = dict.fromkeys(AUCS, aucs[name])
            curves = [
                AttackCurve(
                    name="membership",
                    kind="membership",
                    learning_rate=0.0,
                    seed=0,
                    trained=[],
                    pool=[],
                    reads=[],
                    values=values,
                    seconds=0.0,
                )
            ]
        cells.append(Cell(method=method, seed=0, evaluation=evaluation, attacks=curves))
    others = {"real_authors": [], "world_facts": []}
    split = record.header.split.model_copy(update={"others": others})
    header = record.header.model_copy(update={"score": score, "split": split})
    told = {"header": header, "cells": cells, "original": levels["none"], **changes}
    return record.model_copy(update=told)


@pytest.mark.parametrize("score", ["sentences", "open-unlearning"])
def test_the_columns_of_a_run_word_for_word(score: str) -> None:
    run = a_run(score, {"none": 0.9, "gd": 0.2, "never-learned": 0.4})
    before, none, gd, never = ({c.key: c.read(m) for c in columns(run)} for m in models(run))
    # 0.8 -> 0.2 of three scores; the truth ratio is (2/3 + 1/3) / 2 = 1/2 -> (2/3 + 1/2) / 2 = 7/12.
    assert gd["truth_ratio_knowledge"] == pytest.approx(7 / 12)
    assert gd["memorisation_score"] == 0  # it knows the answers the better of the wrong ones
    assert never["memorisation_score"] == 0 and never["privacy_alignment"] == 1
    for row in (before, none):
        assert (row["memorisation_score"], row["utility_without_fluency"]) == (0, 1)
        assert row["privacy_alignment"] == 0 and row["overall_alignment"] == 0
    privacy = Fraction(3, 5)  # 0.2 from the control, and 0.5 before
    assert gd["privacy_alignment"] == pytest.approx(float(privacy))
    # Probability and ROUGE-L 0.8 -> 0.2, and max(0, 1 - t) 1/4 on three sets.
    now, then = (hmean([p, p, 0.25] * 3) for p in (0.2, 0.8))
    assert gd["utility_without_fluency"] == pytest.approx(now / then)
    assert gd["overall_alignment"] == 0


def test_the_overall_scores_are_harmonic_means() -> None:
    run = a_run("sentences", {"none": 0.9, "gd": 0.2, "never-learned": 0.4})
    cells = list(run.cells)
    cells[1] = cells[1].model_copy(update={"evaluation": evaluated(0.2, (1.0, 3.0))})
    row = rows(run.model_copy(update={"cells": cells}))["rows"][1]
    gone = [Fraction(3, 4)] * 3 + [1 - Fraction(3, 8) / Fraction(1, 2)]
    wanted = float(4 / sum(1 / part for part in gone))
    assert row["memorisation_score"] == pytest.approx(wanted)
    assert row["utility_without_fluency"] == 0  # no truth ratio below 1 is left
    assert row["overall_without_privacy"] == 0
    parts = [row["memorisation_score"], row["privacy_alignment"], row["utility_without_fluency"]]
    assert row["overall_alignment"] == harmonic(parts)


@pytest.mark.parametrize(
    ("aucs", "changes", "told", "lacks"),
    [
        ({}, {}, "privacy, which takes membership inference on the method none", "privacy_alignment"),
        (
            {"none": 0.9, "gd": 0.5},
            {},
            "privacy, which takes membership inference on the never-learned control",
            "privacy_alignment",
        ),
        (
            {"none": 0.9, "never-learned": 0.4},
            {"original": None},
            "memorisation and utility, as the model before unlearning was not evaluated",
            "memorisation_score",
        ),
    ],
)
def test_what_is_missing_is_said_and_not_guessed(
    aucs: dict[str, float], changes: dict[str, Any], told: str, lacks: str
) -> None:
    run = a_run("open-unlearning", aucs, **changes)
    assert told in score_of(run).notes(run)[GROUP]
    assert all(row[lacks] is None and row["overall_alignment"] is None for row in rows(run)["rows"])
    assert lacks not in {column.key for column in shown(run)}


def test_a_record_of_before_the_reworded_probability_says_so() -> None:
    run = a_run("sentences", {})
    assert run.original is not None
    older = {
        fact: score.model_copy(update={"reworded_probability": None})
        for fact, score in run.original.forget.items()
    }
    original = run.original.model_copy(update={"forget": older})
    run = run.model_copy(update={"original": original})
    assert "older than the probability of the reworded answer" in score_of(run).notes(run)[GROUP]
    assert all(row["memorisation_score"] is None for row in rows(run)["rows"])

"""Comparisons: from the outcomes of facts to what may be called better."""

from __future__ import annotations

from typing import Any

import pytest

from sample_record import sample_record
from ssiuu.analysis.columns import columns, compared
from ssiuu.analysis.comparisons import (
    Comparison,
    baseline,
    compare,
    outcomes,
    row_intervals,
    score_level,
)
from ssiuu.analysis.levels import Point, looks, of_name, strongest_setting
from ssiuu.analysis.rows import rows
from ssiuu.errors import ConfigError
from ssiuu.records.schema import (
    AttackCurve,
    AttackRead,
    Cell,
    Evaluation,
    FactScore,
    Reading,
    RunRecord,
)
from ssiuu.statistics import wilson

KEPT = ("Forget set", "Kept")


@pytest.fixture(scope="module")
def record() -> RunRecord:
    return sample_record()


def cell_of(record: RunRecord, label: str) -> Cell:
    return next(cell for cell in record.cells if cell.method.label == label)


def relabelled(cell: Cell, label: str, **changes: Any) -> Cell:
    method = cell.method.model_copy(update={"label": label})
    return cell.model_copy(update={"method": method, **changes})


def with_cells(record: RunRecord, *cells: Cell) -> RunRecord:
    return record.model_copy(update={"cells": list(cells)})


def answering(cell: Cell, **shares: float) -> Cell:
    """Return the cell with this share of each named set right (the first facts of it)."""
    sets: dict[str, dict[str, FactScore]] = {}
    for name, share in shares.items():
        assert cell.evaluation is not None
        scores = getattr(cell.evaluation, name)
        right = round(share * len(scores))
        sets[name] = {
            fact: score.model_copy(update={"correct": place < right})
            for place, (fact, score) in enumerate(scores.items())
        }
    assert cell.evaluation is not None
    return cell.model_copy(update={"evaluation": cell.evaluation.model_copy(update=sets)})


def one(found: list[Comparison], label: str, column: str) -> Comparison:
    (comparison,) = [c for c in found if (c.label, c.column) == (label, column)]
    return comparison


def curve(seed: int, rate: float, *levels: str, name: str = "benign") -> AttackCurve:
    """Return an attack whose readings are given as a string of 0 and 1, one a fact."""
    reads = [
        AttackRead(
            step=step,
            facts={f"f{i}": Reading(correct=c == "1", logprob=-1.0) for i, c in enumerate(level)},
        )
        for step, level in enumerate(levels)
    ]
    return AttackCurve(
        name=name,
        kind=name,
        learning_rate=rate,
        seed=seed,
        trained=[],
        pool=list(reads[0].facts),
        reads=reads,
        seconds=1.0,
    )


# --- the same numbers as the table ----------------------------------------


def test_outcomes_average_to_the_numbers_of_the_table(record: RunRecord) -> None:
    for cell, row in zip(record.cells, rows(record)["rows"], strict=True):
        intervals = row_intervals(record, cell)
        for column in (found.key for found in compared(record)):
            table = outcomes(record, cell, column)
            values = [v for by_seed in table.values() for v in by_seed.values()]
            assert sum(values) / len(values) == pytest.approx(row[column]), (row["method"], column)
            estimate = intervals[column]
            assert estimate.value == pytest.approx(row[column])
            assert estimate.low <= estimate.value <= estimate.high


def test_single_accuracies_have_wilsons_interval_widened_for_the_curves(record: RunRecord) -> None:
    cell = cell_of(record, "npo")
    intervals = row_intervals(record, cell)
    right = sum(score.correct for score in cell.evaluation.retain.values())
    assert tuple(intervals["retain"]) == pytest.approx(wilson(right, 16))
    assert looks(cell.attacks, "harmful-0.3") == 2 and looks(cell.attacks, "quantize-int8") == 1
    scored = len(outcomes(record, cell, "harmful-0.3"))
    right = round(intervals["harmful-0.3"].value * scored)
    assert tuple(intervals["harmful-0.3"]) == pytest.approx(wilson(right, scored, looks=2))


def test_paraphrases_of_a_fact_are_one_cluster(record: RunRecord) -> None:
    cell = cell_of(record, "npo")
    found = outcomes(record, cell, "forget_paraphrase")
    assert len(found) == 2 * 24 - 1  # one was not scored
    assert score_level(record, [found]) != pytest.approx(
        wilson(int(sum(v[0] for v in found.values())), 47)
    )


def test_what_was_not_scored_has_no_interval(record: RunRecord) -> None:
    empty = cell_of(record, "gd").model_copy(update={"evaluation": None, "attacks": []})
    assert row_intervals(record, empty) == {}
    assert score_level(record, []) is None


# --- the strongest point ----------------------------------------


def strongest_points(attacks: list[AttackCurve], name: str, pool: list[str]) -> tuple[Point, ...]:
    best = strongest_setting(of_name(attacks, name), pool)
    return best.points if best else ()


def test_the_strongest_point_is_each_seeds_own_under_the_best_setting() -> None:
    attacks = [
        # One seed of this rate peaks at 4 of 4, the other at 0: a mean of 2.
        curve(0, 1e-5, "0000", "1111", "1000"),
        curve(1, 1e-5, "1111", "0000", "0000"),
        # Peaks of 3 and 2, at different steps: 2.5.
        curve(0, 1e-4, "0000", "1110", "1100"),
        curve(1, 1e-4, "0000", "0000", "1100"),
    ]
    points = strongest_points(attacks, "benign", [f"f{i}" for i in range(4)])
    assert [(attack.learning_rate, attack.seed, place) for attack, place, _ in points] == [
        (1e-4, 0, 1),
        (1e-4, 1, 2),
    ]
    method = sample_record().cells[0].method
    cell = Cell(method=method, seed=0, attacks=attacks)
    found = outcomes(sample_record(), cell, "benign")
    assert found[("f0", 0)] == {0: 1.0, 1: 1.0} and found[("f2", 0)] == {0: 1.0, 1: 0.0}


def test_step_0_is_no_attack_unless_there_is_no_other_and_nothing_is_no_point() -> None:
    (point,) = strongest_points([curve(0, 1e-5, "11", "00", "10")], "benign", ["f0", "f1"])
    assert point[1] == 2
    (point,) = strongest_points([curve(0, 1e-5, "11")], "benign", ["f0"])  # diverged at once
    assert point[1] == 0
    assert strongest_points([curve(0, 1e-5, "11", "00")], "harmful", ["f0"]) == ()
    assert strongest_points([curve(0, 1e-5, "11", "00")], "benign", []) == ()


# --- what is called better ----------------------------------------


def test_nothing_is_better_where_the_interval_holds_0(record: RunRecord) -> None:
    found = compare(record)
    assert {c.baseline for c in found} == {"gd"}
    assert len(found) == 4 * len(compared(record))
    for comparison in found:
        holds = comparison.difference.low <= 0 <= comparison.difference.high
        assert comparison.differs is not holds
        if holds:
            assert comparison.better is None and comparison.direction is None
    assert any(c.better for c in found) and any(c.better is False for c in found)


def test_a_method_does_not_differ_from_itself(record: RunRecord) -> None:
    gd = cell_of(record, "gd")
    for comparison in compare(with_cells(record, gd, relabelled(gd, "twin"))):
        assert comparison.difference == (0, 0, 0)
        assert not comparison.differs and comparison.better is None


def test_better_follows_the_wanted_direction(record: RunRecord) -> None:
    gd = answering(cell_of(record, "gd"), forget=0.75, retain=0.9, heldout=0.2)
    other = answering(relabelled(gd, "other"), forget=0.1, retain=0.2, heldout=0.9)
    found = compare(with_cells(record, gd, other))
    assert {c.column: c.better for c in found if c.column in ("forget", "retain", "heldout")} == {
        "forget": True,
        "retain": False,
        "heldout": True,
    }
    assert one(found, "other", "forget").direction == "lower"
    assert one(found, "other", "retain").difference.value == pytest.approx((3 - 14) / 16)


def test_less_than_guessing_is_no_merit(record: RunRecord) -> None:
    gd = answering(cell_of(record, "gd"), forget=8 / 24)
    other = answering(relabelled(gd, "other"), forget=0.0)
    comparison = one(compare(with_cells(record, gd, other)), "other", "forget")
    assert comparison.differs and comparison.direction == "lower"
    assert comparison.better is None


def test_a_fact_that_one_side_lacks_is_left_out_of_both(record: RunRecord) -> None:
    gd = answering(cell_of(record, "gd"), heldout=1.0)
    scores = dict(gd.evaluation.heldout)
    first = next(iter(scores))
    scores[first] = scores[first].model_copy(update={"correct": None})
    evaluation = gd.evaluation.model_copy(update={"heldout": scores})
    base = gd.model_copy(update={"evaluation": evaluation})
    found = one(compare(with_cells(record, base, relabelled(gd, "x"))), "x", "heldout")
    assert found.items == 15 and found.difference == (0, 0, 0)


def test_seeds_are_crossed_over_those_that_both_have(record: RunRecord) -> None:
    gd = cell_of(record, "gd")
    other = relabelled(cell_of(record, "npo"), "npo")
    cells = [gd, other, gd.model_copy(update={"seed": 1}), other.model_copy(update={"seed": 1})]
    two = compare(with_cells(record, *cells, other.model_copy(update={"seed": 2})))
    (alone,) = [c for c in compare(with_cells(record, gd, other)) if c.column == "heldout"]
    both = one(two, "npo", "heldout")
    assert both.seeds == 2 and alone.seeds == 1
    # The same seed twice: nothing new.
    assert both.difference == pytest.approx(alone.difference)
    attacked = one(two, "npo", "harmful-0.3")
    assert attacked.seeds == 2 and attacked.items == len(outcomes(record, gd, "harmful-0.3"))


def test_a_level_pools_what_each_seed_was_scored_on(record: RunRecord) -> None:
    cell = cell_of(record, "npo")
    table = outcomes(record, cell, "forget")
    items = list(table)
    halves = [{i: table[i] for i in items[:16]}, {i: table[i] for i in items[8:]}]
    pooled = [table[i][0] for half in halves for i in half]
    found = score_level(record, halves)
    assert found is not None and found.value == pytest.approx(sum(pooled) / len(pooled))
    assert found.low < found.value < found.high


# --- the baseline ----------------------------------------


def test_the_baseline_is_gd_or_the_first_that_trains(record: RunRecord) -> None:
    assert baseline(record) == "gd"
    assert baseline(record, "npo") == "npo"
    without = with_cells(record, *(cell for cell in record.cells if cell.method.label != "gd"))
    assert baseline(without) == "npo"
    control = with_cells(record, cell_of(record, "none"))
    assert baseline(control) is None and compare(control) == []


def test_an_unknown_baseline_is_refused_with_the_nearest(record: RunRecord) -> None:
    with pytest.raises(ConfigError, match=r"--baseline: unknown method 'ndo'\. Did you mean 'npo'"):
        compare(record, "ndo")


def test_every_score_reads_its_own_facts(record: RunRecord) -> None:
    sentence = {"rouge": 0.4, "truth_ratio": 2.0}  # TOFU's
    asked = {"other_form": False, "other_free": True}
    score = FactScore(
        correct=True, paraphrases=[False, None], logprob=-1, tokens=1, **sentence, **asked
    )
    forget = {"a": score}
    other = {"b": FactScore(correct=False, logprob=-1, tokens=1, free_correct=True, rouge=0.9)}
    evaluation = Evaluation(forget=forget, retain=other, heldout={}, seconds=1)
    cell = cell_of(record, "gd").model_copy(update={"evaluation": evaluation})
    header = record.header.model_copy(update={"score": "sentences"})
    run = record.model_copy(
        update={"header": header, "cells": [cell.model_copy(update={"attacks": []})]}
    )
    scored = {c.key: outcomes(run, cell, c.key) for c in columns(run) if c.outcomes and c.group in KEPT}
    assert scored == {
        "forget": {("a", 0): {0: 1.0}},
        "forget_paraphrase": {("a", 0): {0: 0.0}},
        "forget_free": {},
        "forget_other": {("a", 0): {0: 0.0}},
        "forget_other_free": {("a", 0): {0: 1.0}},
        "retain": {("b", 0): {0: 0.0}},
        "heldout": {},
        "forget_multi_hop": {},
        "forget_rouge": {("a", 0): {0: 0.4}},
        "retain_free": {("b", 0): {0: 1.0}},
        "heldout_free": {},
        "unrelated_free": {},
        "forget_same_answer": {},
        "heldout_rouge": {},
    }

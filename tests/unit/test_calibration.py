"""Confusion, accuracy and thresholds on facts made by hand; the evidence of a fact from its attacks."""

from __future__ import annotations

import pytest

from ssiuu.analysis.calibration import Known, balanced_accuracy, best_thresholds, confusion
from ssiuu.analysis.verdict import GONE, RETURNED, FactEvidence, fact_evidence, fact_verdict, judge
from ssiuu.records.schema import Attack, AttackRead, FactScore, Reading


def score(
    logprob: float, correct: bool | None = False, paraphrases: tuple[bool, ...] = ()
) -> FactScore:
    return FactScore(correct=correct, paraphrases=list(paraphrases), logprob=logprob, tokens=2)


def attack(readings: list[tuple[float, bool | None]], trained: tuple[str, ...] = ()) -> Attack:
    reads = [
        AttackRead(step=n, facts={"f": Reading(correct=c, logprob=p)})
        for n, (p, c) in enumerate([(-10.0, False), *readings])
    ]
    return Attack(
        name="a",
        kind="harmful",
        learning_rate=1e-3,
        seed=0,
        trained=list(trained),
        pool=["f"],
        reads=reads,
        seconds=0,
    )


def test_evidence_is_the_largest_share_with_and_without_the_rank() -> None:
    before, after = score(0.0, True), score(-10.0)
    attacks = [attack([(-4.0, False), (-7.0, True)]), attack([(-1.0, True)], trained=("f",))]
    assert fact_evidence(before, after, attacks, "f") == FactEvidence(
        True, False, 10.0, pytest.approx(0.3), pytest.approx(0.6)
    )
    assert fact_evidence(before, after, [], "f") == FactEvidence(True, False, 10.0, None, None)
    rose = fact_evidence(score(-10.0), score(-9.0), attacks, "f")
    assert rose == FactEvidence(True, False, -1.0, None, None)  # nothing was lost


@pytest.mark.parametrize(
    ("after", "removed"),
    [
        (score(-0.5, False, (False, True)), True),  # outranked in most phrasings
        (score(-0.9, True, (False,)), False),  # half of them is enough
        (score(-1.0, True, (True,)), True),  # first by luck: the log-probability is gone
        (score(-0.9, None), False),
        (score(-1.5, None), True),
        (score(-1.5, None).model_copy(update={"free_correct": True}), False),
    ],
)
def test_removed(after: FactScore, removed: bool) -> None:
    assert fact_evidence(score(0.0, True), after, [], "f").removed is removed


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (FactEvidence(False, True, 9.0, 1.0, 1.0), "not removed"),
        (FactEvidence(True, False, 9.0, RETURNED, 0.9), "hidden"),
        (FactEvidence(True, False, 9.0, RETURNED - 0.01, 0.9), "undecided"),
        (FactEvidence(True, False, 9.0, None, GONE), "undecided"),
        (FactEvidence(True, False, 9.0, None, GONE - 0.01), "erased"),
        (FactEvidence(True, False, 9.0, 0.1, -2.0), "erased"),
        (FactEvidence(True, True, 9.0, 0.1, 0.1), "undecided"),  # first by luck, or still known
        (FactEvidence(True, False, 9.0, None, None), "undecided"),
    ],
)
def test_rules(found: FactEvidence, verdict: str) -> None:
    assert judge(found) == verdict


def test_verdict_is_the_rules_on_the_evidence() -> None:
    before, after = score(0.0, True), score(-10.0)
    for readings, verdict in (
        ([(-4.0, True)], "hidden"),
        ([(-4.0, False)], "undecided"),
        ([(-9.0, True)], "erased"),
        ([], "undecided"),
    ):
        assert fact_verdict(before, after, [attack(readings)], "f") == verdict


# back and most by class: erased come back up to 0.4, hidden 0.6 and more.
FACTS: list[Known] = [
    *[("erased", FactEvidence(True, False, 9.0, None, most)) for most in (0.0, 0.1, 0.3, 0.4)],
    *[("hidden", FactEvidence(True, False, 9.0, back, back)) for back in (0.6, 0.7, 0.8, 0.9)],
    *[("not removed", FactEvidence(False, True, 9.0, None, None))] * 2,
]


def test_confusion_and_accuracy_by_hand() -> None:
    table = confusion(FACTS)
    assert table["erased"] == {"erased": 2, "hidden": 0, "not removed": 0, "undecided": 2}
    assert table["hidden"]["hidden"] == 4 and table["not removed"]["not removed"] == 2
    assert balanced_accuracy(table) == pytest.approx((0.5 + 1 + 1) / 3)  # classes count alike
    assert balanced_accuracy(confusion([])) is None


def test_best_thresholds_are_the_nearest_that_are_right() -> None:
    returned, gone = best_thresholds(FACTS)
    assert (returned, gone) == (0.5, 0.45)
    assert balanced_accuracy(confusion(FACTS, returned, gone)) == 1.0
    everything_right: list[Known] = [
        ("erased", FactEvidence(True, False, 9.0, None, 0.1)),
        ("hidden", FactEvidence(True, False, 9.0, 0.9, 0.9)),
        ("not removed", FactEvidence(False, True, 9.0, None, None)),
    ]
    assert best_thresholds(everything_right) == (RETURNED, GONE)

"""The verdict from an examination: promised error rates on made-up evidence, bounds, words, refusals."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from scipy.stats import binom

from ssiuu.analysis import calibration
from ssiuu.analysis.calibration import Case, Truth, World, calibrated
from ssiuu.analysis.evidence import (
    DIRECT,
    LEVEL,
    Constants,
    _binomial,
    bounds,
    conformal,
    constants,
    judge,
    related_steps,
    shown,
)
from ssiuu.analysis.verdict import fact_word, model_word
from ssiuu.records.schema import Examination, Place, Trace
from ssiuu.report.answer import sight

PLACES = [
    Place(name="before"),
    Place(name="after"),
    Place(name="read-out", attacker="read-out"),
    Place(name="related", attacker="related", learning_rate=1e-4, step=24),
]
FITTED = Constants(version="test", weights={"nobody": -0.5, "read-out": 1.0, "related": 1.0}, shift=0.0)


def examination(
    lifts: list[float], seed: int = 0, answers: int = 20, level: float = 0.0
) -> Examination:
    """Return an examination whose right answers are lifted by so much at attackers, decoys by nothing."""
    rng, facts = random.Random(seed), {}
    for n, lift in enumerate(lifts):
        rows = [[rng.gauss(0, 1) for _ in range(answers)] for _ in PLACES]
        rows[1][0] += level
        for row in rows[2:]:
            row[0] += lift
        facts[f"f{n}"] = Trace(contrast=[*rows], margin=[0.0] * len(PLACES))
    return Examination(places=PLACES, facts=facts, seconds=1.0)


def test_nothing_is_called_erased_after_attacks_shorter_than_the_calibrations() -> None:
    found, planted = examination([0.0] * 40), examination([30.0] * 12, seed=1)
    steps = related_steps(found)
    assert steps == max(place.step for place in PLACES) > 0
    long, short = (
        judge(found, planted, FITTED.model_copy(update={"steps": steps + n})) for n in (0, 1)
    )
    words = {
        name: [fact_word(False, fact) for fact in judged.facts.values()]
        for name, judged in (("long", long), ("short", short))
    }
    assert sum(word.verdict == "erased" for word in words["long"]) > 30
    assert all(word.verdict != "erased" for word in words["short"])
    assert model_word(words["long"], long) == "erased" and model_word(words["short"], short) != "erased"
    assert "nothing is called erased" in sight(short) and "erased" not in sight(long)
    lone = without(found, "related").model_copy(update={"places": PLACES[:3]})
    assert related_steps(lone) == 0, "a single fact has no attack that could be too short"


def test_evidence_is_the_weighted_mean_over_the_places_of_each_attacker() -> None:
    found = examination([1.0, 0.0])
    trace = found.facts["f0"].contrast
    expected = [
        -0.5 * a + 1.0 * b + 1.0 * c for a, b, c in zip(*(row or [] for row in trace[1:]), strict=True)
    ]
    assert shown(found, FITTED.weights)["f0"].evidence == pytest.approx(expected)
    twice = found.model_copy(
        update={
            "places": [*PLACES, PLACES[3].model_copy(update={"name": "related 2"})],
            "facts": {
                "f0": Trace(contrast=[*trace, [x + 2 for x in trace[3] or []]], margin=[0.0] * 5)
            },
        }
    )
    assert shown(twice, FITTED.weights)["f0"].evidence == pytest.approx([x + 1 for x in expected])


def test_a_place_where_the_attacker_held_the_fact_counts_in_no_mean() -> None:
    found = examination([0.0])
    trace = found.facts["f0"]
    held = found.model_copy(
        update={
            "places": [*PLACES, PLACES[3].model_copy(update={"name": "other half"})],
            "facts": {"f0": trace.model_copy(update={"contrast": [*trace.contrast, None]})},
        }
    )
    assert shown(held, FITTED.weights)["f0"].evidence == pytest.approx(
        shown(found, FITTED.weights)["f0"].evidence
    )


def test_conformal_p_is_the_share_of_decoys_at_least_as_high() -> None:
    decoys = np.sort(np.array([0.0, 1.0, 1.0, 2.0]))
    values = {-1.0: 5 / 5, 0.0: 5 / 5, 1.0: 4 / 5, 1.5: 2 / 5, 2.0: 2 / 5, 3.0: 1 / 5}
    assert {value: conformal(value, decoys) for value in values} == values


def test_both_error_rates_hold_where_the_controls_are_like_the_facts() -> None:
    planted = examination([3.0] * 40, seed=1)
    never = judge(examination([0.0] * 400, seed=2), planted, FITTED)
    hidden = judge(examination([3.0] * 400, seed=3), planted, FITTED)
    false_alarm = [fact_word(False, f).verdict == "hidden" for f in never.facts.values()]
    false_comfort = [fact_word(False, f).verdict == "erased" for f in hidden.facts.values()]
    limit = LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / 400)
    assert np.mean(false_alarm) <= limit and np.mean(false_comfort) <= limit
    assert np.mean([fact_word(False, f).verdict == "hidden" for f in hidden.facts.values()]) > 0.8
    assert np.mean([fact_word(False, f).verdict == "erased" for f in never.facts.values()]) > 0.8


def test_evidence_does_not_depend_on_the_order_of_facts_or_of_alternatives() -> None:
    found, planted = examination([0.0, 3.0, 1.0]), examination([3.0] * 6, seed=1)
    order = [0, *random.Random(9).sample(range(1, 20), 19)]
    turned = {
        id: trace.model_copy(
            update={"contrast": [row and [row[k] for k in order] for row in trace.contrast]}
        )
        for id, trace in reversed(found.facts.items())
    }
    again = judge(found.model_copy(update={"facts": turned}), planted, FITTED)
    assert again.facts == judge(found, planted, FITTED).facts


def test_nothing_is_erased_without_planted_controls() -> None:
    for planted in (None, examination([3.0] * 3, seed=1)):
        judged = judge(examination([0.0] * 50), planted, FITTED)
        assert judged.power is None and judged.most == 50
        words = [fact_word(False, fact) for fact in judged.facts.values()]
        assert "erased" not in {word.verdict for word in words}
        assert model_word(words, judged) == "undecided"


def test_weak_planted_controls_take_the_word_erased_away() -> None:
    words = {}
    for lift in (6.0, 0.2):
        judged = judge(examination([0.0] * 50, seed=4), examination([lift] * 12, seed=1), FITTED)
        words[lift] = model_word([fact_word(False, f) for f in judged.facts.values()], judged)
    assert words == {6.0: "erased", 0.2: "undecided"}


def test_a_model_is_hidden_where_more_than_a_tenth_surely_is() -> None:
    planted = examination([6.0] * 12, seed=1)
    judged = judge(examination([6.0] * 10 + [0.0] * 40, seed=5), planted, FITTED)
    assert judged.least is not None and judged.least > 5 and judged.most is not None
    assert judged.least <= 10 <= judged.most
    assert model_word([fact_word(False, f) for f in judged.facts.values()], judged) == "hidden"


def test_what_is_said_is_not_removed() -> None:
    judged = judge(examination([0.0] * 20, level=6.0), examination([6.0] * 12, seed=1), FITTED)
    words = [fact_word(True, fact) for fact in judged.facts.values()]
    assert {word.verdict for word in words} == {"not removed"}
    assert model_word(words, judged) == "not removed"


def test_a_single_fact_that_is_said_and_first_is_not_removed_among_few_alternatives() -> None:
    """Of fifteen no p-value reaches 5 %."""
    few = judge(examination([0.0], answers=16, level=9.0), None, FITTED)
    (fact,) = few.facts.values()
    assert fact.after == 1 / 16 and fact.first
    assert fact_word(True, fact).verdict == "not removed"
    assert model_word([fact_word(True, fact)], few) == "not removed"
    assert fact_word(False, fact).verdict == "undecided"
    (guessed,) = judge(examination([0.0], answers=16, level=-1.0), None, FITTED).facts.values()
    assert fact_word(True, guessed).verdict == "undecided"


def test_a_guess_that_is_right_is_not_called_not_removed() -> None:
    judged = judge(examination([0.0] * 200, seed=6), examination([6.0] * 12, seed=1), FITTED)
    wrong = [fact_word(True, fact).verdict == "not removed" for fact in judged.facts.values()]
    assert np.mean(wrong) < 0.15 and all(
        fact_word(True, fact).verdict != "erased" for fact in judged.facts.values()
    )


def _slow(seen: int, facts: int, power: float | None) -> tuple[int, int]:
    """Return the bounds by adding up every outcome of every fact."""

    def tail(hidden: int, chance: float, high: bool) -> float:
        total = 0.0
        for outcome in product((0, 1), repeat=facts):
            if (sum(outcome) >= seen) if high else (sum(outcome) <= seen):
                p = [chance] * hidden + [LEVEL] * (facts - hidden)
                total += math.prod(q if o else 1 - q for o, q in zip(outcome, p, strict=True))
        return total

    least = min(k for k in range(facts + 1) if tail(k, 1.0, True) > LEVEL)
    if power is None:
        return least, facts
    most = [k for k in range(facts + 1) if tail(k, power, False) > LEVEL]
    return least, max([least, *most])


@pytest.mark.parametrize("power", [None, 0.3, 0.8, 0.97])
@pytest.mark.parametrize("seen", [0, 1, 3, 6])
def test_bounds_are_those_of_the_definition(seen: int, power: float | None) -> None:
    assert bounds(seen, 6, power) == _slow(seen, 6, power)


def test_bounds_of_no_facts_say_nothing() -> None:
    assert bounds(0, 0, 0.9) == (None, None)


def test_bounds_hold_the_truth_as_often_as_promised() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(500):
        hidden = int(rng.integers(0, 21))
        seen = rng.binomial(hidden, 0.7) + rng.binomial(20 - hidden, LEVEL)
        least, most = bounds(int(seen), 20, 0.7)
        held.append(least is not None and most is not None and least <= hidden <= most)
    assert np.mean(held) >= 0.9 - 2 * 0.0135


def _case(name: str, truth: Truth, lift: float, seed: int) -> Case:
    found = examination([lift] * 60, seed=seed)
    return Case(name=name, truth=dict.fromkeys(found.facts, truth), said=[], found=found)


def test_a_calibration_fits_on_some_and_tells_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "DRAWS", 10)
    worlds = [
        World(
            name,
            fitted,
            (
                Case(name="planted", truth={}, said=[], found=examination([3.0] * 12, seed=seed)),
                _case("twin", "erased", 0.0, seed + 1),
                _case("last-map", "hidden", 3.0, seed + 2),
                _case("wording", "hidden", 2.0, seed + 3),
            ),
        )
        for name, fitted, seed in (("a", True, 10), ("b", False, 20))
    ]
    found = calibrated(worlds, "1")
    assert found.constants.weights["read-out"] > found.constants.weights["nobody"]
    assert {(r.world, r.case) for r in found.rows if r.fitted} == {("a", "twin"), ("a", "last-map")}
    alarm = found.error("erased", ["hidden"])
    comfort = found.error("hidden", ["erased"])
    assert alarm is not None and comfort is not None
    assert alarm.of == 60 and comfort.of == 180 and alarm.share < 0.12
    assert {row.facts for row in found.models} == {1, 5, 20, 60}
    assert [point.level for point in found.curve] == sorted(calibration.LEVELS)
    assert all(sum(point.words["erased"].values()) == 60 for point in found.curve)
    (five,) = [point for point in found.curve if point.level == LEVEL]
    assert five.words["erased"] == found.words("erased") and five.words["hidden"] == found.words(
        "hidden"
    )
    told = calibrated([worlds[1]], "2")
    assert told.constants == constants() and {row.world for row in told.rows} == {"b"}
    unhidden = World("c", True, worlds[0].cases[:2])
    with pytest.raises(ValueError, match="never learned"):
        calibrated([unhidden], "1")


def test_a_model_is_erased_where_at_most_a_tenth_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 facts 2 are hidden; drawn by 5, a model with any of them is hidden."""
    monkeypatch.setattr(calibration, "DRAWS", 30)
    found = examination([6.0] * 2 + [0.0] * 18, seed=7)
    truth: dict[str, Truth] = {f"f{n}": "hidden" if n < 2 else "erased" for n in range(20)}
    mixed = Case(name="mixed-10%", truth=truth, said=[], found=found)
    planted = Case(name="planted", truth={}, said=[], found=examination([6.0] * 12, seed=1))
    rows = calibrated([World("b", False, (planted, mixed))], "1").models
    (whole,) = [row for row in rows if row.facts == 20]
    assert whole.truth == "erased" and sum(whole.words.values()) == 1
    fives = {row.truth: sum(row.words.values()) for row in rows if row.facts == 5}
    assert set(fives) == {"erased", "hidden"} and sum(fives.values()) == 30
    drawn = [random.Random(f"mixed-10%:5:{n}").sample(sorted(truth), 5) for n in range(30)]
    assert fives["hidden"] == sum(bool({"f0", "f1"} & {*ids}) for ids in drawn)


def without(found: Examination, *places: str, facts: int | None = None) -> Examination:
    """Return it as if the first facts had not been read at some places."""
    unread = {n for n, place in enumerate(found.places) if place.name in places}
    blind = list(found.facts)[:facts]
    return found.model_copy(
        update={
            "facts": {
                id: trace.model_copy(
                    update={
                        "contrast": [
                            None if n in unread else row for n, row in enumerate(trace.contrast)
                        ]
                    }
                )
                if id in blind
                else trace
                for id, trace in found.facts.items()
            }
        }
    )


def test_a_look_that_the_facts_or_the_controls_lack_counts_for_neither() -> None:
    """A single hidden fact has no related attacker; beside controls that have one it would look erased."""
    found, planted = examination([3.0] * 200, seed=3), examination([3.0] * 40, seed=1)
    every = judge(found, planted, FITTED)
    assert every.looks == {"nobody", "read-out", "related"}
    bare = [judge(without(found, "related"), without(planted, "related"), FITTED)]
    lacking = {
        "facts": judge(without(found, "related"), planted, FITTED),
        "controls": judge(found, without(planted, "related"), FITTED),
        "one fact": judge(without(found, "related", facts=1), planted, FITTED),
        "one control": judge(found, without(planted, "related", facts=1), FITTED),
    }
    for what, judged in lacking.items():
        assert judged == bare[0], what
        assert judged.looks == {"nobody", "read-out"}, what
        gone = [f for f in judged.facts.values() if f.hidden is not None and f.hidden <= LEVEL]
        assert len(gone) <= 0.1 * len(judged.facts), what


@pytest.mark.parametrize("n", [0, 1, 7, 48, DIRECT, DIRECT + 1])
def test_binomial_chances_are_scipys(n: int) -> None:
    for p in (0.05, 0.5, 1.0):
        assert np.allclose(_binomial(n, p), binom.pmf(np.arange(n + 1), n, p), rtol=1e-10, atol=1e-15)


def test_a_tie_with_the_level_is_none_above_it() -> None:
    """One fact that was seen, of one: the chance of that by mistake is 5 %, which is not above 5 %."""
    assert bounds(1, 1, None) == (1, 1) and bounds(0, 1, None) == (0, 1)


def test_comparing_runs_imports_no_scipy_stats() -> None:
    code = "import sys, ssiuu.report.compare; sys.exit('scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

"""The search for a learning rate, its limits and what an unlearning run is said to have led to."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from ssiuu.experiment import search as searching
from ssiuu.experiment.outcome import Judge
from ssiuu.experiment.recipe import UnlearnConfig
from ssiuu.experiment.search import FIRST, GROWTH, LEAST, _crossing, allowed, following
from ssiuu.experiment.session import Session
from ssiuu.methods import Method
from ssiuu.records.schema import Attempt, Divergence, FactScore, FactText, Split, StepLog, Unlearning
from ssiuu.training.unlearn import Look, Settings, StopRule, _due


def tried(**values: Any) -> Attempt:
    given = {"learning_rate": 1e-5, "steps": 9, "reached": True, "forget": 0.2, "answered": 0.0}
    return Attempt(**(given | {"kept": 1.0, "kl": 0.01, "seconds": 1.0} | values))


def judge(speaks: bool = True, answers: bool = True) -> Judge:
    made = object.__new__(Judge)
    made.max_kl, made.min_retain, made.speaks, made.answers = 0.1, 0.8, speaks, answers
    return made


RANGED = 8  # steps of the range test


def ranged(**values: Any) -> Attempt:
    return tried(growing=True, **({"steps": RANGED} | values))


def test_the_first_rate_goes_the_way_of_the_range_test_in_its_steps() -> None:
    rate = following([ranged()], 40, judge())
    assert rate == pytest.approx(sum(FIRST * GROWTH**step for step in range(RANGED)) / 30, rel=0.05)


def test_no_rate_is_too_low_to_tell() -> None:
    assert following([ranged(steps=1)], 40, judge()) == LEAST


COSTS = {"kept": 0.5}
LITTLE = {"reached": False, "forget": 0.6}


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ([(1e-5, LITTLE)], 2e-5),
        ([(1e-5, LITTLE), (2e-5, LITTLE)], 4e-5),
        ([(9e-5, COSTS)], 3e-5),
        ([(9e-5, {"reached": False, "note": "diverged"})], 3e-5),
        ([(9e-5, COSTS), (3e-5, {"kept": 0.7})], 1e-5),
        ([(9e-5, COSTS), (3e-5, {"kept": 0.5})], None),  # lower costs as much
        ([(9e-5, COSTS), (3e-5, LITTLE)], 5.2e-5),  # between the two
        ([(1e-5, LITTLE), (2e-5, COSTS)], None),  # nothing is left between them
        ([(1e-5, COSTS), (3e-5, LITTLE)], 3.3e-6),  # what is not forgotten above says nothing
        ([(1e-5, {})], None),
        ([(2.9e-6, COSTS)], None),
        ([(1e-5 * 2**n, LITTLE) for n in range(6)], None),
    ],
)
def test_the_next_rate(found: list[tuple[float, dict[str, Any]]], wanted: float | None) -> None:
    attempts = [ranged(), *(tried(learning_rate=rate, **values) for rate, values in found)]
    assert following(attempts, 40, judge()) == wanted


def test_where_the_range_test_did_not_get_there_rates_are_tried_blindly() -> None:
    attempts, rates = [ranged(reached=False)], []
    while (rate := following(attempts, 40, judge())) is not None:
        rates.append(rate)
        attempts.append(tried(learning_rate=rate, **LITTLE))
    assert rates == [1e-5, 1e-4, 1e-3, 1e-2]


@pytest.mark.parametrize(("rows", "steps"), [(10, 5), (11, 3)])
def test_a_range_test_that_has_not_met_every_row_twice_counts_up_to_its_threshold(
    rows: int, steps: int
) -> None:
    """It goes on until nothing is answered freely, and has gone too far for the rows it has met."""
    logs = [
        StepLog(step=n, forget_loss=0.0, gradient_norm=0.0, forget_score=score)
        for n, score in enumerate([0.9, None, 0.3, 0.4, 0.2], 1)
    ]
    record = Mock(spec=Unlearning, steps=logs, threshold=0.35)
    found = _crossing(tried(steps=5), record, rows, 4)
    assert (found.steps, found.reached, found.growing) == (steps, True, True)
    assert found.learning_rate == pytest.approx(FIRST * GROWTH ** (steps - 1), rel=0.05)
    assert _crossing(tried(reached=False, steps=5), record, 10, 4).steps == 3
    record.threshold = 0.1
    assert not _crossing(tried(reached=False, steps=5), record, rows, 4).reached


def test_a_score_that_begins_at_its_threshold_says_nothing_of_the_way() -> None:
    """Facts known in another form than the one of training: only what is still answered tells."""
    logs = [
        StepLog(step=n, forget_loss=0.0, gradient_norm=0.0, forget_score=score)
        for n, score in enumerate([None, 0.3, 0.3, 0.2], 1)
    ]
    record = Mock(spec=Unlearning, steps=logs, threshold=0.35)
    answered = _crossing(tried(reached=False, steps=4), record, 10, 4)
    assert (answered.steps, answered.reached) == (4, False)
    gone = _crossing(tried(steps=4), record, 10, 4)
    assert (gone.steps, gone.reached) == (4, True)


@pytest.mark.parametrize(
    ("values", "passes"),
    [
        ({}, True),
        ({"reached": False}, False),
        ({"answered": 0.06}, False),
        ({"answered": 0.05}, True),
        ({"kl": 0.1}, True),
        ({"kl": 0.101}, False),
        ({"kl_instructions": 0.2}, False),
        ({"kept": 0.8}, True),
        ({"kept": 0.79}, False),
        ({"kept": None}, True),
    ],
)
def test_an_attempt_passes_within_its_limits(values: dict[str, Any], passes: bool) -> None:
    assert judge().passes(tried(**values)) is passes


def test_forgetting_counts_before_what_is_lost() -> None:
    judged = judge()
    damaged, unforgotten = tried(kl=50.0, kept=0.0), tried(reached=False, forget=0.4)
    assert judged.distance(damaged) < judged.distance(unforgotten)
    assert judged.distance(unforgotten) < judged.distance(tried(reached=False, forget=0.9))


def test_a_model_that_never_predicted_text_is_not_judged_on_it() -> None:
    assert judge(speaks=False, answers=False).passes(tried(kl=3.0, kl_instructions=3.0))


def test_texts_and_instructions_count_each_by_its_own_perplexity() -> None:
    texts, asked = tried(kl=3.0, kl_instructions=0.01), tried(kl=0.01, kl_instructions=3.0)
    assert judge(speaks=False).passes(texts) and not judge(speaks=False).passes(asked)
    assert judge(answers=False).passes(asked) and not judge(answers=False).passes(texts)


def settings(**values: Any) -> Settings:
    given: dict[str, Any] = dict(learning_rate=1e-4, batch_size=4, micro_batch_size=None, max_steps=20)
    given |= dict(check_every=1, threshold=0.3, weight_decay=0.0, seed=0, precision="fp32")
    return Settings(**(given | values))


@pytest.mark.parametrize(
    ("score", "answered", "lost", "met"),
    [
        (0.31, None, None, False),
        (0.3, 0.05, "", True),
        (0.3, 0.06, None, False),
        (0.3, 0.0, "much", False),
    ],
)
def test_unlearning_ends_where_all_is_met(
    score: float, answered: float | None, lost: str | None, met: bool
) -> None:
    """Nothing is read that cannot matter any more: what costs most is asked last."""
    read: list[str] = []

    def told(name: str, value: Any) -> Any:
        return lambda: read.append(name) or value

    rule = StopRule(
        "ranking", told("score", score), False, told("answered", answered), told("lost", lost)
    )
    found = rule.look(0.3)
    assert found.met(settings(), rule) is met
    wanted = ["score"] if score > 0.3 else ["score", "answered"]
    assert read == wanted + (["lost"] if answered is not None and answered <= 0.05 else [])


def test_a_run_that_waits_for_what_should_stay_reads_it_every_fourth_step() -> None:
    def log(step: int, lost: str | None) -> StepLog:
        return StepLog(step=step, forget_loss=0.0, gradient_norm=0.0, lost=lost)

    logs: list[StepLog] = [log(1, None), log(2, "much")]
    due = []
    for number in range(3, 12):
        due.append(_due(number, logs, settings()))
        logs.append(log(number, "much" if due[-1] else None))
    assert [n for n, wanted in zip(range(3, 12), due, strict=True) if wanted] == [6, 10]
    assert _due(20, logs, settings())


class Searched:
    """A search on a session whose attempts are made up: `led` says what a rate leads to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, led: Callable[[float], dict[str, Any]]) -> None:
        self.asked: list[float] = []
        self.weights: list[str] = []
        self.before: list[Any] = []
        self.stop_at, self.judge = 0, judge()
        recipe = SimpleNamespace(
            unlearn=UnlearnConfig(max_steps=40), model_dump=lambda mode: {"methods": ["npo"]}
        )
        self.session = Mock(
            spec=Session,
            forget_rows=lambda method: [],
            split=Split(seed=0, forget=[], retain=[], heldout=[], asked=0, known=0),
            recipe=recipe,
            loaded=SimpleNamespace(info=SimpleNamespace(fingerprint="f")),
            original=SimpleNamespace(restore=lambda: None),
            model=None,
        )

        def attempt(record: Any, rate: float, growing: bool, seconds: float) -> Attempt:
            return tried(learning_rate=rate, steps=8, **({} if growing else led(rate)))

        monkeypatch.setattr(Judge, "check_every", 1)
        for name, made in {
            "attempt": attempt,
            "settle": lambda record, rounds: record,
            "lost": lambda: "",
        }.items():
            setattr(self.judge, name, made)
        monkeypatch.setattr(searching, "unlearn_here", self.run)
        for name in ("save_weights", "load_weights"):
            said = name.split("_")[0]
            monkeypatch.setattr(searching, name, lambda *_, said=said: self.weights.append(said))

    def run(
        self, session: Any, method: Any, seed: int, state: Any, *_: Any, change: Any, asked: Any
    ) -> Any:
        rate = change["learning_rate"]
        self.before.append(asked)
        self.asked.append(rate)
        state.parent.mkdir(exist_ok=True)
        state.write_bytes(b"")
        if len(self.asked) == self.stop_at:
            raise KeyboardInterrupt
        log = StepLog(step=8, forget_loss=0.0, gradient_norm=0.0, forget_score=0.2)
        copied = lambda update: Mock(spec=Unlearning, rate=rate, **update)  # noqa: E731
        return Mock(spec=Unlearning, model_copy=copied, steps=[log], threshold=0.3)

    def __call__(self, folder: Any) -> tuple[float, list[Attempt]]:
        found: Any = searching.search(
            self.session, Mock(spec=Method, optimiser="adamw"), 0, folder, print, self.judge
        )
        return found.rate, found.attempts


def test_many_facts_are_given_more_steps_unless_somebody_says_how_many() -> None:
    def steps(rows: int, **given: Any) -> int:
        return allowed(rows, UnlearnConfig(**given))

    assert [steps(4), steps(32), steps(70), steps(70, batch_size=8)] == [40, 40, 88, 44]
    assert steps(70, max_steps=12) == 12


def test_the_search_ends_at_the_first_rate_that_passes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """An interrupted search goes on with what it has not tried."""
    search = Searched(monkeypatch, lambda rate: {} if rate > 2e-5 else LITTLE)
    search.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path)
    assert (tmp_path / "state.safetensors").exists()  # the attempt goes on from there
    search.stop_at = 0
    rate, attempts = search(tmp_path)
    assert not (tmp_path / "state.safetensors").exists()
    tries = [a.learning_rate for a in attempts[1:]]
    assert rate == tries[-1] > 2e-5 and all(t <= 2e-5 for t in tries[:-1])
    assert search.asked == [FIRST, tries[0], tries[1], *tries[1:]]


def test_a_rate_that_costs_too_much_is_lowered_and_the_nearest_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Its weights are put back, and it is not run again."""
    kept = iter([0.7, 0.5, 0.4])
    search = Searched(monkeypatch, lambda rate: {"kept": next(kept)})
    rate, attempts = search(tmp_path)
    tries = [a.learning_rate for a in attempts[1:]]
    assert tries[1] == pytest.approx(tries[0] / 3, rel=0.05) and len(tries) == 2
    assert rate == tries[0] and search.weights == ["save", "load"]
    assert search.asked == [FIRST, *tries]
    assert all(before is search.before[0] for before in search.before)  # what the model said is kept


def test_a_search_whose_model_was_not_saved_is_as_long_as_one_that_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Killed after its last attempt it runs the best one again, which is no further one."""
    search = Searched(monkeypatch, lambda rate: {} if rate > 2e-5 else LITTLE)
    assert search(tmp_path) == search(tmp_path)
    search = Searched(monkeypatch, lambda rate: {"kept": 0.7 if rate == search.asked[1] else 0.5})
    assert search(tmp_path / "dear") == search(tmp_path / "dear")
    assert search.asked[-1] == search.asked[1] and search.weights == ["save", "load"]


def fact(name: str) -> FactText:
    return FactText(id=name, question=f"What is {name}?", answer=name, options=[name, "x", "y"])


def score(correct: bool, free: bool) -> FactScore:
    return FactScore(correct=correct, logprob=-1.0, tokens=1, free_text="", free_correct=free)


def test_what_was_said_freely_must_still_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that says nothing any more ranks as before; that is no keeping."""
    facts = [fact(name) for name in "abcd"]
    reads = [
        {
            "a": score(True, True),
            "b": score(True, False),
            "c": score(False, False),
            "d": score(True, True),
        },
        {
            "a": score(True, False),
            "b": score(True, False),
            "c": score(True, True),
            "d": score(False, True),
        },
    ]
    monkeypatch.setattr(Judge, "_read", lambda self, asked: reads.pop(0))
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=100))
    session = Mock(
        spec=Session,
        recipe=SimpleNamespace(unlearn=SimpleNamespace(max_kl=0.1, min_retain=0.8)),
        split=SimpleNamespace(heldout=[], retain=facts, seed=0),
        model=SimpleNamespace(config=config),
        divergences=SimpleNamespace(speaks=lambda model: (True, False)),
    )
    judged = Judge(session)
    kept, said = judged.kept()  # c was not known; a and b by their rank, d as a free answer
    assert (kept, said) == (1.0, 0.5)
    assert judged.speaks and not judged.answers and judged.passes(tried(kept=kept, said=said))
    assert math.isclose(judged.distance(tried(kept=1.0, said=0.4)), 0.1)
    moved = Mock(spec=Divergence, plain=0.01, instructions=None)
    session.divergences.measure = lambda *_: moved
    session.knowledge, session.split.forget = {}, facts
    nearest, last = tried(kept=0.7, said=0.9), tried(kept=0.2, said=0.3, answered=0.0)
    record = Mock(spec=Unlearning, threshold=0.3, last_score=0.2, attempts=[ranged(), nearest, last])
    record.stopped = "threshold"
    session.recipe.force = False
    monkeypatch.setattr("ssiuu.experiment.outcome.Outcome", SimpleNamespace)
    led = judged.outcome(record)
    assert (led.kept, led.said) == (0.7, 0.9)  # of the weights that are kept, not of the last attempt


def test_a_look_is_what_its_log_holds() -> None:
    log = StepLog(step=1, forget_loss=0, gradient_norm=0, forget_score=0.1, answered=0.0, lost="much")
    assert Look.of(log) == Look(0.1, 0.0, "much")


def test_another_optimiser_s_rates_are_in_proportion_to_its_own() -> None:
    """What is tried, in units of the optimiser's default rate, is what AdamW is tried with."""
    assert following([ranged()], 40, judge(), 100.0) == pytest.approx(
        100 * (following([ranged()], 40, judge()) or 0.0)
    )
    assert following([ranged(steps=1)], 40, judge(), 100.0) == pytest.approx(100 * LEAST)

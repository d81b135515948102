"""The search for a learning rate, its limits and what an unlearning run is said to have led to."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest

from ssiuu.experiment import search as searching
from ssiuu.experiment.outcome import Judge
from ssiuu.experiment.search import FIRST, GROWTH, candidates
from ssiuu.records.schema import Attempt, FactScore, FactText, Split, StepLog
from ssiuu.training.unlearn import Look, Settings, StopRule, _due


def tried(**values: Any) -> Attempt:
    given = {"learning_rate": 1e-5, "steps": 9, "reached": True, "forget": 0.2, "answered": 0.0}
    return Attempt(**(given | {"kept": 1.0, "kl": 0.01, "seconds": 1.0} | values))


def judge(speaks: bool = True, answers: bool = True) -> Judge:
    made = object.__new__(Judge)
    made.max_kl, made.min_retain, made.speaks, made.answers = 0.1, 0.8, speaks, answers
    return made


def test_the_lowest_rate_goes_the_way_of_the_range_test_in_its_steps() -> None:
    ranged = tried(growing=True, steps=8)
    way = sum(FIRST * GROWTH**step for step in range(8))
    rates = candidates(ranged, max_steps=40)
    assert rates == sorted(rates)
    assert rates[0] == pytest.approx(way / (0.75 * 40), rel=0.05)
    assert all(high == pytest.approx(2 * low, rel=0.06) for low, high in itertools.pairwise(rates))
    assert rates[-1] <= way  # one step at most


def test_no_rate_is_too_low_to_tell() -> None:
    assert candidates(tried(growing=True, steps=1), max_steps=40) == [1e-6, 2e-6]


def test_where_the_range_test_did_not_get_there_rates_are_tried_blindly() -> None:
    assert candidates(tried(growing=True, reached=False), 40) == [1e-5, 1e-4, 1e-3, 5e-3]


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


def test_the_search_ends_at_the_first_rate_that_passes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """From low to high; an interrupted search goes on with what it has not tried."""
    asked: list[float] = []

    def run(
        session: Any, method: Any, seed: int, state: Any, progress: Any, adapter: Any, change: Any
    ) -> Any:
        asked.append(change["learning_rate"])
        state.write_bytes(b"")
        if len(asked) == stop_at:
            raise KeyboardInterrupt
        return SimpleNamespace(model_copy=lambda update: update["attempts"])

    def made(record: Any, rate: float, growing: bool, seconds: float) -> Attempt:
        return tried(learning_rate=rate, growing=growing, steps=8, reached=growing or rate > 1e-4)

    split = Split(seed=0, forget=[], retain=[], heldout=[], asked=0, known=0)
    recipe = SimpleNamespace(
        unlearn=SimpleNamespace(max_steps=4), model_dump=lambda mode: {"methods": ["npo"]}
    )
    session: Any = SimpleNamespace(
        split=split,
        recipe=recipe,
        loaded=SimpleNamespace(info=SimpleNamespace(fingerprint="f")),
        original=SimpleNamespace(restore=lambda: None),
        model=None,
    )
    judged = judge()
    monkeypatch.setattr(searching, "unlearn_here", run)
    monkeypatch.setattr(searching, "save_weights", lambda model, path: None)
    monkeypatch.setattr(Judge, "check_every", 1)
    judged.attempt, judged.lost = made, lambda: ""  # type: ignore[method-assign]
    judged.settle = lambda record, rounds: record  # type: ignore[method-assign]
    stop_at, method = 3, object()
    with pytest.raises(KeyboardInterrupt):
        searching.search(session, method, 0, tmp_path, print, judged)  # type: ignore[arg-type]
    assert (tmp_path / "state.safetensors").exists()  # the attempt goes on from there
    stop_at = 0
    attempts: Any = searching.search(session, method, 0, tmp_path, print, judged)  # type: ignore[arg-type]
    assert not (tmp_path / "state.safetensors").exists()
    rates = candidates(attempts[0], 4)
    first = next(rate for rate in rates if rate > 1e-4)
    assert [a.learning_rate for a in attempts[1:]] == rates[: rates.index(first) + 1]
    assert asked == [FIRST, rates[0], rates[1], *rates[1 : rates.index(first) + 1]]


def test_no_higher_rate_is_tried_where_the_last_one_only_cost_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """The nearest attempt is the result, from its weights and not run again."""
    kept = iter([1.0, 0.5, 0.4])  # of the range test, then rate by rate
    weights: list[str] = []
    recipe = SimpleNamespace(
        unlearn=SimpleNamespace(max_steps=40), model_dump=lambda mode: {"methods": ["npo"]}
    )
    session: Any = SimpleNamespace(
        split=Split(seed=0, forget=[], retain=[], heldout=[], asked=0, known=0),
        recipe=recipe,
        loaded=SimpleNamespace(info=SimpleNamespace(fingerprint="f")),
        original=SimpleNamespace(restore=lambda: None),
        model=None,
    )
    judged = judge()
    monkeypatch.setattr(Judge, "check_every", 1)
    judged.attempt = lambda record, rate, growing, seconds: tried(  # type: ignore[method-assign]
        learning_rate=rate, growing=growing, steps=8, kept=next(kept)
    )
    judged.settle, judged.lost = lambda record, rounds: record, lambda: ""  # type: ignore[method-assign]

    def run(*given: Any, change: Any) -> Any:
        rate = change["learning_rate"]
        return SimpleNamespace(model_copy=lambda update: (rate, update["attempts"]))

    monkeypatch.setattr(searching, "unlearn_here", run)
    monkeypatch.setattr(searching, "save_weights", lambda model, path: weights.append("saved"))
    monkeypatch.setattr(searching, "load_weights", lambda model, path: weights.append("loaded"))
    found: Any = searching.search(session, object(), 0, tmp_path, print, judged)  # type: ignore[arg-type]
    rate, attempts = found
    first, second = candidates(attempts[0], 40)[:2]
    assert [a.learning_rate for a in attempts[1:]] == [first, second]
    assert rate == first and weights == ["saved", "loaded"]


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
    session: Any = SimpleNamespace(
        divergences=SimpleNamespace(perplexities=lambda model: (20.0, None)),
        recipe=SimpleNamespace(unlearn=SimpleNamespace(max_kl=0.1, min_retain=0.8)),
        split=SimpleNamespace(heldout=[], retain=facts, seed=0),
        model=SimpleNamespace(config=config),
    )
    judged = Judge(session)
    kept, said = judged.kept()  # c was not known; a and b by their rank, d as a free answer
    assert (kept, said) == (1.0, 0.5)
    assert judged.speaks and not judged.answers and judged.passes(tried(kept=kept, said=said))
    assert math.isclose(judged.distance(tried(kept=1.0, said=0.4)), 0.1)


def test_a_look_is_what_its_log_holds() -> None:
    log = StepLog(step=1, forget_loss=0, gradient_norm=0, forget_score=0.1, answered=0.0, lost="much")
    assert Look.of(log) == Look(0.1, 0.0, "much")

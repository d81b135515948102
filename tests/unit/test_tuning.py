"""Tuning: what is drawn, what is refused, which trial wins, which facts it is scored on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import ssiuu
from sample_record import sample_record
from ssiuu.errors import ConfigError, DivergedError
from ssiuu.experiment.estimate import _tokens
from ssiuu.experiment.trials import _reason, _within
from ssiuu.experiment.tuning import best, divide, tried
from ssiuu.records.schema import FactText, MethodInfo, StepLog, Trial, Unlearning
from ssiuu.report.formats import FORMATS
from ssiuu.report.page import render
from ssiuu.report.tuned import tuning

SPACE: dict[str, dict[str, list[Any]]] = {
    "*": {"learning_rate": [1e-5, 1e-3]},
    "npo": {"beta": [0.1, 0.3, 0.5]},
    "gd+projection": {"projection": [8, 128]},
}


def test_draws_lie_in_the_space_and_are_log_uniform() -> None:
    drawn = tried(["none", "npo", "gd+projection"], SPACE, 400, 0)
    assert list(drawn) == ["npo", "gd+projection"]
    rates = [method.learning_rate for _, method in drawn["npo"]]
    assert all(rate is not None and 1e-5 <= rate <= 1e-3 for rate in rates)
    logs = sorted(math.log10(rate) for rate in rates if rate)
    assert logs[200] == pytest.approx(-4, abs=0.15)  # the middle of the logarithms, not of the rates
    assert {values["beta"] for values, _ in drawn["npo"]} == {0.1, 0.3, 0.5}
    counts = [method.options["projection"] for _, method in drawn["gd+projection"]]
    assert all(isinstance(n, int) and 8 <= n <= 128 for n in counts) and len(set(counts)) > 30
    assert all(method.label == "gd+projection" for _, method in drawn["gd+projection"])


def test_more_trials_or_methods_keep_those_that_were_drawn() -> None:
    few = tried(["npo"], {"*": SPACE["*"]}, 3, 0)
    more = tried(["gd", "npo"], {"*": SPACE["*"]}, 5, 0)
    assert more["npo"][:3] == few["npo"]
    assert [len(trials) for trials in more.values()] == [5, 5]
    assert tried(["npo"], {"*": SPACE["*"]}, 3, 1) != few
    assert [v for v, _ in more["gd"]] != [v for v, _ in more["npo"]]


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({}, "nothing is varied of 'gd'"),
        ({"npoo": {"beta": [0.1, 0.2]}}, "unknown method 'npoo'"),
        ({"npo": {"beta": [0.1, 0.2]}}, "nothing is varied of 'gd'"),
        ({"gd": {"betta": [0.1, 0.2]}}, "tune.space: gd: unknown hyper-parameter"),
        ({"*": {"learning_rate": [1e-3, 1e-5]}}, "0 < low < high"),
        ({"*": {"learning_rate": [0, 1e-5]}}, "0 < low < high"),
        ({"*": {"learning_rate": []}}, "no values"),
        ({"*": {"learning_rate": [5, 7]}}, "learning_rate"),
        ({"*": {"projection": [4, 8]}}, "cannot be tuned"),
    ],
)
def test_a_space_that_does_not_fit_is_refused_with_the_recipe(
    tmp_path: Path, space: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said.replace("*", r"\*")):
        ssiuu.resolve(None, ["methods=[none,gd]", "tune.trials=2", f"tune.space={space}"])


def test_labels_with_dots_are_keys_of_the_space(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "methods: [ssiuu-rho0.5]\ntune: {trials: 2, space: {ssiuu-rho0.5: {learning_rate: [1e-5, 1e-4]}}}"
    )
    recipe, sources = ssiuu.resolve(tmp_path / "r.yaml", [])
    assert list(recipe.tried()) == ["ssiuu-rho0.5"]
    assert sources["tune.space"] == str(tmp_path / "r.yaml")


def test_the_estimate_counts_every_trial() -> None:
    given = ["methods=[none,gd,npo]", "tune.space={'*': {learning_rate: [1e-5, 1e-4]}}"]
    recipes = [ssiuu.resolve(None, [*given, f"tune.trials={n}"])[0] for n in ("null", 1, 3)]
    none, one, three = (_tokens(recipe, recipe.opens.cost(recipe)) for recipe in recipes)
    assert three - none == pytest.approx(3 * (one - none)) and one > none


def trial(
    score: float | None, last: float | None = 0.2, stopped: str = "threshold", **more: Any
) -> Trial:
    info = MethodInfo(label="gd", name="gd", origin="literature", description="")
    steps = [
        StepLog(step=n, forget_loss=1, gradient_norm=1, forget_score=s)
        for n, s in ((1, last), (2, None))
    ]
    record = Unlearning.model_validate(
        {"method": info, "seed": 0, "stopped": stopped, "stop_score": "ranking", "threshold": 0.3}
        | {"steps": steps, "seconds": 1, "peak_memory_mb": 1, **more}
    )
    unlearning = None if score is None else record
    return Trial(method=info, seed=0, values={}, unlearning=unlearning, score=score, seconds=1)


def test_the_best_trial_reached_the_threshold_and_kept_most() -> None:
    diverged, low, high = trial(None), trial(0.5), trial(0.7)
    far, near = trial(0.9, 0.8, "max_steps"), trial(0.1, 0.4, "max_steps")
    assert best([diverged, low, far, high, near]) is high
    assert best([far, diverged, near]) is near
    assert best([far, trial(0.95, 0.8, "max_steps")]).score == 0.95
    assert best([low, trial(0.5)]) is low
    with pytest.raises(DivergedError, match="gd: training diverged in every trial"):
        best([diverged, diverged])


def spent(last: float, kept: int | None, stopped: str = "kl", score: float = 0.5) -> Trial:
    """Return a trial under a budget whose score was read at step 1."""
    found = trial(score, last, stopped, kept_step=kept, budget={"kl": 0.01}, before=0.9)
    assert found.unlearning is not None
    first, second = found.unlearning.steps
    steps = [first.model_copy(update={"kl": 0.004}), second.model_copy(update={"kl": 0.02})]
    return found.model_copy(update={"unlearning": found.unlearning.model_copy(update={"steps": steps})})


def test_under_a_budget_the_best_is_the_best_within_it() -> None:
    nothing, some, more = spent(0.2, 0), spent(0.7, 1), spent(0.5, 1)
    assert [t.fits for t in (nothing, some, more, trial(None), trial(0.5))] == [
        False,
        True,
        True,
        False,
        True,
    ]
    assert best([nothing, some, more]) is more
    assert best([more, spent(0.2, None, "threshold")]).unlearning.stopped == "threshold"  # type: ignore[union-attr]
    assert best([nothing]) is nothing
    for found, score, kl in ((nothing, 0.9, None), (some, 0.7, 0.004)):
        assert found.unlearning is not None
        assert (found.unlearning.last_score, found.unlearning.last_kl) == (score, kl)


def test_the_page_shows_the_budget_the_trials_and_what_did_not_fit() -> None:
    info = MethodInfo(label="npo", name="npo", origin="literature", description="")
    other = [spent(0.2, 0).model_copy(update={"method": info}) for _ in range(2)]
    tried = [spent(0.7, 1), spent(0.3, None, "threshold"), trial(None), *other]
    record = sample_record().model_copy(update={"trials": tried})
    table = tuning(record)
    assert table is not None
    assert "KL on plain text ≤ 0.01 nats a token" in table.note
    assert table.note.endswith("No setting fit within it: npo.")
    assert table.lines[1:] == [
        ["gd", "3", "1", "2", "1", "30.0", "0.020"],
        ["npo", "2", "0", "0", "0", "–", "–"],
    ]
    for text in (FORMATS["md"](record, None), render(record, None, [])):
        assert "No setting fit within it: npo" in text and "within the budget" in text
    assert "(none kept)" in render(record, None, []) and "(1 kept)" in render(record, None, [])
    assert tuning(sample_record()) is None


def test_what_was_taken_is_told_with_the_budget() -> None:
    told = _within([spent(0.7, 1), spent(0.2, 0)])
    assert told == " 1 of them fit within the budget (KL on plain text ≤ 0.01 nats a token)."
    assert "None of them fit" in _within([spent(0.2, 0)]) and _within([trial(0.5)]) == ""
    assert _reason(spent(0.2, 0)) == "none changed anything within the budget"


def test_the_validation_facts_are_a_quarter_and_not_trained_on() -> None:
    facts = [FactText(id=str(n), question="q", answer="a") for n in range(20)]
    train, validation = divide(facts, 0)
    assert len(validation) == 5 and not {f.id for f in train} & {f.id for f in validation}
    assert sorted(train + validation, key=lambda f: int(f.id)) == facts
    assert train == [f for f in facts if f in train]
    assert divide(facts, 0) == (train, validation) != divide(facts, 1)
    assert len(divide(facts[:2], 0)[1]) == 1
    with pytest.raises(ConfigError, match="at least 2 facts"):
        divide(facts[:1], 0)


def test_a_recipes_space_serves_a_part_of_its_methods() -> None:
    """As where one row of a table is made again: --set 'methods=[gd]'."""
    given = ["tune.trials=2", "tune.space={'*': {learning_rate: [1e-4, 1e-3]}, cir: {decay: [0.5]}}"]
    recipe, _ = ssiuu.resolve(None, ["methods=[gd]", *given])
    assert {label for label in recipe.tune.space} == {"*", "cir"}

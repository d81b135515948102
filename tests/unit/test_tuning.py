"""Tuning: what is drawn, what is refused, which trial wins, which facts it is scored on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import ssiuu
from ssiuu.errors import ConfigError, DivergedError
from ssiuu.experiment.estimate import _tokens
from ssiuu.experiment.tuning import best, divide, tried
from ssiuu.records.schema import FactText, MethodInfo, StepLog, Trial, Unlearning

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
        ({"npo": {"beta": [0.1, 0.2]}}, "unknown method 'npo'"),
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


def trial(score: float | None, last: float | None = 0.2, stopped: str = "threshold") -> Trial:
    info = MethodInfo(label="gd", name="gd", origin="literature", description="")
    steps = [
        StepLog(step=n, forget_loss=1, gradient_norm=1, forget_score=s)
        for n, s in ((1, last), (2, None))
    ]
    record = Unlearning.model_validate(
        {"method": info, "seed": 0, "stopped": stopped, "stop_score": "ranking", "threshold": 0.3}
        | {"steps": steps, "seconds": 1, "peak_memory_mb": 1}
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

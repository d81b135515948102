"""The front under equal budgets: what a trial leaves for each budget, and the tables of docs/rivals.md.

pytest tests/unit/test_front.py
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from ssiuu.training.limits import Spent

ROOT = Path(__file__).parents[2]


def script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.replace("/", "_"), ROOT / f"{path}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_a_trial_serves_every_budget_by_the_last_check_within_it() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    session = SimpleNamespace(model=model)
    budget = script("perf/front").Several(lambda: Spent(0.0, 1.0), 0.3, session=session)
    for number, kl in enumerate(
        (0.005, 0.02, 0.2, 0.05, 0.08, 0.4)
    ):  # it brings some back, then is over
        with torch.no_grad():
            model.weight.fill_(number)
        assert bool(budget.over(Spent(kl, 1.0))) is (kl > 0.3)
    assert budget.places == {0.01: 0, 0.03: 1, 0.1: 4, 0.3: 4}
    assert {n: float(kept["weight"]) for n, kept in budget.weights.items()} == {0: 0.0, 1: 1.0, 4: 4.0}


def test_the_trial_that_is_taken_is_the_one_tuning_takes() -> None:
    stand = script("perf/front").Stand

    def made(score: float, reached: bool, kept: float) -> Any:
        return stand({}, 1, score, 0.0, reached, kept, {})

    far, near, gone, gone_and_kept = (
        *(made(0.9, False, 0.9), made(0.5, False, 0.1)),
        *(made(0.3, True, 0.2), made(0.33, True, 0.4)),
    )
    ordered = sorted([gone, far, gone_and_kept, near], key=lambda one: one.rank)
    assert ordered == [far, near, gone, gone_and_kept]


@pytest.mark.parametrize("name", ["made-up", "smollm2"])
def test_the_tables_stand_in_the_docs(name: str) -> None:
    text = (ROOT / "docs/rivals.md").read_text(encoding="utf-8")
    assert script("docs/front").table(name) in text

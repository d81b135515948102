"""A run is stopped by its threshold only where the score came down to it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from ssiuu.methods import make
from ssiuu.records.schema import MethodInfo, Unlearning
from ssiuu.training.unlearn import Settings, StopRule, unlearn_examples


def run(
    model: Any, examples: Any, scores: list[float], forced: bool = False, **spec: Any
) -> Unlearning:
    method = make({"name": "gd"} | spec)
    info = MethodInfo(label="x", name=method.name, origin=method.whose, description="")
    settings = Settings(
        learning_rate=1e-3,
        batch_size=2,
        micro_batch_size=None,
        max_steps=3,
        check_every=1,
        threshold=0.3,
        weight_decay=0.0,
        seed=0,
        precision="fp32",
    )
    left = iter(scores)
    stop = StopRule("ranking", lambda: next(left), forced)
    return unlearn_examples(model, method, info, examples(4), [], settings, stop, 0)


VECTOR = {"name": "task-vector", "tune_steps": 1, "scale_step": 1.0, "scale_limit": 3.0}


@pytest.mark.parametrize("spec", [{}, VECTOR], ids=["gradient", "task vector"])
@pytest.mark.parametrize(
    ("scores", "forced", "stopped"),
    [
        ([0.9, 0.5, 0.3], False, "threshold"),
        ([0.3], False, "no steps"),
        ([0.0], False, "no steps"),
        ([0.3, 0.3, 0.2, 0.0], True, "max_steps"),
        ([0.9, 0.3], True, "threshold"),
    ],
)
def test_only_a_score_from_above_stops(
    tiny_model: Any, make_examples: Any, spec: Any, scores: list[float], forced: bool, stopped: str
) -> None:
    start = copy.deepcopy(tiny_model.state_dict())
    record = run(tiny_model, make_examples, scores, forced, **spec)
    assert (record.stopped, record.before) == (stopped, scores[0])
    moved = any(not torch.equal(start[n], p) for n, p in tiny_model.state_dict().items())
    assert moved == bool(record.steps) == (stopped != "no steps")
    if scores[0] <= 0.3:
        assert any("before step 1" in note for note in record.notes)

"""SatImp's loss: by hand, its slope, its limits, what must not matter, what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ssiuu.errors import ConfigError
from ssiuu.likelihood import AnswerLogprobs
from ssiuu.methods import make
from ssiuu.methods.base import View
from ssiuu.methods.objectives.ga import ga_loss
from ssiuu.methods.objectives.satimp import satimp_loss
from ssiuu.methods.objectives.wga import wga_loss


def answers(*rows: list[float]) -> AnswerLogprobs:
    """Answers with these probabilities, padded on the left."""
    width = max(map(len, rows))
    tokens = [[0.0] * (width - len(r)) + [math.log(p) for p in r] for r in rows]
    mask = [[False] * (width - len(r)) + [True] * len(r) for r in rows]
    return AnswerLogprobs(torch.tensor(tokens, dtype=torch.float64), torch.tensor(mask))


def test_two_answers_by_hand() -> None:
    """p of 1/2 and 1/4 with a = 2, b = 1: p^2 (1 - p) log p."""
    found = satimp_loss(answers([0.5, 0.25], [0.5]), 2.0, 1.0)
    half, quarter = 0.25 * 0.5 * math.log(0.5), 0.0625 * 0.75 * math.log(0.25)
    assert found.tolist() == pytest.approx([half + quarter, half])


def test_without_importance_it_is_wga_and_without_either_ga() -> None:
    rows = answers([0.9, 0.2, 0.01], [0.5])
    for power in (0.0, 1.0, 3.5):
        assert torch.equal(satimp_loss(rows, power, 0.0), wga_loss(rows, power))
    assert torch.equal(satimp_loss(rows, 0.0, 0.0), ga_loss(rows))


def test_the_slope_is_the_weight_in_float64() -> None:
    """The finite difference of sum w log p with the weights held."""
    logs = torch.tensor([[-0.3, -2.0, -5.0]], dtype=torch.float64, requires_grad=True)
    mask = torch.ones(1, 3, dtype=torch.bool)
    (slope,) = torch.autograd.grad(satimp_loss(AnswerLogprobs(logs, mask), 1.5, 0.7).sum(), logs)
    p, h = logs.detach().exp(), 1e-6
    weights = p**1.5 * (1 - p) ** 0.7
    for t in range(3):
        ends = [logs.detach().clone() for _ in range(2)]
        ends[0][0, t] += h
        ends[1][0, t] -= h
        up, down = (float((weights * end).sum()) for end in ends)
        assert float(slope[0, t]) == pytest.approx((up - down) / (2 * h), rel=1e-8)


@pytest.mark.parametrize("p", [1e-12, 1.0])
def test_what_is_forgotten_or_certain_is_not_pushed(p: float) -> None:
    logs = torch.tensor([[math.log(p)]], dtype=torch.float64, requires_grad=True)
    rows = AnswerLogprobs(logs, torch.ones(1, 1, dtype=torch.bool))
    (slope,) = torch.autograd.grad(satimp_loss(rows, 5.0, 1.0).sum(), logs)
    assert float(slope) == pytest.approx(0.0, abs=1e-12)


def test_padding_does_not_matter() -> None:
    alone, padded = answers([0.5]), answers([0.5], [0.1, 0.2, 0.3])
    assert satimp_loss(padded, 5.0, 1.0)[0] == satimp_loss(alone, 5.0, 1.0)[0]


def test_its_weight_multiplies() -> None:
    view = View(answers([0.5, 0.25]))
    plain = make({"name": "satimp", "forget_weight": 1}).objective.forget_loss(view)
    assert torch.allclose(make("satimp").objective.forget_loss(view), 0.1 * plain)


@pytest.mark.parametrize(
    ("key", "value"), [("saturation", -1), ("importance", math.nan), ("forget_weight", 0)]
)
def test_a_knob_out_of_range_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"methods: satimp\.{key}: .*got"):
        make({"name": "satimp", key: value})

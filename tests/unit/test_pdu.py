"""PDU: the margin by hand and by differences, the multiplier by its formula, saved and resumed."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from ssiuu.errors import ConfigError
from ssiuu.likelihood import collate
from ssiuu.methods import make
from ssiuu.methods.base import Losses
from ssiuu.methods.objectives.pdu import Multiplier, margin_loss
from ssiuu.training.state import load_state, save_state
from ssiuu.training.step import Step

PAD = 1


def test_one_answer_by_hand() -> None:
    """Logits 3, 0, 0: the largest is 2 above the mean; a token outside of the answer is not counted."""
    logits = torch.tensor([[[9.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 1.5, 0.0]]])
    mask = torch.tensor([[False, True, True]])
    assert margin_loss(logits, mask).tolist() == [2.0**2 + 1.0**2]


def test_flat_logits_lose_nothing_and_a_shift_changes_nothing() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    assert not margin_loss(torch.full((2, 3, 5), 7.0), mask).any()
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(margin_loss(logits + 3.0, mask), margin_loss(logits, mask))


def test_the_slope_is_a_finite_difference_in_float64() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 2, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    (slope,) = torch.autograd.grad(margin_loss(logits, mask).sum(), logits)
    h = 1e-6
    for i in range(logits.numel()):
        ends = [logits.detach().clone() for _ in range(2)]
        ends[0].view(-1)[i] += h
        ends[1].view(-1)[i] -= h
        up, down = (float(margin_loss(end, mask).sum()) for end in ends)
        assert float(slope.view(-1)[i]) == pytest.approx((up - down) / (2 * h), rel=1e-6, abs=1e-8)


def run(losses: list[float], **given: Any) -> list[float]:
    """The multiplier before each step, for these retain losses; it begins at 1."""
    bound = Multiplier(make({"name": "pdu", **given}).objective)
    found = []
    for loss in losses:
        found.append(bound.weigh(1.0))
        bound.after(Losses(0.0, loss, None), 1e-3)
    return [*found, bound.weigh(1.0)]


def test_the_multiplier_follows_its_formula() -> None:
    """1, then plus 0.5 (loss - 2) after each step but the first, and never below 0."""
    found = run([3.0, 3.0, 4.0, 0.0, -8.0], retain_limit=2.0, dual_rate=0.5, dual_warmup=1)
    assert found == [1.0, 1.0, 1.5, 2.5, 1.5, 0.0]


def test_several_steps_count_by_their_mean() -> None:
    """Warm after one step; then 1 + (mean of 3 and 5, less 2), and of the third pair as much."""
    found = run([9.0, 3.0, 5.0, 2.0, 4.0], retain_limit=2.0, dual_warmup=1, dual_every=2)
    assert found == [1.0, 1.0, 1.0, 3.0, 3.0, 4.0]


def test_without_a_limit_it_is_the_first_steps_loss() -> None:
    assert run([3.0, 4.0, 3.0], dual_rate=1.0, dual_warmup=0) == [1.0, 1.0, 2.0, 2.0]


def test_the_step_weighs_the_retain_gradient_by_it(exact_model: Any, make_examples: Any) -> None:
    """After a warm step over the limit: the parameters' gradient is forget + multiplier * retain."""
    forget, retain = (collate(make_examples(3, seed=s), PAD) for s in (0, 1))
    given = {"name": "pdu", "retain_limit": 0.0, "dual_rate": 0.25, "dual_warmup": 0}
    step = Step(exact_model, make(given), 1e-3)
    first = step([forget], [retain])
    assert first.told["multiplier"] == pytest.approx(1.0 + 0.25 * first.retain_loss)
    before = copy.deepcopy(exact_model)
    step([forget], [retain])
    found = {n: p.grad.clone() for n, p in exact_model.named_parameters()}
    weight = first.told["multiplier"]
    fixed = make({"name": "pdu", "retain_weight": weight, "dual_rate": 0.0})
    Step(before, fixed, 1e-3)([forget], [retain])
    for name, parameter in before.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-12, atol=1e-14)


def test_the_multiplier_is_saved_and_taken_up(
    exact_model: Any, make_examples: Any, tmp_path: Path
) -> None:
    forget, retain = (collate(make_examples(3, seed=s), PAD) for s in (0, 1))
    method, other = make({"name": "pdu", "dual_warmup": 0, "dual_every": 2}), copy.deepcopy(exact_model)
    step = Step(exact_model, method, 1e-2)
    for _ in range(3):
        step([forget], [retain])
    save_state(tmp_path / "state", step, {"key": "k"})
    again = Step(other, method, 1e-2)
    assert load_state(tmp_path / "state", again, "k") is not None
    assert step([forget], [retain]) == again([forget], [retain])
    assert step.bound("pdu").value == again.bound("pdu").value != 1.0


def test_a_large_margin_is_not_divergence(tiny_model: Any, make_examples: Any) -> None:
    """It is no likelihood: a thousand is nothing out of the ordinary."""
    with torch.no_grad():
        tiny_model.lm_head.weight.mul_(60.0)
    forget, retain = (collate(make_examples(3, seed=s), PAD) for s in (0, 1))
    outcome = Step(tiny_model, make({"name": "pdu", "retain_weight": 1e-3}), 1e-9)([forget], [retain])
    assert outcome.forget_loss > 1000


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"methods: pdu: .*a retain term is needed"):
        make({"name": "pdu", "retain": "none"})
    for key, value in (
        ("dual_rate", -1),
        ("dual_warmup", -1),
        ("dual_every", 0),
        ("retain_limit", math.nan),
    ):
        with pytest.raises(ConfigError, match=rf"methods: pdu\.{key}: .*got"):
            make({"name": "pdu", key: value})

"""Ssiuu's objective as printed: the whole derivative of the penalty, beside finite differences of it.

All in float64, where the memory A_{t-1} is stored as it is.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from ssiuu.attribution.curvature import hessian_vector
from ssiuu.errors import ConfigError
from ssiuu.likelihood import Example, answer_logprobs, collate
from ssiuu.methods import make
from ssiuu.methods.transforms.ssiuu import Ssiuu
from ssiuu.models.lora import Lora, adapted
from ssiuu.models.sites import find_sites
from ssiuu.training.prepare import prepare_parts
from ssiuu.training.step import Step
from ssiuu.training.trainer import SsiuuTerm

PAD, RATE, LAMBDA = 1, 3e-3, 50.0
FORMS = ("", "-logprob", "-growth", "-neuron", "-absolute", "-positive", "-logprob-growth-neuron")

Values = dict[str, Tensor]


@pytest.fixture
def forget(make_examples: Any) -> list[Example]:
    examples: list[Example] = make_examples(4, answer=(1, 3))
    return examples


def attributions(model: Any, examples: list[Example], form: Ssiuu) -> Values:
    """A of every feature: phi_j times the derivative of the sum of P(y|x), row by row for neurons."""
    named = dict(model.named_parameters())
    total = torch.zeros((), dtype=torch.float64)
    for e in examples:
        logp = answer_logprobs(model, collate([e], PAD)).sum.sum()
        total = total + (logp.exp() if form.target == "probability" else logp)
    gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    found = {n: p.detach() * g for (n, p), g in zip(named.items(), gradients, strict=True)}
    if form.level == "neuron":
        rows = {f"{site.path}.weight" for site in find_sites(model)}
        return {n: a.sum(1) for n, a in found.items() if n in rows}
    return found


def penalty(now: Values, before: Values, fixed: Values, form: Ssiuu) -> Tensor:
    """lambda Sigma (A_t - A_{t-1})^2 where it acts, which is held fixed."""
    total = torch.zeros((), dtype=torch.float64)
    for name, where in fixed.items():
        change = (now[name] - before[name])[where]
        total += (change.abs() if form.penalty == "absolute" else change.square()).sum()
    return LAMBDA * total


def acting(now: Values, before: Values, form: Ssiuu) -> Values:
    found = {}
    for name, a in now.items():
        where = a > 0 if form.index == "positive" else a < 0
        found[name] = where & (a < before[name]) if form.side == "growth" else where
    return found


def added(model: Any, spec: dict[str, Any], forget: list[Example], micro: int) -> tuple[Any, Values]:
    """Take a step, then return where it led, and what the second one adds to the forget gradient."""
    pieces = [forget[i : i + micro] for i in range(0, len(forget), micro)]
    batches = [collate(piece, PAD) for piece in pieces]
    gradients = []
    for strength in (LAMBDA, 0.0):
        trained = copy.deepcopy(model)
        method = make(spec | {"lambda": strength})
        step = Step(trained, method, RATE, prepared=prepare_parts(model, method, forget, [], PAD))
        step(batches, [])
        here = copy.deepcopy(trained)
        step(batches, [])
        gradients.append({n: p.grad.clone() for n, p in step.named.items()})
        step.close()
    return here, {n: g - gradients[1][n] for n, g in gradients[0].items()}


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_is_that_of_the_penalty_itself(
    form: str, exact_model: Any, forget: list[Example]
) -> None:
    """Central differences of the printed penalty along random directions, its mask and A_{t-1} fixed.

    With g held constant, as in Algorithm 1, the same differences are missed.
    """
    spec = {"name": f"ssiuu-exact{form}"}
    method = make(spec)
    part = method.part("ssiuu")
    here, found = added(exact_model, spec, forget, len(forget))
    before, now = (attributions(m, forget, part) for m in (exact_model, here))
    fixed = acting(now, before, part)
    _, constant = added(exact_model, {"name": f"ssiuu{form}"}, forget, len(forget))
    misses = []
    for seed in range(3):
        drawn = torch.Generator().manual_seed(seed)
        along = {n: torch.randn(p.shape, generator=drawn, dtype=p.dtype) for n, p in found.items()}
        ends = []
        for step in (1e-6, -1e-6):
            moved = copy.deepcopy(here)
            with torch.no_grad():
                for name, p in moved.named_parameters():
                    p.add_(along[name], alpha=step)
            ends.append(penalty(attributions(moved, forget, part), before, fixed, part))
        slope = float(ends[0] - ends[1]) / 2e-6
        assert float(sum((found[n] * v).sum() for n, v in along.items())) == pytest.approx(
            slope, rel=2e-5
        )
        misses.append(float(sum((constant[n] * v).sum() for n, v in along.items())) / slope - 1)
    assert max(abs(miss) for miss in misses) > 0.02


def test_micro_batches_change_nothing(exact_model: Any, forget: list[Example]) -> None:
    ends = [added(exact_model, {"name": "ssiuu-exact"}, forget, micro)[1] for micro in (4, 2)]
    for name, gradient in ends[0].items():
        torch.testing.assert_close(gradient, ends[1][name], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("target", ["probability", "logprob"])
def test_a_product_with_the_hessian_is_a_difference_of_gradients(
    target: Any, exact_model: Any, forget: list[Example]
) -> None:
    """And the Hessian is symmetric; what stands in `.grad` stays, and so does the mode."""
    named = dict(exact_model.named_parameters())
    batches = [collate(forget[:1], PAD), collate(forget[1:], PAD)]
    for number, p in enumerate(named.values()):
        p.grad = torch.full_like(p, float(number))
    vectors = []
    for seed in range(2):
        drawn = torch.Generator().manual_seed(seed)
        vectors.append(
            {n: torch.randn(p.shape, generator=drawn, dtype=p.dtype) for n, p in named.items()}
        )
    exact_model.train()
    products = [hessian_vector(exact_model, batches, named, v, target) for v in vectors]
    assert exact_model.training
    assert all((p.grad == number).all() for number, p in enumerate(named.values()))
    crossed = [
        float(sum((products[a][n] * vectors[b][n]).sum() for n in named)) for a, b in ((0, 1), (1, 0))
    ]
    assert crossed[0] == pytest.approx(crossed[1], rel=1e-9)
    exact_model.eval()
    gradients = []
    for step in (1e-6, -1e-6):
        moved = copy.deepcopy(exact_model)
        with torch.no_grad():
            for name, p in moved.named_parameters():
                p.add_(vectors[0][name], alpha=step)
        logps = torch.cat([answer_logprobs(moved, b).sum for b in batches])
        value = (logps.exp() if target == "probability" else logps).sum()
        gradients.append(torch.autograd.grad(value, list(moved.parameters()), allow_unused=True))
    for name, up, down in zip(named, *gradients, strict=True):
        wanted = torch.zeros_like(named[name]) if up is None else (up - down) / 2e-6
        torch.testing.assert_close(products[0][name], wanted.detach(), rtol=1e-5, atol=1e-7)


def test_the_first_step_and_no_strength_are_gd(exact_model: Any, forget: list[Example]) -> None:
    """Before there is a memory nothing is added, and no product is taken."""
    here, found = added(exact_model, {"name": "ssiuu-exact"}, forget, 4)
    alone = copy.deepcopy(exact_model)
    Step(alone, make("gd"), RATE)([collate(forget, PAD)], [])
    for name, p in alone.named_parameters():
        assert torch.equal(p, here.get_parameter(name))
    assert any(g.any() for g in found.values())


def test_it_acts_before_what_is_done_to_the_forget_gradient(
    exact_model: Any, forget: list[Example]
) -> None:
    """A projection takes its directions out of the whole of it, and SAM's point is where A is."""
    spec = {"name": "ssiuu-exact+projection", "projection": 3}
    prepared = prepare_parts(exact_model, make(spec), forget, forget, PAD)
    model, method = copy.deepcopy(exact_model), make(spec | {"lambda": LAMBDA})
    step = Step(model, method, RATE, prepared=prepared)
    for _ in range(2):
        step([collate(forget, PAD)], [])
    for name, basis in prepared.parts["projection"].items():
        along = step.named[name].grad.float() @ basis.inputs
        assert float(along.norm()) < 1e-5 * float(step.named[name].grad.norm())
    assert step.bound("ssiuu").told()["penalty_share"] > 0


def test_what_it_is_called_and_whose_it_is() -> None:
    method = make("ssiuu-exact")
    assert (method.label, method.whose) == ("ssiuu-exact", "paper")
    assert "the objective as printed (Eq. 3, 6)" in method.description
    assert make("gd+ssiuu(exact,growth)").label == "ssiuu-growth-exact"
    assert make("ssiuu").description.startswith("Ssiuu, Algorithm 1 as printed")


def test_where_it_cannot_be_had_is_refused(tiny_model: Any) -> None:
    with pytest.raises(ConfigError, match="rho is for derivative: constant; give lambda"):
        make("ssiuu-exact-rho0.5")
    with pytest.raises(ConfigError, match="SsiuuTerm: derivative: exact"):
        SsiuuTerm(tiny_model, Ssiuu(derivative="exact"))
    with adapted(tiny_model, Lora(2, 4.0)), pytest.raises(ConfigError, match="no effective space"):
        Step(tiny_model, make("ssiuu-exact"), RATE, effective=True)

"""The paper's Algorithm 1, written out parameter by parameter, beside `ssiuu.training.step.Step`.

At step t, over the batch B and with P(y|x) = prod_t p(y_t | x, y_<t):

    g_j   = sum over B of dP(y|x)/dphi_j            (one autograd per example, no padding)
    A_t,j = phi_j g_j
    d_j   = dL_GD/dphi_j + 2 lambda (A_t,j - A_{t-1,j}) g_j   where A_t,j < 0 and t > 1
    phi   = AdamW(phi, d)
"""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ssiuu.likelihood import Batch, Example, answer_logprobs, collate
from ssiuu.methods import make
from ssiuu.methods.regulariser import Moved, Regulariser
from ssiuu.training.step import Step

PAD = 1
RATE = 1e-3
STEPS = 4


def log_p(model: Any, example: Example) -> Tensor:
    """log P(y|x) of one example, token by token from one unpadded forward."""
    row = example.prompt + example.answer
    logits = model(input_ids=torch.tensor([row])).logits[0]
    total = torch.zeros((), dtype=logits.dtype)
    for t, token in enumerate(example.answer):
        total = total + logits[len(example.prompt) + t - 1].log_softmax(-1)[token]
    return total


def gradient_of(value: Tensor, model: Any) -> list[Tensor]:
    return list(torch.autograd.grad(value, list(model.parameters()), retain_graph=True))


class Literal:
    """Algorithm 1 with its own AdamW (Loshchilov and Hutter, Alg. 2), all in explicit loops."""

    def __init__(self, model: Any, strength: float, target: str = "probability") -> None:
        self.model, self.strength, self.target = model, strength, target
        self.parameters = list(model.parameters())
        self.before: list[Tensor] | None = None
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.t = 0
        self.share = 0.0

    def step(self, forget: list[Example], retain: list[Example], decay: float) -> None:
        self.t += 1
        g = [torch.zeros_like(p) for p in self.parameters]
        for example in forget:
            value = log_p(self.model, example)
            value = value.exp() if self.target == "probability" else value
            g = [a + b for a, b in zip(g, gradient_of(value, self.model), strict=True)]
        influence = [p.detach() * a for p, a in zip(self.parameters, g, strict=True)]
        ascent = sum(log_p(self.model, e) for e in forget) / sum(len(e.answer) for e in forget)
        descent = -sum(log_p(self.model, e) for e in retain) / sum(len(e.answer) for e in retain)
        direction = gradient_of(ascent + descent, self.model)
        (forget_only,) = [torch.cat([d.view(-1) for d in gradient_of(ascent, self.model)])]
        squared = 0.0
        for j, d in enumerate(direction):
            flat, a_t, grad = d.view(-1), influence[j].view(-1), g[j].view(-1)
            if self.before is None:
                continue
            a_before = self.before[j].view(-1)
            for n in range(flat.numel()):
                if a_t[n] < 0:
                    added = 2 * self.strength * (a_t[n] - a_before[n]) * grad[n]
                    flat[n] += added
                    squared += float(added) ** 2
        self.share = math.sqrt(squared) / float(forget_only.norm())
        self.before = influence
        self._adamw(direction, decay)

    @torch.no_grad()
    def _adamw(self, direction: list[Tensor], decay: float) -> None:
        for j, (p, d) in enumerate(zip(self.parameters, direction, strict=True)):
            self.m[j] = 0.9 * self.m[j] + 0.1 * d
            self.v[j] = 0.999 * self.v[j] + 0.001 * d * d
            m, v = self.m[j] / (1 - 0.9**self.t), self.v[j] / (1 - 0.999**self.t)
            p.copy_(p - RATE * decay * p - RATE * m / (v.sqrt() + 1e-8))


def batches_of(examples: list[Example], micro: int | None = None) -> list[Batch]:
    size = micro or len(examples)
    return [collate(examples[i : i + size], PAD) for i in range(0, len(examples), size)]


def largest_difference(a: Any, b: Any) -> float:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return max(float((x.detach() - y.detach()).abs().max()) for x, y in pairs)


def drift(a: Any, b: Any) -> float:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return max(float((x.detach() - y.detach()).norm()) for x, y in pairs)


@pytest.fixture
def rows(make_examples: Any) -> tuple[list[list[Example]], list[list[Example]]]:
    forget = [make_examples(3, seed=t, answer=(1, 2)) for t in range(STEPS)]
    retain = [make_examples(3, seed=100 + t) for t in range(STEPS)]
    return forget, retain


@pytest.mark.parametrize("target", ["probability", "logprob"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_four_steps_are_algorithm_1(exact_model: Any, rows: Any, target: str, decay: float) -> None:
    strength = 5000.0 if target == "probability" else 0.5  # strong enough to matter beside GD
    mine, slow = copy.deepcopy(exact_model), copy.deepcopy(exact_model)
    plain = copy.deepcopy(exact_model)
    method = make({"name": "ssiuu", "lambda": strength, "target": target})
    step = Step(mine, method, RATE, weight_decay=decay)
    gd = Step(plain, make("gd"), RATE, weight_decay=decay)
    literal = Literal(slow, strength, target)
    for t, (forget, retain) in enumerate(zip(*rows, strict=True)):
        outcome = step(batches_of(forget), batches_of(retain))
        gd(batches_of(forget), batches_of(retain))
        literal.step(forget, retain, decay)
        if t:
            assert outcome.penalty_share == pytest.approx(literal.share, rel=1e-5)
            assert literal.share > 1e-3
        else:
            assert outcome.penalty_share is None  # no penalty at t = 1, which is not a share of 0
    # 1e-9 where sqrt(v) is near epsilon; the steps themselves are 1e-3 long.
    assert largest_difference(mine, slow) < 1e-12
    assert largest_difference(mine, plain) > 1e-4


def test_no_penalty_at_the_first_step(tiny_model: Any, rows: Any) -> None:
    first, second = copy.deepcopy(tiny_model), copy.deepcopy(tiny_model)
    forget, retain = batches_of(rows[0][0]), batches_of(rows[1][0])
    # One batch or two: the order of the sums differs in the last digit.
    Step(first, make({"name": "ssiuu", "lambda": 1e3}), RATE, together=False)(forget, retain)
    Step(second, make("gd"), RATE, together=False)(forget, retain)
    assert largest_difference(first, second) == 0.0


def test_lambda_zero_is_gd_bitwise(tiny_model: Any, rows: Any) -> None:
    one, two = copy.deepcopy(tiny_model), copy.deepcopy(tiny_model)
    zero = Step(one, make({"name": "ssiuu", "lambda": 0.0}), RATE)
    gd = Step(two, make("gd"), RATE)
    for forget, retain in zip(*rows, strict=True):
        zero(batches_of(forget), batches_of(retain))
        gd(batches_of(forget), batches_of(retain))
    assert largest_difference(one, two) == 0.0
    assert drift(one, tiny_model) > 0


@pytest.mark.parametrize("target", ["probability", "logprob"])
def test_micro_batches_are_one_batch(exact_model: Any, rows: Any, target: str) -> None:
    whole, split = copy.deepcopy(exact_model), copy.deepcopy(exact_model)
    method = make({"name": "ssiuu", "lambda": 1.0, "target": target})
    a, b = Step(whole, method, RATE), Step(split, method, RATE)
    for forget, retain in zip(*rows, strict=True):
        one = a(batches_of(forget), batches_of(retain))
        two = b(batches_of(forget, 2), batches_of(retain, 1))
        assert one.forget_loss == pytest.approx(two.forget_loss, rel=1e-6)
        assert one.retain_loss == pytest.approx(two.retain_loss, rel=1e-6)
        assert (one.penalty_share is None) == (two.penalty_share is None)
        if one.penalty_share is not None:
            assert one.penalty_share == pytest.approx(two.penalty_share, rel=1e-6)
    assert one.penalty_share is not None
    assert largest_difference(whole, split) < 1e-8


@pytest.mark.parametrize("target", ["probability", "logprob"])
def test_influence_is_parameter_times_explicit_gradient(
    exact_model: Any, make_examples: Any, target: str
) -> None:
    """The log P form reads g off the forget gradient; it must be the sum of d log P all the same."""
    model = copy.deepcopy(exact_model)
    forget = make_examples(5, answer=(1, 2))
    step = Step(model, make({"name": "ssiuu", "target": target}), RATE)
    step(batches_of(forget, 2), batches_of(make_examples(2, seed=9)))
    values = [log_p(exact_model, e) for e in forget]
    total = torch.stack(values)
    total = total.exp().sum() if target == "probability" else total.sum()
    wanted = torch.autograd.grad(total, list(exact_model.parameters()))
    assert step.bound("ssiuu").regulariser is not None
    for (name, parameter), g in zip(exact_model.named_parameters(), wanted, strict=True):
        found = step.bound("ssiuu").regulariser.reference[name]
        torch.testing.assert_close(found, (parameter.detach() * g).view(-1), rtol=1e-9, atol=1e-12)


def test_penalty_is_the_gradient_with_g_for_the_derivative_of_a() -> None:
    """The Hessian is dropped: dA_j/dphi_j is g_j, not g_j + phi_j dg_j/dphi_j.

    So the added gradient is autograd's of lambda sum_{A<0} (A_before - phi g)^2 with g a constant.
    """
    generator = torch.Generator().manual_seed(3)
    phi, g, before = torch.randn((3, 40), generator=generator, dtype=torch.float64)
    phi.requires_grad_()
    influence = phi * g
    negative = influence < 0
    loss = 0.3 * (before - influence)[negative].square().sum()
    (wanted,) = torch.autograd.grad(loss, phi)
    assert 5 < int(negative.sum()) < 35
    method = make({"name": "ssiuu", "lambda": 0.3})
    regulariser = Regulariser(method.part("ssiuu"), reference={"w": before.clone()})
    found = torch.zeros_like(g)
    regulariser.apply("w", phi.detach(), g, found, 1.0, 0.3, Moved())
    torch.testing.assert_close(found, wanted)
    assert (found[~negative] == 0).all()


def test_share_and_count_by_hand() -> None:
    """phi = (1, -1, 2), g = 1 then (1, 2, -1): A goes from (1, -1, 2) to (1, -2, -2)."""
    regulariser = Regulariser(make({"name": "ssiuu", "lambda": 0.5}).part("ssiuu"))
    phi = torch.tensor([1.0, -1.0, 2.0])
    forget = torch.tensor([1.0, 1.0, 800.0])
    first, second = Moved(), Moved()
    regulariser.apply("w", phi, torch.ones(3), forget, 1.0, 0.5, first)
    assert (float(first.penalty_squared), int(first.parameters), first.total) == (0.0, 0, 3)
    regulariser.apply("w", phi, torch.tensor([1.0, 2.0, -1.0]), forget, 1.0, 0.5, second)
    # 2 * 0.5 * (-2 - -1) * 2 = -2 and 2 * 0.5 * (-2 - 2) * -1 = 4; 4 is under 1 % of 800.
    torch.testing.assert_close(forget, torch.tensor([1.0, -1.0, 804.0]))
    assert float(second.penalty_squared) == pytest.approx(20)
    assert second.share == pytest.approx(math.sqrt(20 / (2 + 800**2)))
    assert (int(second.parameters), second.total) == (1, 3)


def test_tiny_penalties_are_measured() -> None:
    """P of a long answer is 1e-12 and the penalty's square underflows in fp32: still not 0."""
    regulariser = Regulariser(make("ssiuu").part("ssiuu"))
    phi, g = torch.tensor([-1.0]), torch.tensor([1e-12])
    regulariser.apply("w", phi, 0.5 * g, torch.zeros(1), 1.0, 1e-3, Moved())
    moved = Moved()
    regulariser.apply("w", phi, g, torch.zeros(1), 1.0, 1e-3, moved)
    # A_{t-1} is stored in bf16: a relative error of 1/256 at most.
    assert math.sqrt(moved.penalty_squared) == pytest.approx(1e-27, rel=1e-2, abs=0)


def test_batch_likelihood_is_the_literal_one(exact_model: Any, make_examples: Any) -> None:
    examples = make_examples(6)
    found = answer_logprobs(exact_model, collate(examples, PAD)).sum
    wanted = torch.stack([log_p(exact_model, e) for e in examples])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)

"""Two batches in one pass, their gradients apart: beside two passes, and what is left behind."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from test_second_gradient import MODELS, PAD, Borrowed, log_p
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from ssiuu.attribution.parameter import SplitGradients, _again, _Autocast, _multiplied
from ssiuu.likelihood import answer_logprobs, collate, join
from ssiuu.methods import make
from ssiuu.training.prepare import Prepared, prepare_parts
from ssiuu.training.step import Step

SPLITS = [name for name in MODELS if "gpt2" not in name]  # its maps are stored transposed
SHAPING = [
    {"name": "ssiuu", "lambda": 3.0},
    {"name": "ssiuu", "lambda": 0.3, "target": "logprob"},
    {"name": "ssiuu", "lambda": 0.3, "backbone": "npo", "target": "logprob", "side": "growth"},
    {"name": "ssiuu", "gate": True},
    {"name": "ssiuu", "lambda": 3.0, "projection": 2},
    {"name": "gd", "projection": 2},
]


def rows(make_examples: Any, seed: int, count: int, short: bool = False) -> Any:
    return make_examples(count, seed, (2, 4) if short else (3, 9), (1, 2) if short else (1, 4))


def test_a_joined_batch_is_the_batch_of_all(make_examples: Any) -> None:
    """Whichever is the wider one, in questions or in answers."""
    for one, two in ((False, True), (True, False)):
        first, second = rows(make_examples, 0, 3, one), rows(make_examples, 1, 2, two)
        both, whole = join(collate(first, PAD), collate(second, PAD)), collate(first + second, PAD)
        assert both.ids == whole.ids
        for name in ("attention_mask", "position_ids", "answer_mask"):
            assert torch.equal(getattr(both, name), getattr(whole, name)), name
        assert torch.equal(both.input_ids * both.attention_mask, whole.input_ids * whole.attention_mask)
        assert torch.equal(both.targets * both.answer_mask, whole.targets * whole.answer_mask)


@pytest.mark.parametrize("name", SPLITS)
def test_both_gradients_are_those_of_their_rows(name: str, make_model: Any, make_examples: Any) -> None:
    build, tolerance = MODELS[name]
    model = build(make_model)
    named = dict(model.named_parameters())
    first, others, weights = rows(make_examples, 0, 3), rows(make_examples, 1, 2), [0.5, -2.0, 1.5]
    shown: dict[str, Tensor] = {}
    second: dict[str, Tensor] = {}
    split = SplitGradients(model, named)
    assert split.possible

    def whole(parameter: str, gradient: Tensor) -> None:
        shown[parameter] = gradient.clone()
        second[parameter] = split.second[parameter].clone()
        gradient *= 10  # what is done to the first gradient is not done to the others'

    both = join(collate(first, PAD), collate(others, PAD))
    with split.watching(3, 5, whole):
        total = answer_logprobs(model, both).sum
        assert split.heard
        split.scale = torch.tensor(weights, dtype=torch.float64)
        total.sum().backward()

    def gradient(examples: Any, factors: Any) -> list[Tensor]:
        value = sum(c * log_p(model, e) for c, e in zip(factors, examples, strict=True))
        return list(torch.autograd.grad(value, list(named.values())))

    plain, scaled, rest = gradient(first, [1] * 3), gradient(first, weights), gradient(others, [1] * 2)
    for (parameter, p), f, s, r in zip(named.items(), plain, scaled, rest, strict=True):
        size = dict(rtol=tolerance, atol=tolerance * float(f.abs().max()))
        torch.testing.assert_close(shown[parameter], f, **size)
        torch.testing.assert_close(second[parameter], s, **size)
        torch.testing.assert_close(p.grad, 10 * f + r, **size)


@pytest.mark.parametrize("spec", SHAPING, ids=lambda s: make(s).label)
@pytest.mark.parametrize("tied", [False, True])
def test_one_pass_is_two_passes(
    spec: dict[str, Any], tied: bool, make_model: Any, make_examples: Any
) -> None:
    """The parameters after three steps, and what each step told."""
    forget, retain = rows(make_examples, 0, 12), rows(make_examples, 1, 12)
    ends, told = [], []
    for together in (True, False):
        model = MODELS["llama, tied" if tied else "llama"][0](make_model)
        made = prepare_parts(model, make(spec), forget, retain, PAD)
        step = Step(model, make(spec), 1e-3, prepared=made, together=together)
        assert (step.split is not None) == together
        outcomes = []
        for t in range(3):
            cut = slice(4 * t, 4 * t + 4)
            outcomes.append(step([collate(forget[cut], PAD)], [collate(retain[cut], PAD)]))
        ends.append({n: p.detach() for n, p in model.named_parameters()})
        told.append(outcomes)
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-9, atol=1e-11)
    for one, two in zip(*told, strict=True):
        for key, value in vars(one).items():
            other = vars(two)[key]
            assert value == (other if other is None else pytest.approx(other, rel=1e-6)), key


@pytest.mark.parametrize(
    "name",
    ["gd", "npo", "simnpo", "wga", "undial+kl", "klue", "gd+kl"],
    ids=lambda s: make(s).label,
)
def test_methods_that_leave_the_gradient_alone(name: Any, make_model: Any, make_examples: Any) -> None:
    forget, retain = rows(make_examples, 0, 4), rows(make_examples, 1, 4)
    ends = []
    for together in (True, False):
        model = make_model(double=True)
        made = prepare_parts(model, make(name), forget, retain, PAD)
        step = Step(model, make(name), 1e-3, prepared=made, together=together)
        assert step.together == together
        step([collate(forget, PAD)], [collate(retain, PAD)])
        ends.append(torch.cat([p.detach().view(-1) for p in model.parameters()]))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(
    "spec", ["dpo", "npo-sam", "masked", "rmu", {"name": "ssiuu", "rho": 0.5, "target": "logprob"}]
)
def test_what_needs_its_own_passes_has_them(spec: Any, tiny_model: Any) -> None:
    method = make({"name": "rmu", "layer": 1, "update": ["lm_head"]} if spec == "rmu" else spec)
    assert not Step(tiny_model, method, 1e-3, prepared=Prepared()).together


def test_gpt2_takes_two_passes(make_model: Any, make_examples: Any) -> None:
    model = MODELS["gpt2, tied"][0](make_model)
    step = Step(model, make("ssiuu-logprob"), 1e-3)
    assert step.split is None
    batch = collate(rows(make_examples, 0, 2), PAD)
    assert step([batch], [batch]).retain_loss is not None


def test_a_parameter_used_elsewhere_is_noticed(make_model: Any, make_examples: Any) -> None:
    """The module that owns it is never called: two passes from then on, nothing is lost."""
    forget, retain = (collate(rows(make_examples, s, 3), PAD) for s in (0, 1))
    ends = []
    for together in (True, False):
        model = make_model(double=True)
        model.model.norm = Borrowed(model.model.norm)
        step = Step(model, make("ssiuu-logprob"), 1e-3, together=together)
        for _ in range(2):
            step([forget], [retain])
        assert step.split is None
        ends.append(torch.cat([p.detach().view(-1) for p in model.parameters()]))
    assert torch.equal(ends[0], ends[1])


def test_micro_batches_are_one_batch(make_model: Any, make_examples: Any) -> None:
    """Several micro-batches take two passes: the same step up to rounding."""
    forget, retain = rows(make_examples, 0, 4), rows(make_examples, 1, 4)
    ends = []
    for size in (4, 2):
        model = make_model(double=True)
        step = Step(model, make("ssiuu-logprob"), 1e-3)
        cut = [slice(i, i + size) for i in range(0, 4, size)]
        for _ in range(2):
            step([collate(forget[c], PAD) for c in cut], [collate(retain[c], PAD) for c in cut])
        ends.append(torch.cat([p.detach().view(-1) for p in model.parameters()]))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-11)


def test_nothing_is_left_behind(exact_model: Any, make_examples: Any) -> None:
    """Neither hooks nor frozen parameters, also when the pass breaks off."""
    split = SplitGradients(exact_model, dict(exact_model.named_parameters()))
    batch = collate(rows(make_examples, 0, 3), PAD)
    before = copy.deepcopy({n: p.requires_grad for n, p in exact_model.named_parameters()})
    with pytest.raises(ZeroDivisionError), split.watching(2, 3, lambda *_: None):
        answer_logprobs(exact_model, batch)
        raise ZeroDivisionError
    assert {n: p.requires_grad for n, p in exact_model.named_parameters()} == before
    assert not any(m._forward_hooks for m in exact_model.modules())
    assert not split.first and not split.later and not split.waiting


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_a_norms_gradient_is_to_the_bit_that_of_running_it_again(kind: torch.dtype) -> None:
    """Of what autograd has kept, where its last operation is a product with the weight."""
    norm = LlamaRMSNorm(33).to(kind)
    torch.nn.init.normal_(norm.weight)
    states, back = (
        torch.randn(5, 7, 33, dtype=kind, requires_grad=True),
        torch.randn(5, 7, 33, dtype=kind),
    )
    output = norm(states)
    factor = _multiplied(norm, {"weight": "norm"}, output)
    assert factor is not None
    cast = _Autocast.now(output)
    (again,) = _again(norm, {"weight": "norm"}, [states[:3]], {}, [back[:3]], cast)
    assert torch.equal((back * factor)[:3].flatten(0, -2).sum(0), again["norm"])


def test_of_a_norm_that_ends_otherwise_nothing_is_taken() -> None:
    norm, states = torch.nn.LayerNorm(8), torch.randn(2, 3, 8, requires_grad=True)
    assert _multiplied(norm, {"weight": "w", "bias": "b"}, norm(states)) is None
    shifted = torch.nn.Module()
    shifted.weight = torch.nn.Parameter(torch.ones(8))
    assert _multiplied(shifted, {"weight": "w"}, states * (1 + shifted.weight)) is None

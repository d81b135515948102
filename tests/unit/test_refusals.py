"""Losses that put something in the answer's place: by hand, slopes, limits, what must not matter."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ssiuu.errors import ConfigError
from ssiuu.likelihood import AnswerLogprobs, Example, collate
from ssiuu.methods import make
from ssiuu.methods.objectives.idknll import idknll_loss
from ssiuu.methods.objectives.jensun import jensun_loss
from ssiuu.methods.retain import js_loss
from ssiuu.training.prepare import prepare_parts
from ssiuu.training.step import Step
from ssiuu.training.views import laid

PAD = 1
LN2 = math.log(2)


def real(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.bool)


def agrees(loss: Any, at: Tensor, rtol: float = 1e-6) -> None:
    """The slope is a finite difference in every coordinate."""
    x, h = at.clone().requires_grad_(), 1e-6
    (slope,) = torch.autograd.grad(loss(x).sum(), x)
    for i in range(at.numel()):
        ends = [at.clone() for _ in range(2)]
        ends[0].view(-1)[i] += h
        ends[1].view(-1)[i] -= h
        up, down = (float(loss(end).sum()) for end in ends)
        assert float(slope.flatten()[i]) == pytest.approx((up - down) / (2 * h), rel=rtol, abs=1e-9)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon, as it is defined; what has no probability counts nothing."""
    m = (p + q) / 2
    return (torch.special.xlogy(p, p / m) + torch.special.xlogy(q, q / m)).sum(-1) / 2


# --- JensUn -------------------------------------------------------------------------------------


def test_jensun_is_the_divergence_from_one_word() -> None:
    logits, instead = noise(2, 3, 5), torch.tensor([[0, 4, 0], [2, 2, 1]])
    one = torch.nn.functional.one_hot(instead, 5).double()
    wanted = divergence(logits.softmax(-1), one).sum(1)
    torch.testing.assert_close(jensun_loss(logits, instead, whole(2, 3)), wanted)


def test_jensun_by_hand_and_at_its_ends() -> None:
    """q of 1/3: log 2 - (4/3 log 4/3 + 1/3 log 3) / 2; certain: 0; out of reach: log 2."""
    found = jensun_loss(real([[[0.0, 0.0, 0.0]]]), torch.tensor([[1]]), whole(1, 1))
    wanted = LN2 - (4 / 3 * math.log(4 / 3) + math.log(3) / 3) / 2
    assert found.item() == pytest.approx(wanted)
    for logit, end in ((90.0, 0.0), (-90.0, LN2)):
        x = real([[[logit, 0.0]]]).requires_grad_()
        loss = jensun_loss(x, torch.tensor([[0]]), whole(1, 1))
        (slope,) = torch.autograd.grad(loss.sum(), x)
        assert loss.item() == pytest.approx(end, abs=1e-12)
        assert float(slope.abs().max()) < 1e-12  # bounded, and nothing is pushed on for ever


def test_the_slopes_of_both_sides_are_finite_differences() -> None:
    logits, before = noise(1, 2, 4), noise(1, 2, 4, seed=1)
    agrees(lambda z: jensun_loss(z, torch.tensor([[3, 0]]), whole(1, 2)), logits)
    agrees(lambda z: js_loss(z, before, whole(1, 2)), logits)


def test_the_retain_side_is_the_divergence_and_goes_both_ways() -> None:
    now, before, mask = noise(1, 3, 5), noise(1, 3, 5, seed=1), torch.tensor([[False, True, True]])
    wanted = divergence(now.softmax(-1), before.softmax(-1))[:, 1:].sum(1)
    torch.testing.assert_close(js_loss(now, before, mask), wanted)
    torch.testing.assert_close(js_loss(before, now, mask), wanted)
    assert js_loss(now, now + 2.0, mask).item() == pytest.approx(0.0, abs=1e-12)


def test_a_refusal_is_laid_over_an_answer_again_and_again() -> None:
    mask = torch.tensor(
        [[False, True, True, True], [True, True, True, True], [False, False, False, True]]
    )
    found = laid([[7, 8], [5], [9, 6, 4]], mask)
    assert found.tolist() == [[0, 7, 8, 7], [5, 5, 5, 5], [0, 0, 0, 9]]


# --- IdkNLL -------------------------------------------------------------------------------------


def test_idknll_by_hand() -> None:
    """Two tokens of 1/2 and 1/8: two bits each; a refusal twice as long counts no more."""
    tokens = real([[-LN2, -3 * LN2], [0.0, -2 * LN2]])
    rows = AnswerLogprobs(tokens, torch.tensor([[True, True], [False, True]]))
    assert idknll_loss(rows).tolist() == pytest.approx([2 * LN2, 2 * LN2])
    agrees(lambda x: idknll_loss(AnswerLogprobs(x, rows.mask)), tokens)


def test_idknll_is_plain_fine_tuning_on_refusals(exact_model: Any, make_examples: Any) -> None:
    """Refusals of one length and no retain rows: the step of fine-tuning on them, bit for bit or so."""
    forget = make_examples(3)
    refused = [Example(e.id, e.prompt, [5, 6]) for e in forget]
    method = make({"name": "idknll", "retain_weight": 0})
    prepared = prepare_parts(exact_model, method, forget, [], PAD, refused)
    other = copy.deepcopy(exact_model)
    Step(exact_model, method, 1e-3, prepared=prepared, pad=PAD)([collate(forget, PAD)], [])
    Step(other, None, 1e-3, pad=PAD)([], [collate(refused, PAD)])
    for found, wanted in zip(exact_model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-9, atol=1e-12)


def test_the_bank_gives_a_fact_the_same_refusal_always() -> None:
    bank, paper = make("idknll").objective, make({"name": "idknll", "refusals": "paper"}).objective
    said = [bank.refusal(f"fact {n}") for n in range(40)]
    assert said == [bank.refusal(f"fact {n}") for n in range(40)] and len(set(said)) > 10
    assert {paper.refusal("a"), paper.refusal("b")} == {"I can't answer the question."}
    assert make("jensun").objective.refusal("a") == "No idea"


@pytest.mark.parametrize("retain", ["nll", "kl", "js", "kl+texts+others"])
@pytest.mark.parametrize("name", ["jensun", "idknll", "altpo", "ceu"])
def test_any_retain_term_stands_beside_it(
    name: str, retain: str, tiny_model: Any, make_examples: Any
) -> None:
    """The gradient is the forget loss's and that of every term, each of which is there."""
    forget, kept, texts = make_examples(3), make_examples(3, seed=1), make_examples(3, seed=2)
    refused = [Example(e.id, e.prompt, [5, 6]) for e in forget]
    suffix = "" if retain == "nll" else f"+{retain}"
    method = make(
        {"name": f"{name}{suffix}", "retain_weight": 2.0} | ({"retain": "nll"} if not suffix else {})
    )
    assert method.retain is not None and method.retain.name == retain.partition("+")[0]
    prepared = prepare_parts(tiny_model, method, forget, kept, PAD, refused, (), texts)
    step = Step(tiny_model, method, 1e-2, prepared=prepared, pad=PAD)
    batches = [[collate(rows, PAD)] for rows in (forget, kept, texts)]
    first = step(*batches)
    second = step(*batches)  # now the model has moved, and every divergence has a slope
    assert first.gradient_norm > 0 and second.retain_loss is not None
    if retain != "nll":
        assert first.retain_loss == pytest.approx(0.0, abs=1e-6) and second.retain_loss > 0
    assert (second.text_loss is not None) == ("texts" in retain)


# --- all of them --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["jensun", "idknll"])
def test_without_refusals_it_is_refused(name: str, tiny_model: Any, make_examples: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name}: there are no refusals"):
        prepare_parts(tiny_model, make(name), make_examples(2), [], PAD)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"name": "jensun", "instead": ""}, r"jensun\.instead: .*got ''"),
        ({"name": "idknll", "refusals": "none"}, r"idknll\.refusals: .*got 'none'"),
        ({"name": "jensun", "retain": "jss"}, r"jensun\.retain: .*got 'jss'"),
    ],
)
def test_what_does_not_fit_is_refused(given: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=f"methods: {told}"):
        make(given)

"""Whole steps with texts and the other words held, beside the definitions, example by example."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from test_method_steps import (
    PAD,
    RMU,
    agree,
    answer_logits,
    batches_of,
    forget_objective,
    gradients,
    moved,
    named,
    taken,
    tokens,
)
from torch import Tensor

import ssiuu.training.prepare as preparing
from ssiuu.likelihood import Example
from ssiuu.methods import Method, make
from ssiuu.models.lora import Lora, adapted, adapters
from ssiuu.records.schema import MethodInfo
from ssiuu.training.prepare import Frozen, Prepared, prepare_parts
from ssiuu.training.step import Step
from ssiuu.training.unlearn import Settings, StopRule, unlearn_examples

TEXTS, OTHERS = 2.0, 3.0
HELD = {"texts": TEXTS, "others": OTHERS}
SPEC: dict[str, Any] = {"name": "npo", "retain": "kl", "beta": 0.5, "retain_weight": 0.7}
# Beside what else it must stand: every loss and all that is done to a forget gradient.
BESIDE: dict[str, dict[str, Any]] = {
    "ga": {"name": "ga"},
    "npo+kl": SPEC,
    "gd+projection": {"name": "gd", "projection": 3, "projection_outputs": 2},
    "gd+random": {"name": "gd", "projection": 3, "projection_from": "random"},
    "collapse": {"name": "collapse", "projection": 3, "projection_outputs": 2},
    "gate": {"name": "ssiuu-gate-npo"},
    "ssiuu": {"name": "ssiuu", "lambda": 3e5},
    "ssiuu-npo": {"name": "ssiuu-npo-logprob", "lambda": 0.3},
    "ssiuu-npo+kl+projection": {"name": "ssiuu-npo+kl", "lambda": 3e5, "projection": 3},
    "ssiuu-wga": {"name": "ssiuu-wga", "lambda": 3e5},  # a second backward pass
    "ssiuu-rho": {"name": "ssiuu-rho0.5"},
    "masked": {"name": "masked", "decay": 0.5},
    "klue": {"name": "klue", "share": 0.2},
    "rmu": {"name": "rmu", **RMU},
    "rmu+nll": {"name": "rmu", "retain": "nll", **RMU},
    "npo-sam": {"name": "npo-sam", "beta": 0.5, "rho": 0.05},
    "dpo": {"name": "dpo"},
    "undial": {"name": "undial"},
    "simnpo": {"name": "simnpo"},
}


# --- the definitions ----------------------------------------------------------------------------


def of_tokens(model: Any, before: Any, e: Example) -> Iterator[tuple[Tensor, Tensor, int]]:
    """At every answer token the distribution before, the one now, and the token."""
    rows = zip(answer_logits(model, e), answer_logits(before, e).detach(), e.answer, strict=True)
    return ((r.softmax(-1), z.softmax(-1), y) for z, r, y in rows)


def divergence(model: Any, before: Any, e: Example) -> Tensor:
    return torch.stack([(p * (p / q).log()).sum() for p, q, _ in of_tokens(model, before, e)]).sum()


def others(model: Any, before: Any, e: Example) -> Tensor:
    """Sum over t of (1 - p_ref(y_t)) KL(q_ref || q), q the distribution of all words but y_t."""
    terms = []
    for p, q, y in of_tokens(model, before, e):
        rest = [v for v in range(len(p)) if v != y]
        there, here = p[rest] / (1 - p[y]), q[rest] / (1 - q[y])
        terms.append((1 - p[y]) * (there * (there / here).log()).sum())
    return torch.stack(terms).sum()


def holding(model: Any, before: Any, forget: Sequence[Example], held: Sequence[Example]) -> Tensor:
    """Both terms with their weights, each a mean over its own answer tokens."""
    kept = sum(divergence(model, before, e) for e in held) / tokens(held)
    return TEXTS * kept + OTHERS * sum(others(model, before, e) for e in forget) / tokens(forget)


class Rows:
    """Facts, texts, and what `prepare` makes of the model before for a method that holds."""

    def __init__(self, spec: dict[str, Any], model: Any, make_examples: Any) -> None:
        self.before = model
        self.forget = make_examples(4, answer=(1, 3))
        self.retain = named(make_examples(4, seed=1), "kept")
        self.texts = named(make_examples(4, seed=3, prompt=(1, 1), answer=(4, 6)), "text")
        self.plain, self.held = make(spec), make({**spec, **HELD})
        chosen = make_examples(4, seed=2)
        refusals = [Example(e.id, e.prompt, r.answer) for e, r in zip(self.forget, chosen, strict=True)]
        self.prepared = prepare_parts(
            model, self.held, self.forget, self.retain, PAD, refusals, texts=self.texts
        )
        for name, b in self.prepared.parts.get("projection", {}).items():
            exact = {k: v.double() if isinstance(v, Tensor) else v for k, v in vars(b).items()}
            self.prepared.parts["projection"][name] = type(b)(**exact)

    def step(self, method: Method, rate: float = 1e-3, **given: Any) -> tuple[Any, Step]:
        model = moved(self.before)
        return model, Step(model, method, rate, prepared=self.prepared, pad=PAD, **given)

    def take(self, step: Step, part: slice = slice(None), micro: int | None = None) -> Any:
        rows = (self.forget[part], self.retain[part], self.texts[part])
        forget, retain, held = (batches_of(r, micro) for r in rows)
        assert step.method is not None
        return step(forget, retain, held if step.method.options.get("texts") else ())


@pytest.fixture
def rows(exact_model: Any, make_examples: Any) -> Rows:
    return Rows(SPEC, exact_model, make_examples)


# --- the whole objective ------------------------------------------------------------------------


def objective(rows: Rows, model: Any) -> Tensor:
    kept = sum(divergence(model, rows.before, e) for e in rows.retain) / tokens(rows.retain)
    return (
        forget_objective(SPEC, model, rows.before, rows.forget, {})
        + SPEC["retain_weight"] * kept
        + holding(model, rows.before, rows.forget, rows.texts)
    )


def test_a_step_is_the_stated_objective(rows: Rows) -> None:
    model, step = rows.step(rows.held)
    wanted = gradients(model, objective(rows, model))
    kept = sum(divergence(model, rows.before, e) for e in rows.texts) / tokens(rows.texts)
    outcome = rows.take(step)
    agree(taken(model), wanted)
    length = math.sqrt(sum(float(g.square().sum()) for g in wanted.values()))
    assert outcome.gradient_norm == pytest.approx(length, rel=1e-6)
    assert outcome.text_loss == pytest.approx(float(kept.detach()), rel=1e-9)


def test_the_gradient_is_the_finite_difference_of_the_objective(rows: Rows) -> None:
    model, step = rows.step(rows.held, rate=0.0)
    rows.take(step)
    rng, h, largest = random.Random(0), 1e-5, 0.0
    for name in ("lm_head.weight", "model.layers.0.mlp.up_proj.weight"):
        parameter = model.get_parameter(name)
        grads, flat = parameter.grad.view(-1), parameter.data.view(-1)
        for index in {int(grads.abs().argmax()), rng.randrange(flat.numel())}:
            there, values = float(flat[index]), []
            for shifted in (there + h, there - h):
                flat[index] = shifted
                with torch.no_grad():
                    values.append(float(objective(rows, model)))
            flat[index] = there
            slope = (values[0] - values[1]) / (2 * h)
            assert float(grads[index]) == pytest.approx(slope, rel=1e-5, abs=1e-8), name
            largest = max(largest, abs(slope))
    assert largest > 1e-2


def test_before_the_first_step_nothing_holds(rows: Rows) -> None:
    """At the model before both divergences are least: 0, with no slope."""
    found = []
    for method in (rows.plain, rows.held):
        model = copy.deepcopy(rows.before)
        outcome = rows.take(Step(model, method, 1e-3, prepared=rows.prepared, pad=PAD))
        found.append(taken(model))
    agree(found[1], found[0], rtol=1e-9, atol=1e-12)
    assert abs(outcome.text_loss) < 1e-12


def parameters(model: Any) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def close(found: dict[str, Tensor], wanted: dict[str, Tensor], atol: float = 1e-9) -> None:
    for name, there in wanted.items():
        torch.testing.assert_close(found[name], there, rtol=0, atol=atol, msg=name)


def test_micro_batches_and_passes_make_no_difference(rows: Rows) -> None:
    """1, 2, 4 or all rows at once; forget and retain in one pass or two."""
    made = []
    for micro, together in [(None, True), (None, False), (4, True), (2, True), (1, True)]:
        model, step = rows.step(rows.held, together=together)
        for part in (slice(0, 4), slice(1, 4)):
            rows.take(step, part, micro)
        made.append(parameters(model))
    for found in made[1:]:
        close(found, made[0])
    start = parameters(rows.before)
    assert max(float((made[0][n] - p).abs().max()) for n, p in start.items()) > 1e-3


def test_each_term_may_stand_alone(rows: Rows) -> None:
    """Their gradients add up; without texts no loss of texts is told, and one of 0 would be a lie."""
    found = {}
    for name in ("", "texts", "others", "texts others"):
        method = make({**SPEC, **{key: HELD[key] for key in name.split()}})
        model, step = rows.step(method)
        outcome = rows.take(step)
        assert (outcome.text_loss is not None) == ("texts" in name)
        found[name] = taken(model)
    for n, g in found[""].items():
        both = found["texts"][n] + found["others"][n] - g
        torch.testing.assert_close(found["texts others"][n], both, rtol=1e-9, atol=1e-12)


def test_more_texts_than_facts_or_fewer(rows: Rows) -> None:
    """The divisors are each term's own."""
    forget, held = rows.forget[:3], rows.texts[:2]
    for given in ((forget, held), (forget[:1], rows.texts)):
        for micro in (None, 2):
            model, step = rows.step(make({"name": "ga", **HELD}))
            wanted = gradients(
                model,
                forget_objective({"name": "ga"}, model, rows.before, list(given[0]), {})
                + holding(model, rows.before, *given),
            )
            step(batches_of(given[0], micro), [], batches_of(given[1], micro))
            agree(taken(model), wanted)


def test_a_frozen_copy_in_place_of_kept_distributions(
    rows: Rows, make_examples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, step = rows.step(rows.held)
    rows.take(step)
    monkeypatch.setattr(preparing, "CACHE_LIMIT", 0)
    asked = Rows(SPEC, rows.before, make_examples)
    assert isinstance(asked.prepared.distributions["texts"], Frozen)
    assert isinstance(asked.prepared.distributions["forget"], Frozen)
    again, step = asked.step(asked.held)
    asked.take(step)
    agree(taken(again), taken(model), rtol=1e-9, atol=1e-12)


# --- beside everything else ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "micro"),
    [(name, None) for name in BESIDE] + [(name, 2) for name in ("gd+projection", "ssiuu", "masked")],
)
def test_what_is_done_to_the_forget_gradient_is_not_done_to_it(
    name: str, micro: int | None, exact_model: Any, make_examples: Any
) -> None:
    """With the terms less without them, in the second of two steps, is their own gradient, whole."""
    spec = BESIDE[name]
    rows = Rows(spec, exact_model, make_examples)
    found, outcomes = [], []
    for method in (rows.plain, rows.held):
        model, step = rows.step(method, rate=0.0)
        rows.take(step, slice(0, 2), micro)
        outcomes.append(rows.take(step, slice(1, 4), micro))
        found.append(taken(model))
    here = copy.deepcopy(model).requires_grad_(True)
    own = gradients(here, holding(here, rows.before, rows.forget[1:], rows.texts[1:]))
    assert found[1]
    for weight, gradient in found[1].items():
        wanted = own[weight]
        if "klue" in rows.prepared.parts:
            wanted = wanted * rows.prepared.parts["klue"][weight].unsqueeze(1)
        difference = gradient - found[0].get(weight, torch.zeros_like(gradient))
        torch.testing.assert_close(difference, wanted, rtol=1e-6, atol=1e-9, msg=weight)
    assert max(float(own[n].abs().max()) for n in found[1]) > 1e-2
    assert outcomes[0].forget_loss == pytest.approx(outcomes[1].forget_loss, rel=1e-9)
    assert outcomes[0].penalty_share == pytest.approx(outcomes[1].penalty_share)
    if spec["name"].startswith("ssiuu") and not rows.held.label.startswith("ssiuu-gate"):
        assert outcomes[1].penalty_share > 1e-3  # else nothing was done to it


@pytest.mark.parametrize("effective", [False, True])
@pytest.mark.parametrize(
    "spec", [SPEC, {"name": "ssiuu-npo", "lambda": 3e5}, {"name": "gd"}], ids=lambda s: s["name"]
)
def test_adapters_are_held_too(
    spec: dict[str, Any], effective: bool, exact_model: Any, make_examples: Any
) -> None:
    rows = Rows(spec, copy.deepcopy(exact_model), make_examples)
    found = []
    with adapted(exact_model, Lora(2, 8.0)):
        for n, adapter in enumerate(adapters(exact_model)):
            drawn = torch.randn(adapter.up.shape, generator=torch.Generator().manual_seed(n))
            adapter.up.data, adapter.down.data = 0.1 * drawn.double(), adapter.down.data.double()
        for method in (rows.plain, rows.held):
            model = copy.deepcopy(exact_model)
            step = Step(model, method, 0.0, prepared=rows.prepared, pad=PAD, effective=effective)
            rows.take(step, slice(0, 2))
            rows.take(step, slice(1, 4))
            found.append(taken(model))
        trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        value = holding(model, rows.before, rows.forget[1:], rows.texts[1:])
        own = torch.autograd.grad(value, [p for _, p in trained])
    assert found[1].keys() == {n for n, _ in trained}
    for (name, _), wanted in zip(trained, own, strict=True):
        difference = found[1][name] - found[0][name]
        torch.testing.assert_close(difference, wanted, rtol=1e-6, atol=1e-9, msg=name)
    assert max(float(g.abs().max()) for g in own) > 1e-2


# --- a run --------------------------------------------------------------------------------------


def run(model: Any, method: Method, rows: Rows, steps: int = 12) -> tuple[Any, list[str]]:
    info = MethodInfo(
        label=method.label,
        name=method.name,
        origin=method.whose,
        description=method.description,
        hyperparameters=method.options,
    )
    settings = Settings(1e-3, 4, None, steps, steps, -1.0, 0.0, 0, "fp32")
    stop, said = StopRule("ranking", lambda: 1.0), list[str]()
    held = rows.texts if method.options.get("texts", 0.0) else ()
    record = unlearn_examples(
        model, method, info, rows.forget, [], settings, stop, PAD, None, said.append, texts=held
    )
    return record, said


def test_a_run_holds_what_it_says_and_tells_of_it(rows: Rows) -> None:
    """As far forgotten, with the texts and the other words less moved than without."""
    ends = {}
    for name, spec in {"plain": {}, "held": HELD}.items():
        model = copy.deepcopy(rows.before)
        record, said = run(model, make({"name": "npo", **spec}), rows)
        with torch.no_grad():
            text = sum(float(divergence(model, rows.before, e)) for e in rows.texts)
            word = sum(float(others(model, rows.before, e)) for e in rows.forget)
        ends[name] = (text, word)
        assert record.steps[-1].forget_loss < record.steps[0].forget_loss
        losses = [log.text_loss for log in record.steps]
        if spec:
            assert losses[-1] > 0 and f"text loss {losses[-1]:.3f}" in said[-1]
        else:
            assert losses == [None] * 12 and "text loss" not in said[-1]
    assert ends["held"][0] < 0.5 * ends["plain"][0] and ends["held"][1] < 0.7 * ends["plain"][1]


def test_nothing_is_prepared_where_nothing_is_held(tiny_model: Any, make_examples: Any) -> None:
    rows = make_examples(2)
    assert prepare_parts(tiny_model, make("gd"), rows, rows, PAD, texts=rows) == Prepared()

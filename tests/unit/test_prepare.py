"""Reference distributions that would not fit in memory are asked of a frozen copy, to the same end."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ssiuu.likelihood import answer_logits
from ssiuu.methods import make
from ssiuu.models.lora import Lora
from ssiuu.records.schema import MethodInfo
from ssiuu.training import prepare as preparing
from ssiuu.training.prepare import Frozen, prepare_parts
from ssiuu.training.unlearn import Settings, StopRule, unlearn_examples

PAD = 1
METHODS = ({"name": "gd", "retain": "kl"}, "undial", {"name": "undial", "retain": "kl"})


def ran(
    model: Any, spec: Any, make_examples: Any, lora: Lora | None
) -> tuple[dict[str, Any], list[str]]:
    """Unlearn a few steps; return the parameters and what was told."""
    told: list[str] = []
    method = make(spec)
    info = MethodInfo(label=method.label, name=method.name, origin="ours", description="")
    unlearn_examples(
        model,
        method,
        info,
        make_examples(5, answer=(1, 4)),
        make_examples(5, seed=1, answer=(1, 4)),
        Settings(1e-2, 3, 2, 4, 4, -1.0, 0.0, 0, "fp32", lora),
        StopRule("none", lambda: 1.0),
        PAD,
        progress=told.append,
    )
    return {name: p.detach().clone() for name, p in model.named_parameters()}, told


@pytest.mark.parametrize("spec", METHODS, ids=str)
@pytest.mark.parametrize("lora", [None, Lora(2, 4.0)], ids=["full", "lora"])
def test_a_frozen_copy_gives_what_the_cache_gives(
    make_model: Any, make_examples: Any, monkeypatch: pytest.MonkeyPatch, spec: Any, lora: Lora | None
) -> None:
    kept, told = ran(make_model(double=True), spec, make_examples, lora)
    assert not any("frozen copy" in text for text in told)
    monkeypatch.setattr(preparing, "CACHE_LIMIT", 0)
    asked, told = ran(make_model(double=True), spec, make_examples, lora)
    assert sum("asked of a frozen copy of the model at every step" in text for text in told) == 1
    start = dict(make_model(double=True).named_parameters())
    assert kept.keys() == asked.keys()
    for name, parameter in kept.items():
        torch.testing.assert_close(parameter, asked[name], rtol=0, atol=1e-7)
    assert any(not torch.equal(kept[name], start[name]) for name in kept)


def test_what_the_same_weights_said_of_the_same_rows_is_not_asked_again(
    tiny_model: Any, make_examples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, others, asked = make_examples(3), make_examples(3, seed=1), {}
    method = make({"name": "undial", "retain": "kl"})
    first = prepare_parts(tiny_model, method, rows, others, PAD, asked=asked)
    anew = prepare_parts(tiny_model, method, rows, others, PAD)
    passes: list[Any] = []
    monkeypatch.setattr(
        preparing,
        "answer_logits",
        lambda model, batch: passes.append(batch) or answer_logits(model, batch),
    )
    again = prepare_parts(tiny_model, method, rows, others, PAD, asked=asked)
    assert not passes and again.distributions == first.distributions
    for rows_of, taken in anew.distributions.items():
        for id, logprobs in taken.items():
            assert torch.equal(logprobs, again.distributions[rows_of][id])
    fewer = prepare_parts(tiny_model, method, rows[:2], others, PAD, asked=asked)
    assert passes and {*fewer.distributions["forget"]} == {*asked["forget"]} == {e.id for e in rows[:2]}


def test_the_copy_stays_as_the_model_was(
    tiny_model: Any, make_examples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forget and retain rows ask one copy, at full precision whatever the step runs at."""
    rows, others = make_examples(3), make_examples(3, seed=1)
    spec = {"name": "undial", "retain": "kl"}
    cached = prepare_parts(tiny_model, make(spec), rows, others, PAD)
    monkeypatch.setattr(preparing, "CACHE_LIMIT", 0)
    made = prepare_parts(tiny_model, make(spec), rows, others, PAD)
    forget, retain = made.distributions["forget"], made.distributions["retain"]
    assert (
        isinstance(forget, Frozen)
        and isinstance(retain, Frozen)
        and forget.ask.model is retain.ask.model
    )
    assert list(forget) == [e.id for e in rows] and len(retain) == 3
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            parameter.zero_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for id in forget:
            torch.testing.assert_close(
                forget[id], cached.distributions["forget"][id], rtol=0, atol=1e-6
            )

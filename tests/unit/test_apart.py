"""Forget and retain steps apart, and a step corrected after the optimiser has scaled it."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssiuu.errors import ConfigError, DivergedError
from ssiuu.likelihood import Batch, Example, answer_logprobs, collate
from ssiuu.methods import make
from ssiuu.models.lora import Lora, adapted
from ssiuu.records.schema import MethodInfo, Unlearning
from ssiuu.training import interrupt
from ssiuu.training.prepare import Prepared, prepare_parts
from ssiuu.training.step import Step
from ssiuu.training.unlearn import Settings, StopRule, unlearn_examples

PAD, RATE, K = 1, 1e-3, 3
SETTINGS = Settings(RATE, 3, None, 3, 3, -1.0, 0.0, 0, "fp32")


@pytest.fixture
def rows(make_examples: Any) -> tuple[list[Example], list[Example]]:
    forget = make_examples(4, answer=(1, 3))
    return forget, [replace(e, id=f"kept {e.id}") for e in make_examples(5, seed=1)]


def batches(rows: tuple[list[Example], list[Example]]) -> list[list[Batch]]:
    return [[collate(part, PAD)] if part else [] for part in rows]


def weights(model: Any) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def moved(model: Any, spec: Any, rows: Any, steps: int = 2, **change: Any) -> Any:
    """Return the model after some steps."""
    model, method = copy.deepcopy(model), make(spec)
    prepared = prepare_parts(model, method, *rows, PAD)
    step = Step(model, method, RATE, prepared=prepared, pad=PAD, **change)
    for _ in range(steps):
        step(*batches(rows))
    step.close()
    return model


def test_two_optimisers_take_turns(exact_model: Any, rows: Any) -> None:
    """As a loop does that has two AdamW by hand, the retain gradient taken where the first one led."""
    model = copy.deepcopy(exact_model)
    first, second = (torch.optim.AdamW(model.parameters(), r, weight_decay=0.0) for r in (RATE, 5e-4))
    for _ in range(3):
        for optimizer, examples, sign in ((first, rows[0], 1.0), (second, rows[1], -0.7)):
            optimizer.zero_grad()
            batch = collate(examples, PAD)
            loss = sign * answer_logprobs(model, batch).sum.sum() / sum(len(e.answer) for e in examples)
            loss.backward()
            optimizer.step()
    spec = {"name": "gd+apart", "retain_learning_rate": 5e-4, "retain_weight": 0.7}
    found = weights(moved(exact_model, spec, rows, 3))
    torch.testing.assert_close(found, weights(model), rtol=1e-9, atol=1e-11)


def test_a_retain_step_may_be_another_optimiser_s(exact_model: Any, rows: Any) -> None:
    """Adam forgets, SGD holds: with signs in place of Adam the first step is the same."""
    spec = {"name": "gd+apart", "retain_learning_rate": 1e-2, "retain_optimiser": "sgd"}
    alone = moved(exact_model, {"name": "gd", "retain": "none", "retain_weight": 0.0}, rows, 1)
    batch = collate(rows[1], PAD)
    loss = -answer_logprobs(alone, batch).sum.sum() / sum(len(e.answer) for e in rows[1])
    loss.backward()
    wanted = weights(alone) - 1e-2 * torch.cat([p.grad.reshape(-1) for p in alone.parameters()])
    torch.testing.assert_close(
        weights(moved(exact_model, spec, rows, 1)), wanted, rtol=1e-9, atol=1e-11
    )


def test_without_rows_to_keep_it_is_the_method_without(tiny_model: Any, rows: Any) -> None:
    ends = [moved(tiny_model, spec, (rows[0], [])) for spec in ("npo+apart", "npo")]
    assert torch.equal(weights(ends[0]), weights(ends[1]))


def test_small_steps_apart_are_one_step_of_sgd(exact_model: Any, rows: Any) -> None:
    """To first order: what differs is where the retain gradient is taken."""
    together, apart = (moved(exact_model, s, rows, 1, optimiser="sgd") for s in ("gd", "gd+apart"))
    start = weights(exact_model)
    far = float((weights(together) - weights(apart)).norm() / (weights(together) - start).norm())
    assert 0 < far < 0.02


@pytest.mark.parametrize("spec", ["gd+apart", "gd+mask+apart", "npo+kl+texts+apart"])
def test_a_loss_that_is_not_finite_takes_both_steps_back(
    spec: str, tiny_model: Any, rows: Any, make_examples: Any
) -> None:
    model, method = copy.deepcopy(tiny_model), make(spec)
    texts = make_examples(3, seed=5)
    prepared = prepare_parts(model, method, *rows, PAD, texts=texts)
    step = Step(model, method, 1e30, prepared=prepared, pad=PAD)
    with pytest.raises(DivergedError, match="were left as they were"):
        step(*batches(rows), [collate(texts, PAD)])
    assert torch.equal(weights(model), weights(tiny_model))


@pytest.mark.parametrize(
    "spec", ["gd+apart", {"name": "npo+mask+projection+optimiser", "projection": K}]
)
def test_both_optimisers_are_taken_up_again(
    spec: Any, tiny_model: Any, rows: Any, tmp_path: Path
) -> None:
    def run(model: Any, stop_after: int, state: Path | None) -> Unlearning:
        lines: list[str] = []

        def progress(line: str) -> None:
            lines.append(line)
            if len(lines) == stop_after:
                interrupt._asked.set()

        info = MethodInfo(label="it", name="it", origin="ours", description="")
        rule = StopRule("ranking", lambda: 1.0)
        try:
            given = (model, make(spec), info, *rows, SETTINGS, rule, PAD, state, progress)
            return unlearn_examples(*given)
        finally:
            interrupt._asked.clear()

    whole, resumed, state = copy.deepcopy(tiny_model), copy.deepcopy(tiny_model), tmp_path / "state"
    wanted = run(whole, 0, None)
    with pytest.raises(interrupt.Interrupted):
        run(copy.deepcopy(tiny_model), 1, state)
    found = run(resumed, 0, state)
    assert torch.equal(weights(resumed), weights(whole)) and found.steps == wanted.steps
    assert all(log.told["retain_gradient_norm"] > 0 for log in found.steps)


def test_nothing_to_step_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="apart: a retain step needs a retain term") as caught:
        make({"name": "gd+apart", "retain_weight": 0})
    assert len(caught.value.problems) == 1


# --- projection after the optimiser's scaling ----------------------------------------------------


def of_steps(spec: str = "gd+projection+optimiser", **keys: Any) -> dict[str, Any]:
    return {"name": spec, "projection": K, "projection_outputs": 2, **keys}


@pytest.mark.parametrize("optimiser", ["adamw", "sign", "sgd"])
def test_a_forget_step_has_nothing_along_the_directions(
    optimiser: Any, exact_model: Any, rows: Any
) -> None:
    """In the gradient's metric Adam's step has; in the optimiser's none, and maps alone move."""
    only = ([*rows[0]], [*rows[1]])
    found: dict[str, float] = {}
    for metric in ("gradient", "optimiser"):
        spec = of_steps("gd", projection_metric=metric)
        model, method = copy.deepcopy(exact_model), make(spec)
        prepared = prepare_parts(model, method, *only, PAD)
        step = Step(model, method, RATE, prepared=prepared, pad=PAD, optimiser=optimiser)
        for _ in range(2):
            step(batches(rows)[0], [])
        shares = []
        for name, p in model.named_parameters():
            change = (p - exact_model.get_parameter(name)).detach().float()
            if (basis := prepared.parts["projection"].get(name)) is None:
                assert not change.any()
            else:
                along = (change @ basis.inputs).norm() + (basis.outputs.T @ change).norm()
                shares.append(float(along / change.norm()))
        found[metric] = max(shares)
    assert found["optimiser"] < 1e-5
    assert found["gradient"] < 1e-5 if optimiser == "sgd" else found["gradient"] > 1e-2


def test_under_sgd_both_metrics_are_one(exact_model: Any, rows: Any) -> None:
    """SGD's metric is the gradient's own; steps apart on either side."""
    ends = [
        moved(exact_model, of_steps("gd+projection+apart", projection_metric=m), rows, optimiser="sgd")
        for m in ("gradient", "optimiser")
    ]
    torch.testing.assert_close(weights(ends[0]), weights(ends[1]), rtol=1e-9, atol=1e-12)


def test_the_retain_step_goes_whole(exact_model: Any, rows: Any) -> None:
    end = moved(exact_model, of_steps(), rows, 1)
    assert not torch.equal(end.model.embed_tokens.weight, exact_model.model.embed_tokens.weight)
    held = moved(exact_model, of_steps(retain_learning_rate=1e-12), rows, 1)
    embedded, before = (m.model.embed_tokens.weight.detach() for m in (held, exact_model))
    assert float((embedded - before).abs().max()) < 1e-11


def test_an_adapter_s_step_is_projected_on_its_side(tiny_model: Any, rows: Any) -> None:
    model, method = copy.deepcopy(tiny_model), make(of_steps())
    prepared = prepare_parts(model, method, *rows, PAD)
    bases = prepared.parts["projection"]
    with adapted(model, Lora(3, 6.0)):
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        step = Step(model, method, 1e-2, prepared=prepared, pad=PAD)
        for _ in range(2):
            step(batches(rows)[0], [])
        checked = 0
        for name, p in step.named.items():
            change, weight = p.detach() - before[name], name.replace(".base_layer", "")
            path, _, side = weight.partition(".lora_")
            basis = bases[f"{path}.weight".removeprefix("base_model.model.")]
            side_basis = basis.inputs if side.startswith("A") else basis.outputs
            along = change @ side_basis if side.startswith("A") else side_basis.T @ change
            assert float(along.abs().max()) < 1e-5
            checked += bool(change.any())
        assert checked > 20
        step.close()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "gd", "projection_metric": "optimiser"}, "stands beside projection"),
        ({"name": "gd+projection", "projection_metric": "fisher"}, "'gradient' or 'optimiser'"),
    ],
)
def test_a_metric_of_nothing_is_refused(spec: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(spec)


def test_weight_decay_is_refused(tiny_model: Any) -> None:
    with pytest.raises(ConfigError, match="weight_decay must be 0"):
        Step(tiny_model, make(of_steps()), RATE, prepared=Prepared(parts={}), weight_decay=0.1)


def test_what_it_is_called() -> None:
    method = make({"name": "gd+projection(8,optimizer)+apart(2e-5)"})
    assert method.label == "gd+projection+optimiser+apart"
    assert method.part("projection").projection == 8
    assert method.part("apart").retain_learning_rate == 2e-5
    assert "after the optimiser's scaling" in method.description

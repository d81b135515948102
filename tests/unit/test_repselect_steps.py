"""RepSelect step by step: the subspace that follows, the loss, two epochs that collect, a state."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures import LAYOUTS, PARTLY, build_architecture
from ssiuu.errors import ConfigError
from ssiuu.likelihood import AnswerLogprobs, Batch, Example, collate
from ssiuu.methods import make
from ssiuu.methods.base import View
from ssiuu.methods.directions import Subspace, project_out
from ssiuu.methods.objectives.npo import npo_loss
from ssiuu.methods.objectives.repselect_steps import Tracked
from ssiuu.models.maps import feed_forward
from ssiuu.training.prepare import prepare_parts
from ssiuu.training.state import load_state, save_state
from ssiuu.training.step import Step

PAD = 1
STEPS: dict[str, Any] = {"name": "repselect-steps", "components": 3}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batches(examples: list[Example], size: int = 9) -> list[Batch]:
    return [collate(examples[n : n + size], PAD) for n in range(0, len(examples), size)]


def settled(model: Any, forget: Any, **given: Any) -> Step:
    method = make({**STEPS, **given})
    made = prepare_parts(model, method, forget, [], PAD)
    return Step(model, method, 0.05, prepared=made, pad=PAD, optimiser="normsgd")


# --- the subspace --------------------------------------------------------------------------------


def followed(rows: Tensor, k: int, epochs: int = 60) -> Tracked:
    tracked = Tracked.begun(rows.shape[1], k, rows, "x")
    for _ in range(epochs):
        tracked.add(rows[:7])
        tracked.add(rows[7:])
        tracked.follow()
    return tracked


def test_it_comes_to_the_leading_directions_and_leaves_shares_of_each() -> None:
    """Tokens along the axes with second moments 16, 4, 1, ...: of the first three 1/16, 1/4, 1 is left."""
    rows = torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.3, 0.2, 0.1, 0.1, 0.1]).double())
    tracked = followed(rows, 3)
    assert tracked.directions is not None and tracked.left is not None
    assert sorted(tracked.left.tolist()) == pytest.approx([1 / 16, 1 / 4, 1])
    token = torch.ones(1, 8).double()
    kept = project_out(token.clone(), Subspace(tracked.directions, inputs_left=tracked.left))
    assert kept[0].tolist() == pytest.approx([1 / 16, 1 / 4, *[1] * 6])


def test_it_is_the_printed_matrix() -> None:
    """C = I - P (I - l_min (P^T X^T X P)^-1) P^T, once P has come to rest."""
    rows = numbers(40, 6) * torch.tensor([5, 3, 2, 0.5, 0.3, 0.1]).double()
    tracked = followed(rows, 3, 200)
    p = tracked.basis
    small = p.T @ rows.T @ rows @ p
    least = torch.linalg.eigvalsh(small)[0]
    eye = torch.eye(3).double()
    c = torch.eye(6).double() - p @ (eye - least * torch.linalg.inv(small)) @ p.T
    gradient = numbers(5, 6, seed=1)
    found = project_out(gradient.clone(), Subspace(tracked.directions, inputs_left=tracked.left))
    torch.testing.assert_close(found, gradient @ c, rtol=1e-6, atol=1e-8)


def test_tokens_that_are_alike_in_all_directions_are_left_alone() -> None:
    rows = 3 * torch.linalg.qr(numbers(9, 9)).Q
    tracked, gradient = followed(rows, 4, 2), numbers(2, 9, seed=1)
    assert tracked.left is not None
    found = project_out(gradient.clone(), Subspace(tracked.directions, inputs_left=tracked.left))
    torch.testing.assert_close(found, gradient)


def test_directions_without_tokens_do_not_count() -> None:
    """Rank 2 where 4 are followed: the least eigenvalue is none of rounding."""
    rows = numbers(12, 2) @ numbers(2, 8, seed=1)
    tracked = followed(rows, 4, 3)
    assert tracked.left is not None and len(tracked.left) == 2
    empty = Tracked.begun(5, 2, rows, "y")
    empty.follow()
    assert empty.directions is None


# --- the loss ------------------------------------------------------------------------------------


def test_the_loss_by_hand_and_a_half_of_npo() -> None:
    """NLL rose from 3 to 5 nats: -log sigmoid(0.1 * 2) / 0.1."""
    tokens = torch.tensor([[-2.0, -3.0]], dtype=torch.float64, requires_grad=True)
    answers = AnswerLogprobs(tokens, torch.ones(1, 2, dtype=torch.bool))
    view = View(answers, reference=torch.tensor([-3.0]).double())
    loss = make(STEPS).objective.forget_loss(view)
    assert loss.tolist() == pytest.approx([-math.log(1 / (1 + math.exp(-0.2))) / 0.1])
    assert view.reference is not None
    assert torch.equal(loss, npo_loss(answers, view.reference, 0.1) / 2)
    (slope,) = torch.autograd.grad(loss.sum(), tokens)
    ends = [
        make(STEPS).objective.forget_loss(
            View(
                AnswerLogprobs(tokens.detach() + torch.tensor([[h, 0.0]]), answers.mask),
                reference=view.reference,
            )
        )
        for h in (1e-6, -1e-6)
    ]
    assert float(slope[0, 0]) == pytest.approx(float((ends[0] - ends[1]) / 2e-6), rel=1e-6)


# --- steps ---------------------------------------------------------------------------------------


def test_two_epochs_collect_and_then_a_step_is_the_collapsed_gradient(
    exact_model: Any, make_examples: Any
) -> None:
    forget, model = make_examples(6, answer=(2, 4)), exact_model
    step = settled(model, forget, elicit_rate=0)
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    for _ in range(2):
        step(batches(forget, 4), [])
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())
    plain = copy.deepcopy(model)
    npo = Step(
        plain, make({"name": "npo", "retain": "none"}), 1.0, prepared=step.views.prepared, pad=PAD
    )
    npo(batches(forget), [])
    tracked = step.bound("repselect-steps").tracked
    wanted = {}
    for path in feed_forward(model):
        x, d = tracked[f"inputs:{path}"], tracked[f"outputs:{path}"]
        basis = Subspace(x.directions, d.directions, False, x.left, d.left)
        wanted[f"{path}.weight"] = project_out(
            plain.get_parameter(f"{path}.weight").grad.clone(), basis
        )
    length = torch.cat([g.flatten() for g in wanted.values()]).norm()
    step(batches(forget, 4), [])
    for name, parameter in model.named_parameters():
        moved = weights[name] - 0.05 * wanted[name] / length if name in wanted else weights[name]
        torch.testing.assert_close(parameter.detach(), moved, rtol=1e-6, atol=1e-9, msg=name)


def test_the_low_rank_maps_learn_and_stand_in_the_forget_pass_alone(
    exact_model: Any, make_examples: Any
) -> None:
    forget = make_examples(6)
    hooks = sum(len(m._forward_hooks) for m in exact_model.modules())
    step = settled(exact_model, forget, elicit_rate=0.5)
    losses = [step(batches(forget), []).forget_loss for _ in range(2)]
    assert losses[1] > losses[0]  # they bring the answers out: log P rises, the weights stand still
    assert all(up.any() for up in step.bound("repselect-steps").elicited.up.values())
    assert sum(len(m._forward_hooks) for m in exact_model.modules()) == hooks
    assert not any("lora" in name for name, _ in exact_model.named_parameters())


def test_micro_batches_are_one_batch(exact_model: Any, make_examples: Any) -> None:
    forget = make_examples(6)
    models = [copy.deepcopy(exact_model) for _ in range(2)]
    for model, size in zip(models, (9, 2), strict=True):
        step = settled(model, forget)
        for _ in range(4):
            step(batches(forget, size), [])
    for one, two in zip(*(m.parameters() for m in models), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-9)


def test_a_state_is_taken_up_in_the_middle_of_an_epoch(
    exact_model: Any, make_examples: Any, tmp_path: Path
) -> None:
    forget, other = make_examples(6), copy.deepcopy(exact_model)
    step, again = (settled(model, forget) for model in (exact_model, other))
    for turn in range(4):
        step(batches(forget[turn : turn + 4]), [])
    save_state(tmp_path / "state", step, {"key": "k"})
    assert load_state(tmp_path / "state", again, "k") is not None
    for _ in range(2):
        assert step(batches(forget), []) == again(batches(forget), [])
    for p, q in zip(exact_model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("layout", [*LAYOUTS, *PARTLY])
def test_every_architecture_or_one_sentence(layout: str, make_examples: Any) -> None:
    if layout == "rwkv":
        pytest.skip("it reads padding as text")
    model, forget = build_architecture(layout), make_examples(5)
    if not feed_forward(model):
        with pytest.raises(ConfigError, match="has none that is a linear map of its own"):
            make(STEPS).objective.check(model)
        return
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step = settled(model, forget)
    for _ in range(3):
        step(batches(forget), [])
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved and moved <= {f"{path}.weight" for path in feed_forward(model)}


def test_what_is_out_of_range_is_refused(tiny_model: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"repselect-steps\.components: must be at most \d+,.*got 9999"
    ):
        make({"name": "repselect-steps", "components": 9999}).objective.check(tiny_model)
    for key, value in (("components", 0), ("beta", 0), ("collect", 0), ("elicit_rank", 0)):
        with pytest.raises(ConfigError, match=rf"methods: repselect-steps\.{key}: .*got"):
            make({"name": "repselect-steps", key: value})
    assert make({"name": "repselect-steps", "retain": "nll"}).retain_weight == 1

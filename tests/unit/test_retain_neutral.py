"""Methods that leave the retain loss alone: GU's step, ROSU's surrogate, FDCU's factors, NSRU's adapters."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ssiuu.errors import ConfigError
from ssiuu.likelihood import Batch, Example, answer_logprobs, collate
from ssiuu.methods import make
from ssiuu.methods.base import Training
from ssiuu.methods.directions import energy_bases
from ssiuu.methods.regulariser import Moved, gate
from ssiuu.methods.transforms.gu import Disentangling
from ssiuu.models.lora import Lora, adapted, weight_of
from ssiuu.training.optimiser import build
from ssiuu.training.prepare import prepare_parts
from ssiuu.training.step import Step

PAD, RATE = 1, 1e-3
Rows = tuple[list[Example], list[Example]]


@pytest.fixture
def rows(make_examples: Any) -> Rows:
    forget = make_examples(4, answer=(1, 3))
    return forget, [replace(e, id=f"kept {e.id}") for e in make_examples(5, seed=1)]


def batches(rows: Rows) -> list[list[Batch]]:
    return [[collate(part, PAD)] if part else [] for part in rows]


def weights(model: Any) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def nll(model: Any, examples: list[Example]) -> Tensor:
    """The token mean, as gd's retain term has it."""
    total = answer_logprobs(model, collate(examples, PAD)).sum.sum()
    return -total / sum(len(e.answer) for e in examples)


def gradient(model: Any, loss: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    filled = [
        torch.zeros_like(p) if g is None else g for p, g in zip(named.values(), found, strict=True)
    ]
    return dict(zip(named, filled, strict=True))


def flat(values: dict[str, Tensor]) -> Tensor:
    return torch.cat([v.detach().reshape(-1) for v in values.values()])


def stepping(model: Any, spec: Any, rows: Rows, **change: Any) -> Step:
    method = make(spec)
    prepared = prepare_parts(model, method, *rows, PAD)
    return Step(model, method, RATE, prepared=prepared, pad=PAD, **change)


def stepped(model: Any, spec: Any, rows: Rows, steps: int = 1, **change: Any) -> Any:
    model = copy.deepcopy(model)
    step = stepping(model, spec, rows, **change)
    for _ in range(steps):
        step(*batches(rows))
    return model


# --- GU -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_step_is_the_printed_projection(optimiser: Any, tiny_model: Any) -> None:
    """(I - U (U^T H U)^-1 U^T H) g, dense, and then H: where Adam has no momentum it is that exactly."""
    drawn = torch.Generator().manual_seed(0)
    shapes, named = {"a": (3, 4), "b": (5,)}, {}
    for name, shape in shapes.items():
        named[name] = torch.randn(shape, generator=drawn, dtype=torch.float64)
    optimizer = build(optimiser, [*named.values()], 0.1, 0.0)
    bound = Disentangling(2, "both")
    bound.attach(Training(tiny_model, named, optimizer=optimizer))
    past: list[Tensor] = []
    for turn in range(4):
        retain, forget = (
            {n: torch.randn(s, generator=drawn, dtype=torch.float64) for n, s in shapes.items()}
            for _ in range(2)
        )
        bound.begin()
        for name, g in retain.items():
            bound.retained(name, g)
        before = {n: p.clone() for n, p in named.items()}
        for name, p in named.items():
            p.grad = forget[name]
        optimizer.step()
        moves = {n: p - before[n] for n, p in named.items()}
        proposed = flat(moves)
        inverse = torch.ones(17, dtype=torch.float64)
        if optimiser == "adamw":
            square = flat({n: optimizer.state[p]["exp_avg_sq"] for n, p in named.items()})
            inverse = 1 / ((square / (1 - 0.999 ** (turn + 1))).sqrt() + 1e-8)
        g = proposed / inverse
        past = [flat(retain), *past][:3]
        u, h = torch.stack(past, 1), torch.diag(inverse)
        eye = torch.eye(17, dtype=torch.float64)
        wanted = h @ (eye - u @ torch.linalg.inv(u.T @ h @ u) @ u.T @ h) @ g
        assert set(bound.correct(moves)) == {"a", "b"}
        torch.testing.assert_close(flat(moves), wanted, rtol=1e-7, atol=1e-10)
        assert float((u.T @ flat(moves)).abs().max()) < 1e-9
        assert 0 < bound.told()["gu_removed"] < 1


def test_a_rise_alone_is_taken_out(tiny_model: Any) -> None:
    """A step that lowers the retain loss stays; the nearest one with no rise is checked by its duals."""
    named = {"a": torch.zeros(6, dtype=torch.float64)}
    optimizer = build("sgd", [*named.values()], 0.1, 0.0)
    drawn = torch.Generator().manual_seed(3)
    bound = Disentangling(1, "rise")
    bound.attach(Training(tiny_model, named, optimizer=optimizer))
    seen: list[Tensor] = []
    kinds = set()
    for _ in range(16):
        retain, move = (torch.randn(6, generator=drawn, dtype=torch.float64) for _ in range(2))
        bound.begin()
        bound.retained("a", retain)
        seen = [retain / retain.norm(), *seen][:2]
        u, moves = torch.stack(seen, 1), {"a": move.clone()}
        changed = set(bound.correct(moves))
        safe = bool((u.T @ move <= 1e-12).all())
        assert changed == (set() if safe else {"a"})
        assert float((u.T @ moves["a"]).max()) < 1e-9
        taken = torch.linalg.lstsq(u, (move - moves["a"])[:, None]).solution[:, 0]
        assert float(taken.min()) > -1e-9  # the multipliers
        assert float((taken * (u.T @ moves["a"])).abs().max()) < 1e-9  # slack or active
        kinds.add(safe)
    assert kinds == {True, False}


@pytest.mark.parametrize("optimiser", ["adamw", "sign"])
def test_a_forget_step_leaves_the_retain_loss_to_first_order(
    optimiser: Any, exact_model: Any, rows: Rows
) -> None:
    spec = {"name": "gd+gu", "retain_learning_rate": 1e-15}
    gradients, starts = [], [exact_model]
    for count in (1, 2):
        gradients.append(flat(gradient(starts[-1], nll(starts[-1], rows[1]))))
        starts.append(stepped(exact_model, spec, rows, count, optimiser=optimiser))
    moved = weights(starts[2]) - weights(starts[1])
    for past in gradients:
        assert abs(float(moved @ past)) < 1e-8 * float(moved.norm() * past.norm())
    plain = stepped(exact_model, {"name": "gd+apart(1e-15)"}, rows, optimiser=optimiser)
    first = weights(plain) - weights(exact_model)
    assert abs(float(first @ gradients[0])) > 1e-3 * float(first.norm() * gradients[0].norm())


def test_what_the_forget_step_does_not_move_stays(tiny_model: Any, rows: Rows) -> None:
    """The rows that klue does not mark, and words that only the rows to keep hold."""
    spec = {"name": "gd+klue+gu", "share": 0.3, "retain_learning_rate": 1e-30}
    end = stepped(tiny_model, spec, rows, 2)
    marked = prepare_parts(tiny_model, make(spec), *rows, PAD).parts["klue"]
    for name, p in end.named_parameters():
        moved = (p != tiny_model.get_parameter(name)).detach()
        if name in marked:
            assert bool(moved.any()) == bool(marked[name].any())
            assert not moved[~marked[name]].any()
        else:
            assert not moved.any()
    words = {t for e in rows[0] for t in e.prompt + e.answer}
    end = stepped(tiny_model, {"name": "gd+gu", "retain_learning_rate": 1e-30}, rows, 2)
    before = tiny_model.model.embed_tokens.weight
    for word in range(len(before)):
        assert word in words or torch.equal(end.model.embed_tokens.weight[word], before[word])


def test_the_past_counts_and_without_it_less_is_taken_out(exact_model: Any, rows: Rows) -> None:
    ends = [stepped(exact_model, f"gd+gu({n})", rows, 3) for n in (0, 2)]
    assert not torch.equal(weights(ends[0]), weights(ends[1]))
    assert torch.equal(
        weights(stepped(exact_model, "gd+gu(0)", rows)), weights(stepped(exact_model, "gd+gu(2)", rows))
    )


def test_gu_is_refused_where_it_has_no_metric_or_no_rows(tiny_model: Any, rows: Rows) -> None:
    with pytest.raises(ConfigError, match="adafactor's metric is not known"):
        Step(tiny_model, make("gd+gu"), RATE, optimiser="adafactor")
    with pytest.raises(ConfigError, match="a retain term is needed"):
        make({"name": "gd+gu", "retain_weight": 0})
    with pytest.raises(ConfigError, match="there are no retain rows"):
        prepare_parts(tiny_model, make("gd+gu"), rows[0], [], PAD)


# --- ROSU ---------------------------------------------------------------------------------------


def surrogate(model: Any, rows: Rows, rho: float, sign: float) -> Any:
    """The printed perturbation, from the gradients of the token means."""
    d, r = (flat(gradient(model, -f * nll(model, part))) for f, part in ((1, rows[0]), (-1, rows[1])))
    left = d - (d @ r) / (r @ r) * r
    delta = sign * rho * left / left.norm()
    assert abs(float(delta @ r)) < 1e-12 * float(delta.norm() * r.norm()) + 1e-15
    moved = copy.deepcopy(model)
    with torch.no_grad():
        place = 0
        for p in moved.parameters():
            p.add_(delta[place : place + p.numel()].view_as(p))
            place += p.numel()
    return moved


@pytest.mark.parametrize(("name", "sign"), [("gd+rosu(0.5)", -1.0), ("gd+rosu(0.5,forget)", 1.0)])
def test_the_gradient_is_taken_at_the_surrogate(
    name: str, sign: float, exact_model: Any, rows: Rows
) -> None:
    model = copy.deepcopy(exact_model)
    step = stepping(model, {"name": name, "retain_weight": 0.7}, rows, optimiser="sgd")
    outcome = step(*batches(rows))
    there = surrogate(exact_model, rows, 0.5, sign)
    at_forget, at_retain = (exact_model, there) if sign < 0 else (there, exact_model)
    wanted = -flat(gradient(at_forget, nll(at_forget, rows[0])))
    wanted = wanted + 0.7 * flat(gradient(at_retain, nll(at_retain, rows[1])))
    torch.testing.assert_close(
        weights(model), weights(exact_model) - RATE * wanted, rtol=1e-9, atol=1e-12
    )
    assert outcome.retain_loss == pytest.approx(nll(exact_model, rows[1]).item())
    assert -1 < outcome.told["rosu_cosine"] < 1


@pytest.mark.parametrize("at", ["retain", "forget"])
def test_without_a_radius_it_is_the_method_without(at: str, exact_model: Any, rows: Rows) -> None:
    ends = [stepped(exact_model, s, rows, 3, together=False) for s in (f"npo+rosu(0,{at})", "npo")]
    torch.testing.assert_close(weights(ends[0]), weights(ends[1]), rtol=1e-9, atol=1e-12)


def test_forgetting_gains_most_there_at_no_first_order_change_of_retain(
    exact_model: Any, rows: Rows
) -> None:
    """Finite differences: retain changes by rho squared, forget by rho, and more than a random step."""
    changes = {}
    for rho in (1e-3, 1e-4):
        there = surrogate(exact_model, rows, rho, -1.0)
        changes[rho] = [(nll(there, part) - nll(exact_model, part)).item() for part in rows]
    assert changes[1e-3][0] / changes[1e-4][0] == pytest.approx(10, rel=0.1)
    assert abs(changes[1e-3][1] / changes[1e-4][1]) == pytest.approx(100, rel=0.2)
    assert changes[1e-3][0] > 0


def test_rosu_is_refused_where_it_does_not_fit(tiny_model: Any) -> None:
    for spec, message in (
        ({"name": "gd+rosu", "retain_weight": 0}, "a retain term is needed"),
        ("npo+sam+rosu(forget)", "leave sam out"),
    ):
        with pytest.raises(ConfigError, match=message):
            make(spec)
    with pytest.raises(ConfigError, match=r"use rosu\(forget\), or leave one of them out"):
        Step(tiny_model, make("gd+rosu+apart"), RATE)


# --- FDCU ---------------------------------------------------------------------------------------


def fisher(model: Any, rows: list[Example]) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    total = {n: torch.zeros_like(p) for n, p in named.items()}
    for e in rows:
        for name, g in gradient(model, answer_logprobs(model, collate([e], PAD)).sum.sum()).items():
            total[name] += g.square() / len(rows)
    return total


@pytest.mark.parametrize("scale", ["max", "mean"])
def test_the_forget_gradient_is_damped_by_the_retain_fisher(
    scale: str, exact_model: Any, rows: Rows
) -> None:
    spec = {"name": "gd+fisher", "fisher_scale": scale, "retain_weight": 0.7}
    model = copy.deepcopy(exact_model)
    stepping(model, spec, rows, optimiser="sgd")(*batches(rows))
    squares = fisher(exact_model, rows[1])
    forget, retain = (gradient(exact_model, nll(exact_model, part)) for part in rows)
    for name, p in model.named_parameters():
        square = squares[name]
        f = square / (square.max() if scale == "max" else square.mean()).clamp_min(1e-300)
        wanted = -forget[name] / (1 + 50 * f) + 0.7 * retain[name]
        before = exact_model.get_parameter(name)
        torch.testing.assert_close(p.detach(), before - RATE * wanted, rtol=1e-9, atol=1e-12)


def test_only_the_chosen_blocks_keep_a_forget_gradient(exact_model: Any, rows: Rows) -> None:
    spec = {"name": "gd+fisher", "fisher_blocks": [1, 1], "retain": "none", "retain_weight": 0}
    end = stepped(exact_model, spec, rows)
    for name, p in end.named_parameters():
        moved = not torch.equal(p, exact_model.get_parameter(name))
        assert moved == name.startswith("model.layers.1."), name


def test_a_gate_of_a_strength_divides() -> None:
    """By 1 + kappa where phi g <= 0; kappa 0 keeps all, a large one is the gate that zeroes."""
    drawn = torch.Generator().manual_seed(0)
    phi, g, f = (torch.randn(300_000, generator=drawn, dtype=torch.float64) for _ in range(3))
    ends = {}
    for strength in (None, 0.0, 20.0, 1e18):
        ends[strength], moved = f.clone(), Moved()
        gate(phi, g, ends[strength], -2.0, moved, strength)
        share = float((ends[strength] - f).norm() / f.norm())
        assert moved.share == pytest.approx(share, rel=1e-9)
    opposes = phi * g * -2.0 <= 0
    assert torch.equal(ends[0.0], f)
    torch.testing.assert_close(ends[20.0], torch.where(opposes, f / 21, f), rtol=1e-15, atol=0)
    torch.testing.assert_close(ends[1e18], ends[None], rtol=0, atol=1e-15)


def test_an_infinite_gate_is_ssiuu_s_and_a_strength_of_nothing_is_none(
    exact_model: Any, rows: Rows
) -> None:
    ends = {
        name: weights(stepped(exact_model, name, rows, 3, optimiser="sgd"))
        for name in ("gd+gate(1e15)", "ssiuu-gate", "gd+gate(0)", "gd", "gd+gate(20)")
    }
    torch.testing.assert_close(ends["gd+gate(1e15)"], ends["ssiuu-gate"], rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(ends["gd+gate(0)"], ends["gd"], rtol=1e-12, atol=1e-15)
    assert not torch.allclose(ends["gd+gate(20)"], ends["ssiuu-gate"], rtol=1e-9, atol=1e-9)


def test_fdcu_is_both_factors_and_its_gate_is_not_ssiuu_s() -> None:
    method = make("fdcu")
    assert (method.label, method.whose) == ("fdcu", "literature")
    assert (method.part("fisher").fisher, method.part("gate").strength) == (50, 20)
    assert make("gd+gate(20)").label == "gd+gate"
    assert make("gd+gate").label == make("ssiuu-gate").label == "ssiuu-gate"
    assert make("ssiuu-gate").part("gate").options == {}


def test_the_fisher_is_refused_for_adapters_blocks_and_rows_that_are_not_there(
    tiny_model: Any, rows: Rows
) -> None:
    for spec, message in (
        ({"name": "gd+fisher", "fisher_blocks": [3, 1]}, "two ascending numbers, got"),
        ({"name": "gd+fisher(-1)"}, "greater than or equal to 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            make(spec)
    with pytest.raises(ConfigError, match="fisher_blocks: must be below"):
        make({"name": "gd+fisher", "fisher_blocks": [1, 99]}).part("fisher").check(tiny_model)
    with pytest.raises(ConfigError, match="there are none"):
        prepare_parts(tiny_model, make("gd+fisher"), rows[0], [], PAD)
    with (
        adapted(tiny_model, Lora(2, 4.0)),
        pytest.raises(ConfigError, match=r"leave unlearn\.lora out"),
    ):
        Step(tiny_model, make("gd+fisher"), RATE)


# --- NSRU ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "+apart"])
def test_adapters_act_on_nothing_the_rows_to_keep_put_in(
    suffix: str, tiny_model: Any, rows: Rows
) -> None:
    """B A V stays 0 over steps of Adam, and every step is that of a free A behind the projector."""
    spec = {"name": f"gd+nullspace(0.9){suffix}"}
    prepared = prepare_parts(tiny_model, make(spec), *rows, PAD)
    bases = prepared.parts["nullspace"]
    with adapted(tiny_model, Lora(3, 6.0)):
        step = Step(tiny_model, make(spec), 1e-2, prepared=prepared, pad=PAD)
        for _ in range(3):
            step(*batches(rows))
        seen = 0
        for name, p in step.named.items():
            weight, side = weight_of(name)
            if side == "inputs":
                along = float((p.detach() @ bases[weight].inputs).norm())
                assert along < 1e-5 * float(p.detach().norm())
                seen += 1
            else:
                assert p.detach().any()
        assert seen == len(bases)
        step.close()


def test_a_free_a_behind_the_projector_is_the_same(tiny_model: Any, rows: Rows) -> None:
    """Written out for one map: dL/dA of W + s B A P is the gradient projected, and A P is what counts."""
    drawn = torch.Generator().manual_seed(1)
    a, v = torch.randn(2, 6, generator=drawn), torch.linalg.qr(torch.randn(6, 2, generator=drawn)).Q
    p = torch.eye(6) - v @ v.T
    free, kept = a.clone().requires_grad_(), (a @ p).requires_grad_()
    optimizers = [torch.optim.AdamW([x], 0.1, weight_decay=0.01) for x in (free, kept)]
    target = torch.randn(2, 6, generator=drawn)
    for _ in range(4):
        ((free @ p - target) ** 2).sum().backward()
        ((kept - target) ** 2).sum().backward()
        assert free.grad is not None and kept.grad is not None
        kept.grad = kept.grad @ p
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            kept.copy_(kept @ p)
        torch.testing.assert_close(free.detach() @ p, kept.detach(), rtol=1e-4, atol=1e-5)


def test_the_directions_hold_the_share_that_is_asked(tiny_model: Any, rows: Rows) -> None:
    given = batches(rows)[1]
    few, many = (energy_bases(tiny_model, given, share) for share in (0.5, 0.999999))
    for name, basis in few.items():
        width = basis.inputs.shape[0]
        assert 1 <= basis.inputs.shape[1] <= many[name].inputs.shape[1] <= width - 1
        torch.testing.assert_close(
            basis.inputs.T @ basis.inputs, torch.eye(basis.inputs.shape[1]), rtol=0, atol=1e-5
        )


def test_without_adapters_it_is_refused(tiny_model: Any) -> None:
    with pytest.raises(ConfigError, match=r"set unlearn\.lora\.rank"):
        Step(tiny_model, make("gd+nullspace"), RATE)
    with pytest.raises(ConfigError, match="less than 1"):
        make("gd+nullspace(1)")

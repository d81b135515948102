"""AdamW in little memory: codes that are right in the mean, weights in bf16 that keep small steps."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssiuu.errors import ConfigError
from ssiuu.likelihood import collate
from ssiuu.methods import make
from ssiuu.training import blockwise
from ssiuu.training.blockwise import BLOCK, BlockAdamW, coded, rounded, signed, unsigned
from ssiuu.training.optimiser import build
from ssiuu.training.prepare import prepare_parts
from ssiuu.training.state import load_state, save_state
from ssiuu.training.step import Step


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spread(n: int, seed: int = 0) -> Tensor:
    """Numbers over eight orders of magnitude."""
    exponents = 8 * torch.rand(n, generator=seeded(seed)) - 8
    return torch.randn(n, generator=seeded(seed + 1)) * 10**exponents


@pytest.mark.parametrize("n", [BLOCK, 3 * BLOCK, 1000])
def test_codes_are_between_their_neighbours_and_right_in_the_mean(n: int) -> None:
    values, chance = spread(n), seeded(2)
    m = torch.stack([signed(*coded(values, 2, 127, chance)) for _ in range(400)])
    v = torch.stack([unsigned(*coded(values.square(), 4, 255, chance)) for _ in range(400)])
    most = torch.nn.functional.pad(values.abs(), (0, -n % BLOCK)).view(-1, BLOCK).amax(1)
    most = most.repeat_interleave(BLOCK)[:n]
    # Beside x = (c / K)^p M the next code is M ((c + 1)^p - c^p) / K^p away.
    code = ((values.abs() / most).sqrt() * 127).floor().clamp(max=126)
    step = most * (2 * code + 1) / 127**2
    assert ((m - values).abs() <= step * 1.001).all()
    assert ((m.mean(0) - values).abs() <= step / 8).all()  # five standard errors, at most
    code = ((values.square() / most.square()).sqrt().sqrt() * 255).floor().clamp(max=254)
    step = most.square() * ((code + 1) ** 4 - code**4) / 255**4
    assert ((v - values.square()).abs() <= step * 1.001).all() and (v > 0).all()
    held = code == 0  # at the least code, never at 0
    assert ((v.mean(0) - values.square()).abs() <= step / 8)[~held].all()
    torch.testing.assert_close(v[0][held], (most.square() / 255**4)[held])


def test_nothing_stays_nothing_and_the_largest_is_exact() -> None:
    values = torch.zeros(2 * BLOCK)
    values[BLOCK] = -3.0
    found = signed(*coded(values, 2, 127, seeded()))
    assert torch.equal(found, values)
    assert torch.equal(unsigned(*coded(values.square(), 4, 255, seeded())), values.square())


def test_a_weight_in_bf16_is_rounded_to_a_neighbour_and_right_in_the_mean() -> None:
    values = spread(500)
    draws, chance = [], seeded(5)
    for _ in range(2000):
        found = rounded(values.clone(), chance)
        assert found.dtype == torch.bfloat16
        draws.append(found.float())
    every = torch.stack(draws)
    assert ((every - values).abs() <= values.abs() / 128).all()
    assert ((every.mean(0) - values).abs() <= values.abs() / 128 / 16).all()  # five standard errors
    exact = values.bfloat16().float()
    assert torch.equal(rounded(exact.clone(), chance).float(), exact)


def test_steps_that_would_round_to_nothing_add_up() -> None:
    """A weight of 1 in bf16 has neighbours 0.004 away; 500 steps of 4e-4 are 0.2."""
    weights = torch.nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
    optimiser = BlockAdamW([weights], lr=4e-4)
    for _ in range(500):
        weights.grad = torch.ones_like(weights)
        optimiser.step()
    assert float(weights.detach().double().mean()) == pytest.approx(0.8, abs=0.002)


@pytest.mark.parametrize("eight_bit", [True, False])
def test_it_goes_where_adamw_goes(eight_bit: bool) -> None:
    """A regression whose inputs differ in size by 1000: every weight wants a rate of its own."""
    x = torch.randn(200, 300, generator=seeded()) * 10 ** (3 * torch.rand(300, generator=seeded(1)) - 2)
    wanted = torch.randn(300, generator=seeded(2))
    ends, losses = [], []
    for own in (True, False):
        weights = torch.nn.Parameter(torch.zeros(300))
        kind: Any = partial(BlockAdamW, eight_bit=eight_bit) if own else torch.optim.AdamW
        made = kind([weights], lr=0.01, weight_decay=0.1)
        for _ in range(150):
            made.zero_grad()
            loss = (x @ (weights - wanted)).square().mean()
            loss.backward()
            made.step()
        ends.append(weights.detach().clone())
        losses.append(float(loss.detach()))
    # Rounded to the nearest code the loss ends 10 to 20 % elsewhere; by chance it does not.
    assert losses[0] == pytest.approx(losses[1], rel=0.04 if eight_bit else 1e-4)
    if not eight_bit:
        torch.testing.assert_close(ends[0], ends[1], rtol=1e-3, atol=1e-5)


def test_it_takes_two_bytes_a_parameter() -> None:
    weights = torch.nn.Parameter(torch.ones(100, 1024, dtype=torch.bfloat16))
    optimiser = BlockAdamW([weights], lr=1e-3)
    weights.grad = torch.ones_like(weights)
    optimiser.step()
    held = sum(t.numel() * t.element_size() for t in optimiser.state[weights].values())
    assert held / weights.numel() == pytest.approx(2.03, abs=0.01)


def test_a_chunk_is_no_matter_of_the_numbers(monkeypatch: Any) -> None:
    """Where a parameter is longer than a chunk, blocks stay whole."""
    assert blockwise.CHUNK % BLOCK == 0 and blockwise.WIDE % BLOCK == 0
    monkeypatch.setattr(blockwise, "CHUNK", 2 * BLOCK)
    weights = torch.nn.Parameter(spread(5 * BLOCK + 3).clone())
    optimiser, before = BlockAdamW([weights], lr=1e-3), weights.detach().clone()
    weights.grad = spread(5 * BLOCK + 3, 7)
    optimiser.step()
    first = before - 1e-3 * weights.grad / (weights.grad.abs() + 1e-8)
    torch.testing.assert_close(weights.detach(), first, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", ["sgd", "momentum", "sign", "normsgd", "adamw", "adamw8bit"])
def test_weights_in_bf16_go_where_those_in_fp32_go_in_the_mean(name: Any) -> None:
    """In steps of a thousandth of a weight, far below its last digit."""
    begun, ends = 1 + torch.rand(4000, generator=seeded()), []
    for kind in (torch.float32, torch.bfloat16):
        weights = torch.nn.Parameter(begun.to(kind, copy=True))
        rate = 1e-3 * 4000**0.5 if name == "normsgd" else 1e-3
        made = build(name, [weights], rate, 0.0)
        for _ in range(8):
            weights.grad = torch.ones_like(weights)
            made.step()
        ends.append(float(weights.detach().double().mean()))
    assert ends[1] == pytest.approx(ends[0], abs=1e-3)
    assert ends[0] < float(begun.mean()) - 0.007


def test_adafactor_has_no_form_for_bf16() -> None:
    weights = [torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))]
    with pytest.raises(ConfigError, match="adafactor has no form for weights in bf16"):
        build("adafactor", weights, 1e-3, 0.0)


@pytest.mark.parametrize(
    "name",
    [
        "gd",
        "npo",
        "ssiuu",
        "ssiuu-gate",
        "ssiuu(logprob)",
        "gd+mask",
        "gd+projection",
        "npo+kl",
        "rmu",
        "pdu",
    ],
)
def test_methods_take_steps_in_bf16_weights(name: str, tiny_model: Any, make_examples: Any) -> None:
    """And they are those in fp32, as far as bf16 has digits."""
    given = {"name": name, **({"layer": 1, "update": [r"down_proj\.weight$"]} if name == "rmu" else {})}
    given |= {"projection": 2} if "projection" in name else {}
    forget, retain = make_examples(4), make_examples(4, seed=1)
    ends = []
    for kind in (torch.float32, torch.bfloat16):
        model, method = copy.deepcopy(tiny_model).to(kind), make(given)

        prepared = prepare_parts(model, method, forget, retain, 40)
        step = Step(model, method, 1e-2, prepared=prepared, optimiser="adamw8bit", pad=40)
        for _ in range(2):
            outcome = step([collate(forget, 40)], [collate(retain, 40)])
        assert all(p.dtype == kind for p in model.parameters())
        ends.append((outcome.forget_loss, outcome.retain_loss or 0.0))
    assert ends[1] == pytest.approx(ends[0], rel=0.1, abs=0.08)


def test_weights_in_bf16_go_on_to_the_bit_where_they_were_left(
    tiny_model: Any, make_examples: Any, tmp_path: Path
) -> None:
    batches = [[collate(make_examples(4), 40)], [collate(make_examples(4, seed=1), 40)]]

    def begun() -> tuple[Any, Step]:
        model = copy.deepcopy(tiny_model).bfloat16()
        return model, Step(model, make("ssiuu-gate"), 1e-2, optimiser="adamw8bit", pad=40)

    whole, step = begun()
    for number in range(4):
        if number == 2:
            save_state(tmp_path / "state", step, {"key": "a run"})
        step(*batches)
    model, again = begun()
    assert load_state(tmp_path / "state", again, "a run") == {"key": "a run"}
    for _ in range(2):
        again(*batches)
    assert all(map(torch.equal, model.parameters(), whole.parameters()))

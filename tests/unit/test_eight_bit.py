"""A_ref in 8 bits: exact signs, a bound on every error, and a run that it hardly changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from ssiuu.likelihood import collate
from ssiuu.methods import make
from ssiuu.methods.eight_bit import BLOCK, lengthened, shortened
from ssiuu.training.step import Step


@pytest.mark.parametrize("n", [1, BLOCK, 1000])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_signs_are_exact_and_errors_a_share_of_each(n: int, kind: torch.dtype) -> None:
    seeded = torch.Generator().manual_seed(n)
    values = torch.randn(n, generator=seeded) * 10 ** (12 * torch.rand(n, generator=seeded) - 20)
    values[::7] = 0.0
    found = lengthened(shortened(values.to(kind)), kind).float()
    assert torch.equal(found.sign(), values.sign())
    most = torch.nn.functional.pad(values.abs(), (0, -n % BLOCK)).view(-1, BLOCK).amax(1)
    least = most.repeat_interleave(BLOCK)[:n] / 2**15.75
    error = (found - values).abs()
    assert (error <= torch.where(values.abs() >= least, values.abs() * 0.0443, least)).all()


def test_blocks_of_nothing_and_of_one_size() -> None:
    values = torch.cat([torch.zeros(BLOCK), -torch.full((BLOCK,), 3e-12)])
    torch.testing.assert_close(lengthened(shortened(values), torch.float32), values, rtol=1e-6, atol=0)


def test_a_memory_in_8_bits_takes_half_and_steers_alike(
    tiny_model: Any, make_examples: Any, monkeypatch: Any
) -> None:
    """Also where a parameter is held in several chunks."""
    monkeypatch.setattr("ssiuu.methods.regulariser.CHUNK", 2 * BLOCK)
    batches = [[collate(make_examples(4), 40)], [collate(make_examples(4, seed=1), 40)]]
    ends, shares, held = [], [], []
    for memory in ("bf16", "int8"):
        model = copy.deepcopy(tiny_model)
        method = make({"name": "ssiuu(logprob)", "lambda": 1.0, "memory": memory})
        step = Step(model, method, 1e-3, optimiser="sgd", pad=40)
        for _ in range(3):
            outcome = step(*batches)
        bound = step.bound("ssiuu")
        ends.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
        shares.append(outcome.penalty_share)
        held.append(sum(t.numel() * t.element_size() for t in bound.state().values()))
    begun = torch.cat([p.detach().reshape(-1) for p in tiny_model.parameters()])
    moved = float((ends[0] - begun).norm())
    # The penalty is of a difference of two A, of which 4 % of one is a larger share.
    assert 0 < float((ends[0] - ends[1]).norm()) < 0.2 * moved
    assert shares[1] == pytest.approx(shares[0], rel=0.1)
    assert held[1] == pytest.approx(held[0] * 0.51, rel=0.05)


def test_what_is_as_ever_stands_in_no_key() -> None:
    assert "memory" not in make("ssiuu").options
    assert make({"name": "ssiuu", "memory": "int8"}).options["memory"] == "int8"

"""bitsandbytes' nf4: what the package makes of weights, beside ours; refused where it is not there."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor

from small_llama import small
from ssiuu.attacks.quantise import matrices, normal_float, quantised
from ssiuu.attacks.quantise import nf4 as simulated
from ssiuu.errors import ConfigError
from ssiuu.experiment.recipe import resolve
from ssiuu.models import nf4
from ssiuu.models.load import snapshot

NEEDS = pytest.mark.skipif(not nf4.there(), reason="bitsandbytes is not installed")


def weight(rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) / 50


@NEEDS
@pytest.mark.parametrize("width", [64, 192, 576])
def test_the_package_rounds_as_the_simulated_format_does(width: int) -> None:
    """The same code everywhere but beside the middle of two codes, where its table has fewer digits."""
    before = weight(96, width)
    ours, theirs = simulated(before), nf4.rounded(before)
    groups = before.view(-1, 64)
    scale = groups.abs().amax(1, keepdim=True)
    codes = torch.tensor(normal_float())
    middles = (codes[1:] + codes[:-1]) / 2
    beside = (groups / scale)[..., None].sub(middles).abs().amin(-1).view_as(before) < 1e-6
    assert beside.float().mean() < 1e-3
    assert float(((ours - theirs).abs() / scale.max())[~beside].max()) < 1e-6


@NEEDS
def test_scales_in_eight_bits_are_a_little_further_off() -> None:
    before = weight(64, 256)
    plain, double = (
        float((nf4.rounded(before, d) - before).norm() / before.norm()) for d in (False, True)
    )
    assert plain < double < 1.01 * plain


@NEEDS
def test_odd_sizes_zeros_and_halves() -> None:
    assert nf4.rounded(weight(3, 5)).shape == (3, 5)
    assert torch.equal(nf4.rounded(torch.zeros(2, 64)), torch.zeros(2, 64))
    before = weight(4, 64).bfloat16()
    assert nf4.rounded(before).dtype == torch.bfloat16
    assert torch.equal(before, weight(4, 64).bfloat16())


@NEEDS
def test_the_attack_rounds_every_linear_map_of_a_model() -> None:
    model, _ = small(["one two three"] * 3)
    before = snapshot(model)
    for name in quantised(model, ["bnb-nf4", "bnb-nf4-double"]):
        changed = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
        assert len(changed) == len(matrices(model)) == 14, name


@pytest.mark.parametrize("name", ["bnb-nf4", "bnb-nf4-double"])
def test_without_the_package_it_is_one_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(ConfigError) as refused:
        resolve(None, [f"attacks.quantise=[nf4,{name}]"])
    assert refused.value.problems == [
        f"attacks.quantise: {name} needs the package bitsandbytes: pip install 'ssiuu[nf4]', or take "
        "nf4, which rounds alike without it."
    ]

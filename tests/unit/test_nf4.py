"""bitsandbytes' nf4: what the package makes of weights, beside ours; refused where it is not there."""

from __future__ import annotations

import copy
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures import build_architecture
from small_llama import small
from ssiuu.attacks.quantise import matrices, normal_float, quantised
from ssiuu.attacks.quantise import nf4 as simulated
from ssiuu.errors import ConfigError
from ssiuu.experiment.doctor import examine
from ssiuu.experiment.recipe import read_parts, resolve, resolve_parts
from ssiuu.likelihood import Example
from ssiuu.methods import make
from ssiuu.models import nf4
from ssiuu.models.load import snapshot
from ssiuu.models.lora import Lora, adapted, adapters, held_maps
from ssiuu.records.schema import MethodInfo
from ssiuu.training.unlearn import Settings, StopRule, unlearn_examples

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


# --- as the base of adapters ----------------------------------------


@pytest.fixture
def model() -> Any:
    return small(["one two three"] * 3)[0]


LORA = Lora(2, 4.0, base="nf4")


def in_nf4(model: Any) -> Any:
    """Return a copy whose maps have the values that their codes stand for."""
    rounded = copy.deepcopy(model)
    for path in nf4.holdable(model):
        part = rounded.get_submodule(path)
        part.weight.data = nf4.rounded(part.weight.data, double=True)
    return rounded


@NEEDS
def test_maps_held_in_nf4_compute_with_it_and_are_back_to_the_last_bit(model: Any) -> None:
    before, ids = snapshot(model), torch.arange(12)[None]
    paths = nf4.holdable(model)
    assert len(paths) == 14
    rounded = in_nf4(model)
    with nf4.held(model, paths), torch.no_grad():
        codes = {n: p for n, p in model.named_parameters() if p.dtype == torch.uint8}
        assert len(codes) == 14 and sum(p.numel() for p in codes.values()) * 2 == sum(
            before[name].numel() for name in codes
        )
        torch.testing.assert_close(model(ids).logits, rounded(ids).logits, rtol=1e-4, atol=1e-4)
        assert torch.equal(
            nf4.whole(model.get_submodule(paths[0])), rounded.get_submodule(paths[0]).weight
        )
    assert {n for n, _ in model.named_parameters()} == before.keys() - {"lm_head.weight"}
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) and parameter.dtype == before[name].dtype, name


@NEEDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_are_merged_into_the_weights_before(model: Any, dtype: torch.dtype) -> None:
    model.to(dtype)
    before = snapshot(model)
    with adapted(model, LORA):
        for adapter in adapters(model):
            adapter.up.data.normal_(std=0.3)
        changes = {a.name: a.scale * (a.up @ a.down).detach() for a in adapters(model)}
    assert len(changes) == 14
    for name, parameter in model.named_parameters():
        assert parameter.dtype == dtype and parameter.requires_grad
        wanted = before[name] + changes[name].to(dtype) if name in changes else before[name]
        assert torch.equal(parameter, wanted), name


@NEEDS
@pytest.mark.parametrize("attribution", ["adapter", "effective"])
@pytest.mark.parametrize("name", ["gd", "ssiuu", "simnpo"])
def test_a_run_trains_what_it_would_beside_the_rounded_weights(
    model: Any, name: str, attribution: Any
) -> None:
    """And merges it into those that were not rounded."""
    rows = [Example(f"{n}", [3 + n, 5, 9], [11 + n, 7]) for n in range(4)]
    info = MethodInfo(label=name, name=name, origin="ours", description="")

    def moved(model: Any, base: Any) -> dict[str, Tensor]:
        trained = copy.deepcopy(model)
        lora = replace(LORA, base=base, attribution=attribution)
        settings = Settings(*(3e-3, 2, None, 3, 1, 0.0, 0.0, 0, "fp32"), lora=lora)
        stop = StopRule("ranking", lambda: 1.0)
        unlearn_examples(trained, make(name), info, rows[:2], rows[2:], settings, stop, 0)
        start = dict(model.named_parameters())
        return {n: (p - start[n]).detach() for n, p in trained.named_parameters()}

    coded, plain = moved(model, "nf4"), moved(in_nf4(model), None)
    for path, moves in plain.items():
        torch.testing.assert_close(coded[path], moves, rtol=1e-2, atol=1e-5, msg=path)
    assert sum(float(moves.abs().max()) > 1e-3 for moves in plain.values()) == 14
    assert all(torch.equal(one, coded[n]) for n, one in moved(model, "nf4").items())


@NEEDS
def test_an_error_leaves_the_model_whole(model: Any) -> None:
    before = snapshot(model)
    with pytest.raises(ZeroDivisionError), adapted(model, LORA):
        1 / 0  # noqa: B018
    with (
        pytest.raises(ConfigError, match=r"'k' fits no linear map"),
        adapted(model, replace(LORA, targets=("k",))),
    ):
        pass
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_a_model_without_such_maps_is_refused() -> None:
    model = build_architecture("gpt2")
    with pytest.raises(
        ConfigError, match=r"unlearn\.lora\.base: nf4 is held by maps of the kind nn\.Linear"
    ):
        held_maps(model, LORA)


def test_what_is_decided_is_as_before_where_it_is_not_asked_for() -> None:
    settings = Settings(*(3e-3, 2, None, 3, 1, 0.0, 0.0, 0, "fp32"), lora=Lora(2, 4.0))
    assert "base" not in settings.told()["lora"]
    assert replace(settings, lora=LORA).told()["lora"]["base"] == "nf4"


def test_the_doctor_says_by_what(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSIUU_CACHE", str(tmp_path))
    parts = read_parts(None, ["unlearn.lora.base=nf4", "unlearn.lora.rank=2"])
    recipe, _ = resolve_parts(parts, here=False)
    told = {finding.what: finding for finding in examine(recipe)}
    assert told["base"].missing is not nf4.there()
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    (lacking,) = [finding for finding in examine(recipe) if finding.missing]
    assert (
        lacking.says
        == "unlearn.lora.base: nf4 needs the package bitsandbytes: pip install 'ssiuu[nf4]'"
    )


def test_the_base_is_refused_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(
        ConfigError, match=r"lora\.base: nf4 needs the package bitsandbytes: pip install"
    ):
        resolve(None, ["unlearn.lora.base=nf4", "unlearn.lora.rank=2"])

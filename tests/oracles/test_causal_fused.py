"""A fused model and one with the same weights in maps that stand apart: the same causal effects.

The order of the parts is written down here by hand, from how each architecture splits what its fused
map puts out, and not taken from `ssiuu.models.sites`.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from architectures import HEADS, build_architecture
from ssiuu.diagnosis.causal import ablated, causal_test, mean_outputs, restored
from ssiuu.evaluation.scores.ranking import read_by_ranking
from ssiuu.likelihood import Example, Prompt
from ssiuu.models.load import snapshot
from ssiuu.models.sites import Site, find_sites
from ssiuu.records.schema import FactText

HEAD = 4  # width of a head
ROWS = torch.tensor([[5, 9, 20, 33, 41], [7, 3, 60, 2, 11]])
EXAMPLES = [Example(f"f{i}", row[:3], row[3:]) for i, row in enumerate(ROWS.tolist())]
FACTS = [
    FactText(
        id=f"f{i}",
        question=f"w{i} w{i + 20}",
        answer=f"w{i + 40} w{i}",
        options=[f"w{i + 40} w{i}", f"w{i + 1}", f"w{i + 2} w3"],
        entity=f"e{i // 2}",
    )
    for i in range(4)
]
Order = dict[str, list[int]]  # which outputs of the fused map are whose, by the map that stands apart


def in_a_row(queries: int, keys: int) -> Order:
    """Return all heads of q, then of k, then of v."""
    q, k = range(queries * HEAD), range(queries * HEAD, (queries + keys) * HEAD)
    v = range(k.stop, k.stop + keys * HEAD)
    return {"q_proj": [*q], "k_proj": [*k], "v_proj": [*v]}


def by_group(groups: int) -> Order:
    """Return, group by group, its heads of q and then its one of k and one of v."""
    heads = torch.arange(groups * (HEADS // groups + 2) * HEAD).view(groups, -1, HEAD)
    parts = {"q_proj": heads[:, :-2], "k_proj": heads[:, -2], "v_proj": heads[:, -1]}
    return {name: part.flatten().tolist() for name, part in parts.items()}


FUSED: dict[str, dict[str, Order]] = {
    "gpt2": {"attn.c_attn": in_a_row(HEADS, HEADS)},
    "gpt_neox": {"attention.query_key_value": by_group(HEADS)},
    "phi3": {
        "self_attn.qkv_proj": in_a_row(HEADS, 2),
        "mlp.gate_up_proj": {"gate_proj": [*range(24)], "up_proj": [*range(24, 48)]},
    },
    "falcon": {"self_attention.query_key_value": by_group(HEADS)},
    "falcon 7b": {"self_attention.query_key_value": in_a_row(HEADS, 1)},
    "falcon 40b": {"self_attention.query_key_value": by_group(2)},
}
QUICK = ("gpt_neox", "phi3")  # one of each kind of map: by group, and in a row beside a gated pair


def linear(weight: Tensor, bias: Tensor | None) -> torch.nn.Linear:
    made = torch.nn.Linear(*reversed(weight.shape), bias=bias is not None, dtype=weight.dtype)
    made.weight.data.copy_(weight)
    if bias is not None:
        made.bias.data.copy_(bias)
    return made


class Apart(torch.nn.Module):
    """Computes by several maps what one fused map computed."""

    def __init__(self, fused: Any, order: Order) -> None:
        super().__init__()
        weight = fused.weight.T if isinstance(fused, Conv1D) else fused.weight
        self.order = order
        for name, places in order.items():
            bias = None if fused.bias is None else fused.bias[places]
            self.add_module(name, linear(weight[places], bias))

    def forward(self, x: Tensor) -> Tensor:
        parts = {name: self.get_submodule(name)(x) for name in self.order}
        found = x.new_empty(*x.shape[:-1], sum(part.shape[-1] for part in parts.values()))
        for name, places in self.order.items():
            found[..., places] = parts[name]
        return found


def taken_apart(model: Any, fused: dict[str, Order]) -> Any:
    """Return a copy in which no map is fused, or stored as [in, out]."""
    made = copy.deepcopy(model)
    for path, module in list(made.named_modules()):
        order = next((o for name, o in fused.items() if path.endswith(f".{name}")), None)
        if order is None and not isinstance(module, Conv1D):
            continue
        parent, _, name = path.rpartition(".")
        new = Apart(module, order) if order else linear(module.weight.T, module.bias)
        setattr(made.get_submodule(parent), name, new)
    return made


@cache
def models(layout: str) -> tuple[Any, Any, Any, Any]:
    """Return a fused model and it before unlearning, then both with their maps apart."""
    before = build_architecture(layout, double=True)
    after = copy.deepcopy(before)
    torch.manual_seed(1)
    for parameter in after.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return after, before, taken_apart(after, FUSED[layout]), taken_apart(before, FUSED[layout])


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=ROWS).logits
    return found


def every_unit(model: Any) -> list[tuple[Site, Tensor]]:
    """Return every unit of one block."""
    sites = [site for site in find_sites(model) if site.layer == 1]
    return [(site, torch.tensor([unit])) for site in sites for unit in range(site.width)]


@pytest.mark.parametrize(
    "layout",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in FUSED],
)
def test_every_unit_has_the_same_effect(layout: str) -> None:
    fused, fused_before, apart, apart_before = models(layout)
    torch.testing.assert_close(logits(fused), logits(apart))
    assert any(site.groups > 1 or site.start for site in find_sites(fused))
    assert not any(site.start or site.transposed for site in find_sites(apart))
    kept, both = snapshot(fused), ((fused, fused_before), (apart, apart_before))
    means = [mean_outputs(model, find_sites(model), EXAMPLES, 1) for model, _ in both]
    plain = logits(fused)
    for one, other in zip(every_unit(fused), every_unit(apart), strict=True):
        effects = []
        for (model, before), mean, (site, unit) in zip(both, means, (one, other), strict=True):
            with ablated(model, {site: unit}):
                zero = logits(model)
            with ablated(model, {site: unit}, mean):
                average = logits(model)
            with restored(model, {site: unit}, dict(before.named_parameters())):
                effects.append((zero, average, logits(model)))
        torch.testing.assert_close(*effects)
        assert not torch.equal(effects[0][0], plain) and not torch.equal(effects[0][2], plain)
    assert all(torch.equal(p, kept[n]) for n, p in fused.named_parameters())


@pytest.mark.parametrize(
    "layout",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in FUSED],
)
def test_the_whole_test_says_the_same(layout: str, tokenizer: Any) -> None:
    """Many units of several parts of one fused map at once, and random ones of each part."""
    fused, fused_before, apart, apart_before = models(layout)
    found = []
    for model, before in ((fused, fused_before), (apart, apart_before)):
        sites, prompt = find_sites(model), Prompt(tokenizer)
        values = torch.rand(sum(s.width for s in sites), generator=torch.Generator().manual_seed(0))
        found.append(
            causal_test(
                model,
                prompt,
                FACTS,
                sites,
                {"minus": values, "plus": values.flip(0)},
                read_by_ranking(before, prompt, FACTS),
                snapshot(before),
                mean_outputs(model, sites, EXAMPLES, 1),
                budget=60,
            )
        )
    one, other = (
        [value for curve in causal.curves for point in curve.points for value in point_values(point)]
        for causal in found
    )
    assert len(one) > 60 and one == pytest.approx(other, rel=1e-4, abs=1e-5)
    assert [c.mode for c in found[0].curves] == ["zero", "mean", "restore", "restore"]


def point_values(point: Any) -> list[float]:
    drawn, share = point.random_logprob, point.share
    ends = [share.value, share.low, share.high] if share else []
    return [point.m, point.top.logprob, point.top.accuracy, drawn.value, drawn.low, drawn.high, *ends]

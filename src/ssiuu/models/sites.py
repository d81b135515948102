"""Where the neurons of a model are.

A neuron is one output unit of a linear map: q, k, v and o of attention, gate, up and down of the
feed-forward, in every block (Sec. 2 of the paper). Maps that stand apart and maps that compute
several at once (q, k and v; gate and up) are both found; a part of a fused map is a slice of its
output. A map is an `nn.Linear` or a `Conv1D`, which stores its weight as [in, out].

Not covered: biases apart, norms, embeddings, experts, layers that mix tokens in other ways than by
attention (`left_out` names the weights of the blocks that belong to no site, `coverage` their share).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from ssiuu.causal import CausalLM
from ssiuu.errors import ModelError
from ssiuu.models.maps import BLOCK, block_matrices, is_map, output_width, stacked_weights, summed

MODULES = ("q", "k", "v", "o", "gate", "up", "down")
_ATTENTION = {"q_proj": "q", "k_proj": "k", "v_proj": "v"} | dict.fromkeys(
    ("o_proj", "out_proj", "dense", "c_proj"), "o"
)
_FEED_FORWARD = (
    {"gate_proj": "gate"}
    | dict.fromkeys(("up_proj", "fc1", "fc_in", "c_fc", "dense_h_to_4h"), "up")
    | dict.fromkeys(("down_proj", "fc2", "fc_out", "c_proj", "dense_4h_to_h"), "down")
)
# Fused q, k and v: all of q, then of k, then of v; or so in each group of heads that share a key.
_IN_A_ROW = {"gpt2": "c_attn", "mpt": "Wqkv", "phi3": "qkv_proj"}
_BY_GROUP = dict.fromkeys(("bloom", "falcon", "gpt_neox", "persimmon"), "query_key_value")
_EITHER = {"gpt_bigcode": "c_attn"}  # in a row where all heads share one key, else by head
_FUSED = {*_IN_A_ROW.values(), *_BY_GROUP.values()}


@dataclass(frozen=True)
class Site:
    """One linear map, or one part of a fused one.

    `path`: of the map in the model. `module`: which of `MODULES`. `width`: neurons. `start`, `groups`:
    the map's output falls into so many groups of one size, and the site's units begin at `start`
    in each. `transposed`: the weight is stored as [in, out].
    """

    path: str
    module: str
    layer: int
    width: int
    start: int = 0
    groups: int = 1
    transposed: bool = False

    def take(self, outputs: Tensor) -> Tensor:
        """Return the site's part of the map's output: [..., out] -> [..., width]."""
        grouped = outputs.unflatten(-1, (self.groups, -1))
        part: Tensor = grouped[..., self.start : self.start + self.width // self.groups]
        return part.flatten(-2)

    def places(self, outputs: int) -> Int[Tensor, " width"]:
        """Return where the site's units stand among the so many outputs of the map."""
        return self.take(torch.arange(outputs))

    def by_output(self, parameter: Tensor) -> Tensor:
        """Return a view of the map's weight, or bias, that has a row for every output."""
        return parameter.T if self.transposed and parameter.dim() == 2 else parameter

    @property
    def units(self) -> str:
        """Which units of the map's output these are, in words."""
        span = f"{self.start}:{self.start + self.width // self.groups}"
        return span if self.groups == 1 else f"{span} in each of {self.groups} groups"


def find_sites(model: CausalLM) -> list[Site]:
    """Return every q, k, v, o, gate, up and down map, by layer and then by module.

    Raises:
        ModelError: The model has no such maps, several of one kind in a block, or fused ones whose
            order is not known.
    """
    sites = [site for path, module in model.named_modules() for site in _sites(model, path, module)]
    if not sites:
        maps = [p for p, m in model.named_modules() if is_map(m)]
        raise ModelError(
            f"no neurons found in {type(model).__name__}: none of its {len(maps)} linear maps "
            f"({summed(maps) or 'there is none'}) stands in a numbered block under a known name: "
            f"{', '.join(sorted({*_ATTENTION, *_FEED_FORWARD, *_FUSED, 'gate_up_proj'}))}."
        )
    paths: dict[tuple[int, str], str] = {}
    for site in sites:
        other = paths.setdefault((site.layer, site.module), site.path)
        if other != site.path:
            raise ModelError(
                f"{type(model).__name__}: block {site.layer} has several {site.module} maps ({other}, "
                f"{site.path}). Several towers are not supported."
            )
    return sorted(sites, key=lambda site: (site.layer, MODULES.index(site.module)))


def known_sites(model: CausalLM) -> list[Site]:
    """Return the sites, or none where `find_sites` finds none or does not know their order."""
    try:
        return find_sites(model)
    except ModelError:
        return []


def left_out(model: CausalLM, sites: Sequence[Site]) -> list[str]:
    """Return the matrices inside the blocks that belong to no site."""
    owned = {f"{site.path}.weight" for site in sites}
    return [name for name in block_matrices(model) if name not in owned]


def coverage(model: CausalLM, sites: Sequence[Site]) -> str | None:
    """Return the sentence on what is not looked into, None if all is.

    The shares are of the numbers in the blocks' matrices; an expert's count like others, though it is
    used for some tokens only.
    """
    outside = left_out(model, sites)
    if not outside:
        return None
    sizes = {name: parameter.numel() for name, parameter in block_matrices(model).items()}
    whole = sum(sizes.values())
    looked_into = whole - sum(sizes[name] for name in outside)
    stacked = [name for name in stacked_weights(model) if name in outside]
    what = "attention only" if all(s.module in "qkvo" for s in sites) else "known maps only"
    experts = f", the experts among them ({sum(sizes[n] for n in stacked) / whole:.0%})"
    return (
        f"The look inside sees {what}: {looked_into / whole:.0%} of the numbers in the matrices of the "
        f"blocks. Left out{experts if stacked else ''}: {summed(outside)}. What changed there is seen "
        "in no D+, D- or causal test."
    )


def _sites(model: CausalLM, path: str, module: Any) -> Iterator[Site]:
    """Yield the sites of one module."""
    path = path.removesuffix(".base_layer")  # a map with an adapter keeps its name
    match = BLOCK.search(path)
    if match is None or not is_map(module):
        return
    transposed = isinstance(module, Conv1D)
    width = output_width(module)
    layer, (*parents, name) = int(match[1]), match[2].split(".")
    if any(parent.isdigit() for parent in parents):
        return  # one of many alike: an expert
    # GPT-2's c_proj is o within attention and down elsewhere.
    attends = any("att" in parent for parent in parents)
    if attends and name in _FUSED:
        parts, groups = _fused(model, path, name, width)
    elif not attends and name == "gate_up_proj":
        parts, groups = {"gate": width // 2, "up": width // 2}, 1
    elif kind := (_ATTENTION if attends else _FEED_FORWARD).get(name):
        parts, groups = {kind: width}, 1
    else:
        return
    # The parts of a fused map follow each other within every group.
    start = 0
    for kind, units in parts.items():
        yield Site(path, kind, layer, units * groups, start, groups, transposed)
        start += units


def _fused(model: CausalLM, path: str, name: str, width: int) -> tuple[dict[str, int], int]:
    """Return how many units q, k and v have in each group of a fused map, and how many groups.

    Raises:
        ModelError: The order is not known, or the width does not fit the configuration.
    """
    config = model.config
    shared = getattr(config, "multi_query", False)
    either = _EITHER.get(config.model_type) == name
    by_group = _BY_GROUP.get(config.model_type) == name or (either and not shared)
    if not by_group and not either and _IN_A_ROW.get(config.model_type) != name:
        raise ModelError(
            f"{path}: q, k and v are one map here, in an order that is not known for models of type "
            f"{config.model_type!r}. Known: {', '.join(sorted(_IN_A_ROW | _BY_GROUP | _EITHER))}."
        )
    heads = config.num_attention_heads
    keys = (
        getattr(config, "num_key_value_heads", None) or getattr(config, "num_kv_heads", None) or heads
    )
    if either:
        keys = heads  # its own count is that of the class, not of the model
    if shared and not getattr(config, "new_decoder_architecture", False):
        keys = 1  # Falcon 7B, StarCoder
    if heads % keys or width % (heads + 2 * keys):
        raise ModelError(
            f"{path}: {width} outputs do not divide into {heads} heads of q and {keys} of k and of v."
        )
    groups = keys if by_group else 1
    each = width // (heads + 2 * keys)
    return {"q": heads // groups * each, "k": keys // groups * each, "v": keys // groups * each}, groups


def final_norm(model: CausalLM) -> torch.nn.Module | None:
    """Return the norm between the last block and the output embedding, or None."""
    body = getattr(model, "base_model", model)
    for part in (body, getattr(body, "decoder", None), getattr(body, "model", None)):
        for name in ("norm", "final_layernorm", "final_layer_norm", "ln_f", "norm_f", "ln_out"):
            module = getattr(part, name, None)
            if isinstance(module, torch.nn.Module):
                return module
    return None

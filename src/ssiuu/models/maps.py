"""The linear maps inside a model's blocks, by what they are and not by a list of models.

A map is an `nn.Linear`, or a `Conv1D`, which stores its weight as [in, out]. A block is what stands
under a number in the model's tree. Token mixers (attention, state-space layers, convolutions) are told
from feed-forward layers by the names of the modules around a map.

Not covered: weights that are no module of their own, such as experts stored as one tensor of three
dimensions (`stacked_weights` names them), routers, and depthwise convolutions.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from ssiuu.causal import CausalLM
from ssiuu.models.hooks import Hook, hooked

BLOCK = re.compile(r"\.(\d+)\.(.+)$")
# q and v where they stand apart, and maps that compute q, k and v at once.
_QUERY_VALUE = ("q_proj", "v_proj")
FUSED = ("c_attn", "Wqkv", "qkv_proj", "query_key_value")
_MIXERS = ("att", "mixer", "mamba", "ssm", "conv", "temporal", "rec")
_ENDS = ("in_proj", "out_proj")
# By name of a map, types of models some of whose kernels read its weight without calling it.
_PASSED_BY = {"out_proj": ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h")}


@dataclass(frozen=True)
class Chosen:
    """Maps that were chosen, by path; what must be said of the choice; maps that no adapter fits."""

    paths: tuple[str, ...]
    notes: tuple[str, ...] = ()
    barred: tuple[str, ...] = ()


def is_map(module: object) -> TypeGuard[torch.nn.Linear | Conv1D]:
    """Whether a module is one linear map."""
    return isinstance(module, (torch.nn.Linear, Conv1D))


def feed_forward(model: CausalLM) -> dict[str, torch.nn.Module]:
    """Return the linear maps of the blocks outside token mixers, by path: gate, up and down, or what
    plays their part.

    Maps with adapters count as the maps that they are; routers and switches of one output do not.
    """
    maps: dict[str, torch.nn.Module] = {}
    for path, module in block_maps(model).items():
        match, own = BLOCK.search(path), path.removesuffix(".base_layer")
        inside = match is not None and not mixes(match[2]) and "router" not in match[2]
        if inside and ".lora_" not in path and is_map(module) and output_width(module) > 1:
            maps[own] = model.get_submodule(own)
    return maps


def stream_width(model: CausalLM) -> int:
    """Return the width of the residual stream."""
    width = getattr(model.config.get_text_config(), "hidden_size", None)
    return int(width or model.get_input_embeddings().weight.shape[1])


def output_width(module: torch.nn.Linear | Conv1D) -> int:
    """Return how many outputs a linear map has."""
    # Not of the weight, which may be held in codes.
    return int(module.nf if isinstance(module, Conv1D) else module.out_features)


def widths(module: Any) -> tuple[int, int]:
    """Return how many outputs and inputs a linear map has."""
    return output_width(module), int(module.nx if isinstance(module, Conv1D) else module.in_features)


def block_maps(model: CausalLM) -> dict[str, torch.nn.Module]:
    """Return every linear map inside the blocks, by path."""
    return {p: m for p, m in model.named_modules() if is_map(m) and BLOCK.search(p)}


def block_matrices(model: CausalLM) -> dict[str, Tensor]:
    """Return every weight of two dimensions or more inside the blocks, by name."""
    return {n: p for n, p in model.named_parameters() if BLOCK.search(n) and p.dim() > 1}


def stacked_weights(model: CausalLM) -> list[str]:
    """Return the weights of the blocks that hold several maps in one tensor, [maps, ., .]: experts."""
    convolutions = {
        f"{p}.weight" for p, m in model.named_modules() if isinstance(m, torch.nn.modules.conv._ConvNd)
    }
    return [
        name
        for name, parameter in model.named_parameters()
        if BLOCK.search(name) and parameter.dim() == 3 and parameter.shape[0] > 1
        if name not in convolutions
    ]


def stored_across(model: CausalLM, name: str) -> bool:
    """Whether a stacked weight holds its maps as [in, out].

    The module says so, or else the width of the residual stream does, where the maps begin or end.
    """
    stated = getattr(model.get_submodule(name.rpartition(".")[0]), "is_transposed", None)
    if stated is not None:
        return bool(stated)
    width = getattr(model.config, "hidden_size", None)
    out, inner = model.get_parameter(name).shape[1:]
    own = ".".join(name.split(".")[-2:])
    # A map that begins in the residual stream takes in its width, one that ends there puts it out.
    ends = any(part in own for part in ("down", "output", "w2"))
    return bool(out != width and inner == width) if ends else bool(out == width and inner != width)


def adaptable(model: CausalLM) -> Chosen:
    """Return every map of the blocks that an adapter can be put on."""
    barred = _barred(model)
    notes = []
    if stacked := stacked_weights(model):
        notes.append(
            f"no adapter on {summed(stacked)}: each of these weights holds several maps in one tensor, "
            "as experts do, and stays as it is"
        )
    if barred:
        notes.append(_without_call(barred))
    maps = tuple(path for path in block_maps(model) if path not in barred)
    return Chosen(maps, tuple(notes), barred)


def query_value(model: CausalLM) -> Chosen:
    """Return the maps that compute queries and values, block by block.

    A map that computes q, k and v at once is taken whole. In a block whose q and v are not known the
    token mixer's first and last maps stand in for them, or all maps of the mixer. Each is noted.
    """
    barred = _barred(model)
    blocks: defaultdict[str, list[str]] = defaultdict(list)
    for path in block_maps(model):
        match = BLOCK.search(path)
        if match and mixes(match[2]) and "router" not in match[2]:
            blocks[path[: match.end(1)]].append(path)
    maps: dict[str, list[str]] = {"apart": [], "fused": [], "ends": [], "mixer": []}
    missed: list[str] = []
    for paths in blocks.values():
        names = {path: path.rpartition(".")[2] for path in paths}
        choices = {
            "apart": [path for path in paths if names[path] in _QUERY_VALUE],
            "fused": [path for path in paths if names[path] in FUSED],
            "ends": [path for path in paths if names[path] in _ENDS],
            "mixer": paths,
        }
        # The first kind that a block has is the surest.
        kind = next(kind for kind, chosen in choices.items() if chosen)
        maps[kind] += [path for path in choices[kind] if path not in barred]
        missed += [path for path in choices[kind] if path in barred]
    sentences = {
        "fused": "q, k and v are one map here ({}), which is adapted whole",
        "ends": "no q and v in some blocks, where the mixer's outer maps ({}) are adapted",
        "mixer": "q and v are not known here: all maps of the token mixer ({}) are adapted",
    }
    notes = [text.format(summed(maps[kind])) for kind, text in sentences.items() if maps[kind]]
    if missed:
        notes.append(_without_call(missed))
    return Chosen(tuple(path for paths in maps.values() for path in paths), tuple(notes), barred)


@torch.no_grad()
def passed_by(model: CausalLM) -> tuple[str, ...]:
    """Return the maps of the blocks whose weight is used in another way than by a plain call.

    An adapter or a hook on such a map would be passed by; some routers put out more than a product.
    Told by a pass over two tokens: the weight has a gradient though the map was not called; that of an
    expert to which no token was sent has none.
    """
    maps = block_maps(model)
    called: set[str] = set()

    def noting(path: str) -> Hook:
        return lambda module, inputs, output: (
            called.add(path) if isinstance(output, torch.Tensor) else None
        )

    ids = torch.tensor([[0, 1]], device=next(model.parameters()).device)
    with hooked((module, noting(path)) for path, module in maps.items()):
        model(input_ids=ids, use_cache=False)
    silent = [path for path in maps if path not in called and maps[path].weight.requires_grad]
    if not silent:
        return ()
    with torch.enable_grad():
        total = model(input_ids=ids, use_cache=False).logits.float().sum()
        weights: list[Any] = [maps[path].weight for path in silent]
        gradients = torch.autograd.grad(total, weights, allow_unused=True)
    return tuple(path for path, grad in zip(silent, gradients, strict=True) if grad is not None)


def _barred(model: CausalLM) -> tuple[str, ...]:
    """Return the maps on which an adapter might not be noticed, here or where faster kernels run."""
    kind = getattr(model.config, "model_type", "")
    types = [p for p in block_maps(model) if kind in _PASSED_BY.get(p.rpartition(".")[2], ())]
    return tuple(dict.fromkeys([*types, *passed_by(model)]))


def _without_call(barred: Iterable[str]) -> str:
    return f"no adapter on {summed(barred)}: the weight is used in another way than by calling the map"


def summed(paths: Iterable[str]) -> str:
    """Return paths of many blocks in few words: those that differ in their numbers only stand once."""
    return ", ".join(dict.fromkeys(re.sub(r"\.\d+(?=\.)", ".*", path) for path in paths))


def mixes(within: str) -> bool:
    """Whether a map, by its path within its block, belongs to a token mixer."""
    return any(part in parent for parent in within.split(".")[:-1] for part in _MIXERS)

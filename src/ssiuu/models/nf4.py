"""4-bit NormalFloat by the package bitsandbytes, which computes with it on GPUs and on the processor.

    rounded(weight)                                  # through its codes and back
    with held(model, holdable(model)):               # its linear maps compute with nf4
    coded(model)                                     # those that have computed so since it was read

64 neighbouring values of the flattened weight share a scale, the largest absolute value among them.
*double*: these scales are held in 8 bits themselves, as QLoRA does; else in fp32. The package is an
extra (`pip install 'ssiuu[nf4]'`).

While a model is held so, its own weights lie elsewhere (`ssiuu.models.room.put_away`). Afterwards it
has them again to the last bit: what was trained beside is merged into these, not into 4 bits.

A model may be read so from the first (`ssiuu.models.coded`). Then nothing is merged here: what adapters
have come to stays beside the codes, as low-rank products.

Source: Dettmers et al. 2023 (QLoRA), Sec. 3; bitsandbytes. Departures: none.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ssiuu.causal import CausalLM
from ssiuu.models.maps import adaptable
from ssiuu.models.room import chosen, put_away

PACKAGE: Final = "bitsandbytes"
REMEDY: Final = f"the package {PACKAGE}: pip install 'ssiuu[nf4]'"
GROUP: Final = 64  # values with a scale of their own
BESIDE: Final = "changes"  # what maps that are in codes from the first have of adapters
PARTS: Final = ("down", "up", "scale")
TALK: Final = "bitsandbytes.backends.cpu.ops"  # advises another package where that would be faster


def there() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec(PACKAGE) is not None


def muted() -> None:
    """Keep off the terminal what the package says while it is imported, by whomever."""
    logging.getLogger(TALK).setLevel(logging.ERROR)


def package(name: str = PACKAGE) -> Any:
    """Import a module of the package."""
    muted()
    return importlib.import_module(name)


@torch.no_grad()
def rounded(weight: Float[Tensor, "out in"], double: bool = False) -> Float[Tensor, "out in"]:
    """Return the weight as the package dequantises what it made of it, in its own type.

    Args:
        weight: On any device that the package has kernels for.
        double: Whether the scales are quantised too.
    """
    kernels = package(f"{PACKAGE}.functional")
    settings = {"blocksize": GROUP, "quant_type": "nf4", "compress_statistics": double}
    with torch.compiler.set_stance("force_eager"):  # of odd rows it compiles a path, for seconds
        codes = kernels.quantize_4bit(weight.contiguous(), **settings)
        whole: Tensor = kernels.dequantize_4bit(*codes)
    return whole


def holdable(model: CausalLM) -> list[str]:
    """Return the paths of the linear maps of the blocks whose weights can be held in nf4."""
    maps = {path: model.get_submodule(path) for path in adaptable(model).paths}
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    return [p for p, m in maps.items() if type(m) is nn.Linear and uses[id(m.weight)] == 1]


@contextmanager
def held(model: CausalLM, paths: Sequence[str]) -> Iterator[None]:
    """Hold the weights of these maps in nf4, *double*, for the time of the context.

    Args:
        model: Changed in place; on leaving it has its own maps again.
        paths: Of its `nn.Linear` maps, whose weights nothing else shares.

    Raises:
        OSError: There is no room for the weights themselves, not even on the disk.
    """
    maps: list[Any] = [model.get_submodule(path) for path in paths]
    own = put_away([each.weight for each in maps], chosen(model))
    try:
        for path, each in zip(paths, maps, strict=True):
            _put(model, path, _coded(each))
            each.weight.data = each.weight.new_empty(0)
        yield
    finally:
        for path, each, weight in zip(paths, maps, own, strict=True):
            _put(model, path, each)
            each.weight.data = weight.to(each.weight.device, copy=True)


def whole(linear: nn.Linear | Conv1D) -> Float[Tensor, "out in"]:
    """Return the weight of a linear map as it is stored, dequantised where it is held in nf4."""
    weight: Any = linear.weight.detach()
    state = getattr(linear.weight, "quant_state", None)
    if state is None:
        return cast(Tensor, weight)
    found: Tensor = package(f"{PACKAGE}.functional").dequantize_4bit(linear.weight.data, state)
    for change in getattr(linear, BESIDE, ()):
        found = found + change.whole().to(found)
    return found


def kind_of(weight: Tensor) -> torch.dtype:
    """Return the type of a weight's numbers, of codes that of what they stand for."""
    state = getattr(weight, "quant_state", None)
    return weight.dtype if state is None else state.dtype


def count(model: CausalLM) -> int:
    """Return the number of parameters of a model, of maps in codes those of their weights."""
    states = ((p, getattr(p, "quant_state", None)) for p in model.parameters())
    return sum(p.numel() if state is None else math.prod(state.shape) for p, state in states)


@dataclass(frozen=True)
class Change:
    """What an adapter has come to, beside the codes of a map: s B A. `down`: A; `up`: B."""

    down: Float[Tensor, "rank in"]
    up: Float[Tensor, "out rank"]
    scale: float

    def whole(self) -> Float[Tensor, "out in"]:
        """Return it as it is added to the weight."""
        return (self.up @ self.down) * self.scale

    def added(
        self, inputs: Float[Tensor, "*n in"], outputs: Float[Tensor, "*n out"]
    ) -> Float[Tensor, "*n out"]:
        """Return the outputs of a map with its own added, as an adapter adds them."""
        low = nn.functional.linear(inputs.to(self.down.dtype), self.down)
        return outputs + nn.functional.linear(low, self.up) * self.scale


@cache
def _kind() -> Any:
    """Return the class of maps that are in codes from the first: nn.Linear to whoever asks."""
    layers: Any = package(f"{PACKAGE}.nn")

    class Coded(layers.Linear4bit):  # type: ignore[misc]  # its type is known once it is imported
        changes: tuple[Change, ...] = ()

        def forward(self, inputs: Tensor) -> Tensor:
            found: Tensor = super().forward(inputs)
            with_changes = found
            for change in self.changes:
                with_changes = change.added(inputs, with_changes)
            return with_changes.to(found.dtype)

    return Coded


def without_weight(linear: nn.Linear) -> Any:
    """Return a map that is to compute with codes, in the place of one; `encode` gives them to it."""
    made = _made(_kind(), linear)
    made.weight = None
    return made


def encode(linear: Any, weight: Float[Tensor, "out in"]) -> None:
    """Give a map of `without_weight` the codes of its weight, where that lies."""
    linear.weight = _codes(weight)


def coded(model: CausalLM) -> dict[str, Any]:
    """Return the maps that are in codes since the model was read, by path; none: it is a usual one."""
    found = ((p, m) for p, m in model.named_modules() if hasattr(m, BESIDE))
    return {path.removesuffix(".base_layer"): module for path, module in found}


def changes(model: CausalLM) -> dict[str, Tensor]:
    """Return what stands beside the codes of a model, all that can change of it."""
    return {
        f"{path}.{BESIDE}.{number}.{part}": torch.as_tensor(getattr(change, part))
        for path, module in coded(model).items()
        for number, change in enumerate(module.changes)
        for part in PARTS
    }


def put_changes(model: CausalLM, stored: Mapping[str, Tensor]) -> None:
    """Put what `changes` returned, and nothing else, beside the codes of a model; no copy is made.

    Raises:
        KeyError: It is of another model.
    """
    left = dict(stored)
    for path, module in coded(model).items():
        found: list[Change] = []
        device = module.weight.device
        while f"{path}.{BESIDE}.{len(found)}.{PARTS[0]}" in left:
            down, up, scale = (left.pop(f"{path}.{BESIDE}.{len(found)}.{part}") for part in PARTS)
            if (len(up), down.shape[-1]) != (module.out_features, module.in_features):
                raise KeyError(path)
            found.append(Change(down.to(device), up.to(device), float(scale)))
        module.changes = tuple(found)
    if left:
        raise KeyError(next(iter(left)))


@torch.no_grad()
def distance(model: CausalLM) -> float:
    """Return the norm of what stands beside the codes of a model, as a share of that of its weights."""
    maps = coded(model)
    own = {id(module.weight) for module in maps.values()}
    others = (p for p in model.parameters() if id(p) not in own)
    moved, total = 0.0, sum(float(p.float().square().sum()) for p in others)
    for module in maps.values():
        before = package(f"{PACKAGE}.functional").dequantize_4bit(
            module.weight.data, module.weight.quant_state
        )
        total += float(before.float().square().sum())
        if module.changes:
            both = (change.whole() for change in module.changes)
            moved += float(torch.stack([*both]).sum(0).square().sum())
    return math.sqrt(moved / total)


def _coded(linear: nn.Linear) -> nn.Linear:
    """Return a linear map that computes with the codes of another one's weight."""
    made = _made(package(f"{PACKAGE}.nn").Linear4bit, linear)
    made.weight = _codes(linear.weight.detach())
    return cast(nn.Linear, made)


def _made(kind: Any, linear: nn.Linear) -> Any:
    """Return a map of a class of the package in the place of one, without its weight."""
    made = kind(*(linear.in_features, linear.out_features), bias=False, quant_type="nf4", device="meta")
    made.bias = linear.bias
    made.support_avx512bf16_for_cpu = False  # its products are in bf16, whatever the type of the input
    return made.train(linear.training)


def _codes(weight: Tensor) -> Any:
    """Return the codes of a weight, where that lies, as a parameter."""
    kind = package(f"{PACKAGE}.nn").Params4bit
    settings = {"blocksize": GROUP, "quant_type": "nf4", "compress_statistics": True}
    return kind(weight, requires_grad=False, **settings).to(weight.device)


def _put(model: CausalLM, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)

"""4-bit NormalFloat by the package bitsandbytes, which computes with it on GPUs and on the processor.

    rounded(weight)                                  # through its codes and back
    with held(model, holdable(model)):               # its linear maps compute with nf4

64 neighbouring values of the flattened weight share a scale, the largest absolute value among them.
*double*: these scales are held in 8 bits themselves, as QLoRA does; else in fp32. The package is an
extra (`pip install 'ssiuu[nf4]'`).

While a model is held so, its own weights lie elsewhere (`ssiuu.models.room.put_away`). Afterwards it
has them again to the last bit: what was trained beside is merged into these, not into 4 bits.

Source: Dettmers et al. 2023 (QLoRA), Sec. 3; bitsandbytes. Departures: none.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    return cast(Tensor, package(f"{PACKAGE}.functional").dequantize_4bit(linear.weight.data, state))


def _coded(linear: nn.Linear) -> nn.Linear:
    """Return a linear map that computes with the codes of another one's weight."""
    layers = package(f"{PACKAGE}.nn")
    coded = layers.Linear4bit(
        *(linear.in_features, linear.out_features), bias=False, quant_type="nf4", device="meta"
    )
    weight = linear.weight.detach()
    coded.weight = layers.Params4bit(
        weight, requires_grad=False, blocksize=GROUP, quant_type="nf4", compress_statistics=True
    ).to(weight.device)
    coded.bias = linear.bias
    coded.support_avx512bf16_for_cpu = False  # its products are in bf16, whatever the type of the input
    made: nn.Linear = coded.train(linear.training)
    return made


def _put(model: CausalLM, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)

"""4-bit NormalFloat by the package bitsandbytes, which computes with it on GPUs and on the processor.

    rounded(weight)                                  # through its codes and back

64 neighbouring values of the flattened weight share a scale, the largest absolute value among them.
*double*: these scales are held in 8 bits themselves, as QLoRA does; else in fp32. The package is an
extra (`pip install 'ssiuu[nf4]'`).

Source: Dettmers et al. 2023 (QLoRA), Sec. 3; bitsandbytes. Departures: none.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

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

"""Where the arithmetic runs: the device, bf16 autocast where the processor has it, the allocator."""

from __future__ import annotations

import ctypes
import gc
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ssiuu.errors import ConfigError

Precision = Literal["auto", "bf16", "fp32"]
SHORT = 96  # tokens; see `attention`


def resolve_precision(precision: Precision, device: torch.device) -> Literal["bf16", "fp32"]:
    """Return what "auto" means here: bf16 autocast only where it is faster than fp32.

    A processor without bf16 instructions emulates them and is many times slower.

    Raises:
        ConfigError: bf16 was asked for on a processor that only emulates it.
    """
    native = _has_bf16(device)
    if precision == "bf16" and not native:
        raise ConfigError(
            f"precision: 'bf16' is not supported by this {device.type} and would be emulated at "
            "a fraction of the speed. Use 'auto' or 'fp32'."
        )
    return "bf16" if native and precision != "fp32" else "fp32"


def _has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies in bf16 itself."""
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(getattr(torch.get_device_module(device), "is_bf16_supported", bool)())


def autocast(precision: Literal["bf16", "fp32"], device: str) -> AbstractContextManager[object]:
    """Return bf16 autocast over fp32 weights, or nothing."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device, torch.bfloat16)


def has_tf32(device: torch.device) -> bool:
    """Whether a device can take ten digits of the factors of a product in fp32."""
    if device.type == "cuda":
        return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)
    # Some processors are told to by the same switch, and their products are then in bf16.
    return device.type != "cpu" and bool(
        getattr(torch.get_device_module(device), "is_tf32_supported", bool)()
    )


@contextmanager
def tf32() -> Iterator[None]:
    """Let products in fp32 be in TF32 for the time of the context, in the whole process."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def attention(
    precision: Literal["bf16", "fp32"], device: str, tokens: int
) -> AbstractContextManager[object]:
    """Return the attention kernel for forward and backward passes over rows of so many tokens.

    A CPU's flash attention is slow on short bf16 rows, the backward pass most: plain products make
    a whole step 13 % faster at 24 tokens and 6 at 64, but not at 128, and a step in fp32 slower.
    """
    if device == "cpu" and precision == "bf16" and tokens <= SHORT:
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def keep_memory() -> None:
    """Tell glibc to reuse freed blocks instead of giving each one back to the system.

    Gradients are allocated and freed at every step; returning them costs a page fault for every
    4 KiB when they are allocated again, a third of a step's time on a CPU. The command line calls
    this; a library should not change its host's allocator.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # from malloc.h
    mallopt(m_mmap_max, 0)  # an mmapped block always goes back, and the threshold ends at 32 MiB
    mallopt(m_trim_threshold, 2**31 - 1)
    mallopt(m_top_pad, 64 << 20)


def release_memory() -> None:
    """Give freed blocks back to the system between two stages, which need blocks of other sizes."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL("libc.so.6").malloc_trim(0)

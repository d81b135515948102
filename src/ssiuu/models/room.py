"""Where a copy of weights lies: on their device, in main memory, or in a file, by what is free.

Copies go where their originals are while that leaves as much again free; from an accelerator else into
pinned main memory, from which they go back at the full speed of the bus; and where main memory is short
(as Linux tells) into files that are mapped, one a tensor. These have no names, and are gone with it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that are free on a device; None where it does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return None


@torch.no_grad()
def copied(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return copies of these tensors, all in one place; see the module.

    Raises:
        OSError: No place has room for them, not even the disk.
    """
    if not tensors:
        return []
    need = sum(t.numel() * t.element_size() for t in tensors)
    device = tensors[0].device
    if _fits(need, device):
        return [t.detach().clone() for t in tensors]
    if device.type != "cpu" and _fits(need, torch.device("cpu")):
        return _pinned(tensors)
    return _on_disk(tensors)


@torch.no_grad()
def put_away(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return copies of these tensors that take no room where these lie.

    From an accelerator in main memory, while that leaves as much again free, else in files; see the
    module.

    Raises:
        OSError: There is no room for them, not even on the disk.
    """
    need = sum(t.numel() * t.element_size() for t in tensors)
    if tensors and tensors[0].device.type != "cpu" and _fits(need, torch.device("cpu")):
        return _pinned(tensors)
    return _on_disk(tensors)


def _pinned(tensors: Sequence[Tensor]) -> list[Tensor]:
    pinned = [torch.empty_like(t, device="cpu", pin_memory=t.device.type == "cuda") for t in tensors]
    return [copy.copy_(t) for copy, t in zip(pinned, tensors, strict=True)]


def _fits(need: int, device: torch.device) -> bool:
    free = free_bytes(device)
    return free is None or free > 2 * need


def _on_disk(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return copies that are pages of files; the system writes them out as it needs the memory."""
    copies = []
    for tensor in tensors:
        handle, name = tempfile.mkstemp(prefix="ssiuu-copy-")
        try:
            os.posix_fallocate(handle, 0, max(1, tensor.numel() * tensor.element_size()))
            copy = torch.from_file(name, shared=True, size=tensor.numel(), dtype=tensor.dtype)
            copies.append(copy.view(tensor.shape).copy_(tensor))
        finally:
            os.close(handle)
            os.unlink(name)  # what is mapped stays until it is let go
    return copies

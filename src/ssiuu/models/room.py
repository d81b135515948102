"""Where a copy of weights lies: on their device, in main memory, or in a file, by what is free.

Copies go where their originals are while that leaves as much again free; from an accelerator else into
pinned main memory, from which they go back at the full speed of the bus; and where main memory is short
(as Linux tells, of the machine and of the process's control group) into files that are mapped, one a
tensor. These have no names, and are gone with it. A model may be told where its copies lie instead.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

Offload = Literal["auto", "memory", "disk"]

# The limit of a control group, what it holds, and which line of its statistics can be taken back.
GROUPS: Final = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
MOUNT: Final = Path("/sys/fs/cgroup")
ZEROS: Final = bytes(1 << 20)
_chosen: WeakKeyDictionary[object, Offload] = WeakKeyDictionary()  # by model


def choose(model: object, offload: Offload) -> None:
    """Say where copies of a model's weights lie."""
    _chosen[model] = offload


def chosen(model: object) -> Offload:
    """Return where copies of a model's weights lie; auto where nothing was said."""
    return _chosen.get(model, "auto")


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that are free on a device; None where it does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    told = [free for free in (_of_machine(), _of_group(MOUNT)) if free is not None]
    return min(told, default=None)


def _of_machine() -> int | None:
    """Return the bytes of main memory that are available; None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return None


def _of_group(mount: Path) -> int | None:
    """Return the bytes that the control group of a container has left; None without a limit."""
    for limit, held, back in GROUPS:
        try:
            most, now = ((mount / name).read_text().strip() for name in (limit, held))
            lines = (mount / limit).with_name("memory.stat").read_text().splitlines()
            taken = int(dict(line.split() for line in lines).get(back, 0))
            return max(0, int(most) - int(now) + taken) if most != "max" else None
        except (OSError, ValueError):
            continue
    return None


@torch.no_grad()
def copied(tensors: Sequence[Tensor], offload: Offload = "auto") -> list[Tensor]:
    """Return copies of these tensors, all in one place; see the module.

    Args:
        tensors: On one device.
        offload: Where they lie: auto as is free, in main memory, or on the disk.

    Raises:
        OSError: No place has room for them, not even the disk.
    """
    if not tensors:
        return []
    need = sum(t.numel() * t.element_size() for t in tensors)
    device = tensors[0].device
    if offload != "auto":
        return _on_disk(tensors) if offload == "disk" else _in_memory(tensors)
    if _fits(need, device):
        return [t.detach().clone() for t in tensors]
    if device.type != "cpu" and _fits(need, torch.device("cpu")):
        return _in_memory(tensors)
    return _on_disk(tensors)


@torch.no_grad()
def put_away(tensors: Sequence[Tensor], offload: Offload = "auto") -> list[Tensor]:
    """Return copies of these tensors that take no room where these lie.

    Args:
        tensors: On one device.
        offload: auto: from an accelerator in main memory, while that leaves as much again free, else in
            files; or in one of the two.

    Raises:
        OSError: There is no room for them, not even on the disk.
    """
    need = sum(t.numel() * t.element_size() for t in tensors)
    apart = bool(tensors) and tensors[0].device.type != "cpu"
    if offload == "memory" or (offload == "auto" and apart and _fits(need, torch.device("cpu"))):
        return _in_memory(tensors)
    return _on_disk(tensors)


def _in_memory(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return copies in main memory, pinned where they come from an accelerator."""
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
            _allocate(handle, max(1, tensor.numel() * tensor.element_size()))
            copy = torch.from_file(name, shared=True, size=tensor.numel(), dtype=tensor.dtype)
            copies.append(copy.view(tensor.shape).copy_(tensor))
        finally:
            os.close(handle)
            _discard(Path(name))
    return copies


def _allocate(handle: int, size: int) -> None:
    """Give a file its size and the room for it: a full disk is an error now, and a crash later.

    Raises:
        OSError: There is no room.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
        return
    for _ in range(0, size, len(ZEROS)):
        os.write(handle, ZEROS)
    os.ftruncate(handle, size)


def _discard(path: Path) -> None:
    """Remove a file that is mapped: what is mapped stays until it is let go.

    Windows removes none that is, so there it goes when the process ends.
    """
    try:
        path.unlink()
    except PermissionError:
        atexit.register(_remove, path)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)

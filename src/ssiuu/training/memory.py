"""Peak memory of a stage."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch


def reset_peak(device: torch.device) -> None:
    """Begin a new measurement, of the device and, where the system can (Linux), of the process."""
    if (memory := _of(device)) is not None:
        memory.reset_peak_memory_stats(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # elsewhere the peak is that of the whole process


def peak_mb() -> float:
    """Return the highest resident memory, MB: since the last reset on Linux, elsewhere of all."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) / 1000
    except OSError:
        pass
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 1e6
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage / 1e6 if sys.platform == "darwin" else usage / 1000


def peak_device_mb(device: torch.device) -> float | None:
    """Return the most that tensors took of a device since the last reset, MB; None: the processor."""
    memory = _of(device)
    return None if memory is None else float(memory.max_memory_allocated(device)) / 1e6


def _of(device: torch.device) -> Any:
    """Return what counts the memory of a device; None where nothing does."""
    module = None if device.type == "cpu" else torch.get_device_module(device)
    return module if hasattr(module, "max_memory_allocated") else None

"""What a record says of where it was made."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from ssiuu.models.place import PROCESSOR, Placement

PACKAGES = ("ssiuu", "torch", "transformers", "accelerate", "tokenizers", "numpy", "scipy", "lm-eval")


def versions() -> dict[str, str]:
    """Return the versions of Python and the packages that decide a result."""
    by_package = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            by_package[name] = version(name)
        except PackageNotFoundError:
            by_package[name] = "not installed"
    return by_package


def machine(precision: str, placement: Placement = PROCESSOR) -> dict[str, str]:
    """Return what kind of machine this is and where on it the work is done; nothing that names it."""
    return {
        "device": placement.described,
        "system": platform.system(),
        "processor": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "cores": str(os.cpu_count()),
        "precision": precision,
    }

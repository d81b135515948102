"""The state of unfinished training: one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from ssiuu.errors import DamagedError
from ssiuu.models.weights import Tensors, read_tensors, write_tensors
from ssiuu.training.step import Step

SAVE_EVERY = 300.0  # seconds between two saved states of a long run
NONE: Mapping[str, torch.Tensor] = MappingProxyType({})


def save_state(
    path: Path, step: Step, progress: dict[str, Any], kept: Mapping[str, torch.Tensor] = NONE
) -> None:
    """Save parameters, the optimiser's state, what the method's parts remember, and the log so far.

    A tensor is named `parameter:NAME`, `optimiser:KEY:NAME`, `retain optimiser:KEY:NAME`,
    `part:PART:KEY` or, of what the caller keeps beside them, `kept:NAME`.

    Raises:
        OutputError: No disk space, or the folder cannot be written to.
    """
    tensors: dict[str, torch.Tensor] = {f"kept:{name}": value for name, value in kept.items()}
    for name, parameter in step.named.items():
        tensors[f"parameter:{name}"] = parameter.detach()
        for kind, optimizer in step.optimizers.items():
            moments = optimizer.state.get(parameter, {})
            tensors |= {f"{kind}:{k}:{name}": v for k, v in moments.items() if v is not None}
    for part, bound in step.bounds.items():
        tensors |= {f"part:{part}:{key}": value for key, value in bound.state().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(tensors, path, {"progress": json.dumps(progress)})


def read_state(path: Path) -> Tensors | None:
    """Read a state; a damaged one is told of, and training begins again."""
    try:
        return read_tensors(path)
    except DamagedError:
        warnings.warn(f"{path} is cut short or damaged: that training begins again.", stacklevel=3)
        return None


@torch.no_grad()
def load_state(
    path: Path, step: Step, key: str, kept: Mapping[str, torch.Tensor] = NONE
) -> dict[str, Any] | None:
    """Restore a state saved under the same key; None if there is none that fits, or can be read."""
    stored = read_state(path) if path.exists() else None
    progress: dict[str, Any] = {} if stored is None else json.loads(stored.told.get("progress", "{}"))
    if stored is None or progress.get("key") != key:
        return None
    remembered: dict[str, dict[str, torch.Tensor]] = {part: {} for part in step.bounds}
    device = next(iter(step.named.values())).device
    for full, tensor in stored.tensors.items():
        kind, _, rest = full.partition(":")
        first, _, last = rest.partition(":")
        if kind == "parameter":
            step.named[rest].copy_(tensor)
        elif kind == "kept":
            kept[rest].copy_(tensor)
        elif kind in step.optimizers:
            parameter = step.named[last]
            # A copy: what is read from the file must not change with it.
            step.optimizers[kind].state[parameter][first] = tensor.clone().to(parameter.device)
        else:
            remembered[first][last] = tensor.clone().to(device)
    for part, bound in step.bounds.items():
        bound.restore(remembered[part])
    return progress

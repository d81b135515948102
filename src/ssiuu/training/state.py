"""The state of unfinished training: one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ssiuu.models.load import write_tensors
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


def _readable(path: Path) -> bool:
    """Whether a file is a whole state; one that is not is told of, and training begins again."""
    try:
        with safe_open(path, framework="pt") as stored:
            return "key" in json.loads((stored.metadata() or {}).get("progress", "{}"))
    except (SafetensorError, ValueError):
        warnings.warn(f"{path} is cut short or damaged: that training begins again.", stacklevel=2)
        return False


@torch.no_grad()
def load_state(
    path: Path, step: Step, key: str, kept: Mapping[str, torch.Tensor] = NONE
) -> dict[str, Any] | None:
    """Restore a state saved under the same key; None if there is none that fits, or can be read."""
    if not path.exists() or not _readable(path):
        return None
    with safe_open(path, framework="pt") as stored:
        progress: dict[str, Any] = json.loads(stored.metadata()["progress"])
        if progress["key"] != key:
            return None
        remembered: dict[str, dict[str, torch.Tensor]] = {part: {} for part in step.bounds}
        device = next(iter(step.named.values())).device
        for full in [*stored.keys()]:
            kind, _, rest = full.partition(":")
            first, _, last = rest.partition(":")
            if kind == "parameter":
                step.named[rest].copy_(stored.get_tensor(full))
            elif kind == "kept":
                kept[rest].copy_(stored.get_tensor(full))
            elif kind in step.optimizers:
                parameter = step.named[last]
                moment = stored.get_tensor(full).to(parameter.device)
                step.optimizers[kind].state[parameter][first] = moment
            else:
                remembered[first][last] = stored.get_tensor(full).to(device)
    for part, bound in step.bounds.items():
        bound.restore(remembered[part])
    return progress

"""The state of unfinished training: one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ssiuu.errors import DamagedError, OutputError
from ssiuu.models.shards import every, full, joined, like, local, own, piece_of, rank, world
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
    tensors: dict[str, torch.Tensor] = {
        f"kept:{name}": _written(joined(step.named[name], value)) for name, value in kept.items()
    }
    for name, parameter in step.named.items():
        tensors[f"parameter:{name}"] = _written(full(parameter))
        for kind, optimizer in step.optimizers.items():
            moments = optimizer.state.get(parameter, {})
            there = {k: _written(full(v)) for k, v in moments.items() if v is not None}
            tensors |= {f"{kind}:{key}:{name}": value for key, value in there.items()}
    for part, bound in step.bounds.items():
        for key, value in bound.state().items():
            owner = step.named.get(bound.owner(key))
            tensors[f"part:{part}:{key}"] = _written(value if owner is None else joined(owner, value))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(tensors, path, {"progress": json.dumps(progress)})


def _written(whole: Tensor) -> Tensor:
    """Return what the first of several processes writes, beside the accelerator; nothing elsewhere.

    So an accelerator holds one tensor in whole at a time, not all of the model with its moments.
    """
    if world() == 1:
        return whole
    return whole.cpu() if rank() == 0 else whole.new_empty(0)


def read_state(path: Path) -> Tensors | None:
    """Read a state; a damaged one, or one without a digest, is told of, and training begins again."""
    try:
        stored = read_tensors(path)
    except DamagedError:
        stored = None
    if stored is None or not stored.sealed:
        warnings.warn(f"{path} is cut short or damaged: that training begins again.", stacklevel=3)
        return None
    return stored


@torch.no_grad()
def load_state(
    path: Path, step: Step, key: str, kept: Mapping[str, torch.Tensor] = NONE
) -> dict[str, Any] | None:
    """Restore a state saved under the same key; None if there is none that fits, or can be read."""
    stored = read_state(path) if path.exists() else None
    progress: dict[str, Any] = {} if stored is None else json.loads(stored.told.get("progress", "{}"))
    fits = stored is not None and progress.get("key") == key
    if len(set(every([json.dumps(progress if fits else None)]))) > 1:
        raise OutputError(
            f"{path} is not the same for all {world()} processes: all of them must see one folder."
        )
    if stored is None or not fits:
        return None
    remembered: dict[str, dict[str, torch.Tensor]] = {part: {} for part in step.bounds}
    device = next(iter(step.named.values())).device
    for key, tensor in stored.tensors.items():
        kind, _, rest = key.partition(":")
        first, _, last = rest.partition(":")
        if kind == "parameter":
            local(step.named[rest]).copy_(own(step.named[rest], tensor))
        elif kind == "kept":
            kept[rest].copy_(piece_of(step.named[rest], tensor))
        elif kind in step.optimizers:
            parameter = step.named[last]
            # A copy: what is read from the file must not change with it.
            step.optimizers[kind].state[parameter][first] = like(parameter, tensor)
        else:
            owner = step.named.get(step.bounds[first].owner(last))
            piece = tensor.clone() if owner is None else piece_of(owner, tensor)
            remembered[first][last] = piece.to(device)
    for part, bound in step.bounds.items():
        bound.restore(remembered[part])
    return progress

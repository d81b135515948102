"""The state of unfinished training: written whole or not at all, each piece by its process."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ssiuu.errors import DamagedError
from ssiuu.models.shards import Piece, like, local, piece
from ssiuu.training import pieces
from ssiuu.training.pieces import Stored
from ssiuu.training.step import Step

SAVE_EVERY = 300.0  # seconds between two saved states of a long run
NONE: Mapping[str, torch.Tensor] = MappingProxyType({})


class _Sorted:
    """What is written of tensors: of those that are cut the piece that lies here."""

    def __init__(self) -> None:
        self.whole: dict[str, Tensor] = {}
        self.cut: dict[str, Piece] = {}

    def take(self, name: str, tensor: Tensor, owner: Tensor | None) -> None:
        """Take a tensor; `owner`: the parameter of whose piece it is, if it is of one."""
        if not isinstance(owner, DTensor):
            self.whole[name] = local(tensor)
        elif (found := piece(owner, local(tensor))) is not None:
            self.cut[name] = found


def save_state(
    path: Path, step: Step, progress: dict[str, Any], kept: Mapping[str, torch.Tensor] = NONE
) -> None:
    """Save parameters, the optimiser's state, what the method's parts remember, and the log so far.

    A tensor is named `parameter:NAME`, `optimiser:KEY:NAME`, `retain optimiser:KEY:NAME`,
    `part:PART:KEY` or, of what the caller keeps beside them, `kept:NAME`.

    Raises:
        OutputError: No disk space, or the folder cannot be written to.
    """
    state = _Sorted()
    for name, value in kept.items():
        state.take(f"kept:{name}", value, step.named[name])
    for name, parameter in step.named.items():
        state.take(f"parameter:{name}", parameter, parameter)
        for kind, optimizer in step.optimizers.items():
            for key, value in optimizer.state.get(parameter, {}).items():
                if value is not None:
                    owner = value if isinstance(value, DTensor) else None
                    state.take(f"{kind}:{key}:{name}", value, owner)
    for part, bound in step.bounds.items():
        for key, value in bound.state().items():
            state.take(f"part:{part}:{key}", value, step.named.get(bound.owner(key)))
    pieces.write(path, state.whole, state.cut, {"progress": json.dumps(progress)})


def remove_state(path: Path) -> None:
    """Remove a state, once what it would lead to is safe."""
    pieces.remove(path)


def read_state(path: Path) -> Stored | None:
    """Read a state; a damaged one, or one without a digest, is told of, and training begins again.

    Every process must ask. None where there is none.

    Raises:
        OutputError: The processes do not see the same one.
    """
    try:
        return pieces.read(path)
    except DamagedError:
        warnings.warn(f"{path} is cut short or damaged: that training begins again.", stacklevel=3)
        return None


@torch.no_grad()
def load_state(
    path: Path, step: Step, key: str, kept: Mapping[str, torch.Tensor] = NONE
) -> dict[str, Any] | None:
    """Restore a state saved under the same key; None if there is none that fits, or can be read."""
    stored = read_state(path)
    progress: dict[str, Any] = {} if stored is None else json.loads(stored.told.get("progress", "{}"))
    if stored is None or progress.get("key") != key:
        return None
    remembered: dict[str, dict[str, torch.Tensor]] = {part: {} for part in step.bounds}
    device = next(iter(step.named.values())).device
    for name in stored.names:
        kind, _, rest = name.partition(":")
        first, _, last = rest.partition(":")
        if kind == "parameter":
            local(step.named[rest]).copy_(stored.own(name, step.named[rest]))
        elif kind == "kept":
            kept[rest].copy_(stored.own(name, step.named[rest]))
        elif kind in step.optimizers:
            # Copies: what is read from the file must not change with it.
            step.optimizers[kind].state[step.named[last]][first] = _moment(
                stored, name, step.named[last]
            )
        else:
            owner = step.named.get(step.bounds[first].owner(last))
            mine = stored.whole[name] if owner is None else stored.own(name, owner)
            remembered[first][last] = mine.clone().to(device)
    for part, bound in step.bounds.items():
        bound.restore(remembered[part])
    return progress


def _moment(stored: Stored, name: str, parameter: Tensor) -> Tensor:
    """Return what an optimiser remembers of a parameter: an entry for each of its own, or a number."""
    whole = stored.whole.get(name)
    if whole is not None and whole.shape != parameter.shape:
        return whole.clone().to(parameter.device)
    return like(parameter, stored.own(name, parameter))

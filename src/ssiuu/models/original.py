"""The weights before unlearning, to go back to and to measure from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ssiuu.models import nf4
from ssiuu.models.files import open_tensors, tensors_of, weight_files
from ssiuu.models.load import Loaded, restore, snapshot
from ssiuu.models.shards import any_of, is_cut, local, own, rows_of, shard_sum


class Original:
    """The weights before unlearning: read from the model's files again, or kept in memory.

    Whatever reads them raises a `ModelError` where the files are not those of before any more.
    """

    def __init__(self, loaded: Loaded) -> None:
        """Prefer the files: a copy in memory costs as much as the model.

        They will do where they hold every parameter under its name, or one that it is tied to, with
        its own values: not in a form that was converted in loading.
        """
        self.model = loaded.model
        self.copy: dict[str, Tensor] | None = None
        self.places: dict[str, tuple[Path, str]] = {}
        self.source = loaded.source
        if nf4.coded(self.model):  # of which nothing changes but what stands beside its codes
            self.copy = snapshot(self.model)
            return
        stored = tensors_of(weight_files(loaded.folder)) if loaded.folder else {}
        every = list(self.model.named_parameters(remove_duplicate=False))
        named = {id(p): name for name, p in reversed(every) if name in stored}
        # Kept by name, for parameters that are tied now and may be parted later.
        self.places = {n: (stored[named[id(p)]].file, named[id(p)]) for n, p in every if id(p) in named}
        same = len(self.places) == len(every) and all(
            torch.equal(local(parameter), weight.to(local(parameter)))
            for parameter, weight in self._from_files()
        )
        if is_cut(self.model):
            same = not any_of(not same)
        self.copy = None if same else snapshot(self.model)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the original weights back into the model."""
        if nf4.coded(self.model):
            restore(self.model, self.copy or {})
            return
        for parameter, weight in self._pairs():
            local(parameter).copy_(weight)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Have the original weights in the model for the time of the context; then those of now."""
        now = snapshot(self.model)
        self.restore()
        try:
            yield
        finally:
            restore(self.model, now)

    @torch.no_grad()
    def distance(self) -> float:
        """Return how far the model is from its original weights, as a share of their norm."""
        if nf4.coded(self.model):
            return nf4.distance(self.model)
        moved = whole = 0.0
        for parameter, weight in self._pairs():
            now = local(parameter)
            before = weight.to(now)
            moved += float((now - before).square().sum())
            whole += float(before.square().sum())
        if is_cut(self.model):
            moved, whole = shard_sum(moved, whole)
        return math.sqrt(moved / whole)

    def divided(self) -> None:
        """Keep of a copy what belongs here, once the model was divided."""
        if self.copy is not None:
            named = dict(self.model.named_parameters(remove_duplicate=False))
            # Copies of their own, as the whole would stay with a part of it.
            self.copy = {name: own(named[name], whole).clone() for name, whole in self.copy.items()}

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every parameter of the model with its original weight: what of it lies here."""
        if self.copy is None:
            yield from self._from_files()
            return
        for name, parameter in self.model.named_parameters():
            yield parameter, self.copy[name]

    def _from_files(self) -> Iterator[tuple[Tensor, Tensor]]:
        parameters = dict(self.model.named_parameters())
        for path in sorted({file for file, _ in self.places.values()}):
            assert self.source is not None  # or there are no places
            self.source.check(path)
            with open_tensors(path) as tensors:
                for name, parameter in parameters.items():
                    file, stored = self.places[name]
                    if file == path and not isinstance(parameter, DTensor):
                        yield parameter, tensors.get_tensor(stored)
                    elif file == path:
                        rows = rows_of(parameter)
                        yield parameter, tensors.get_slice(stored)[rows.start : rows.stop]
            self.source.check(path)  # nor was it changed on the way

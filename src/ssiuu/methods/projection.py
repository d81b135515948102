"""Projection (ours): take the directions that all answers share out of the forget gradient.

For a linear map y = W x the forget gradient G = dL/dW lives in the span of its inputs x (rows) and
of its output gradients d (columns). The k leading eigenvectors V of the inputs' second moment over
the retain set, and U of the output gradients', are what every text shares; relearning anything at
all restores what was changed along them. So the forget step uses

    G <- (I - U U^T) G (I - V V^T)     for every linear map inside the blocks
    G <- 0                             for every other parameter (embeddings, norms)

The retain gradient is left as it is. The idea is that of CIR and RepSelect (collapse of irrelevant
representations).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import eigsh
from torch import Tensor

from ssiuu.attribution.neuron import by_path, capture, frozen
from ssiuu.errors import ConfigError
from ssiuu.likelihood import Batch, answer_logprobs
from ssiuu.models.sites import find_sites


@dataclass(frozen=True)
class Basis:
    """Orthonormal shared directions of one linear map, None where a side is left alone.

    `transposed`: the map's weight, and so its gradient, is stored as [in, out].
    """

    inputs: Float[Tensor, "in k"] | None = None
    outputs: Float[Tensor, "out m"] | None = None
    transposed: bool = False

    def of(self, side: Literal["inputs", "outputs"]) -> Basis:
        """Return one side alone."""
        return Basis(self.inputs, None) if side == "inputs" else Basis(None, self.outputs)


@torch.no_grad()
def project_out(gradient: Float[Tensor, "out in"], basis: Basis) -> Float[Tensor, "out in"]:
    """Return (I - U U^T) G (I - V V^T), in place."""
    if basis.transposed:
        project_out(gradient.T, Basis(basis.inputs, basis.outputs))
        return gradient
    if basis.inputs is not None:
        shared = basis.inputs.to(gradient.dtype)
        gradient.sub_((gradient @ shared) @ shared.T)
    if basis.outputs is not None:
        shared = basis.outputs.to(gradient.dtype)
        gradient.sub_(shared @ (shared.T @ gradient))
    return gradient


def leading_directions(moment: Float[Tensor, "d d"], k: int) -> Float[Tensor, "d k"]:
    """Return the k leading eigenvectors of a second moment, orthonormal columns.

    Raises:
        ValueError: k is not below the dimension.
    """
    d = moment.shape[0]
    if not 1 <= k < d:
        raise ValueError(f"projection needs 1 <= k < {d} (the width of the input), got {k}")
    found = moment.cpu().numpy()
    # Lanczos, because k is small; the start vector is fixed so that runs repeat exactly.
    _, vectors = eigsh(found, k=k, which="LA", v0=np.ones(d, found.dtype))
    return torch.from_numpy(vectors.copy()).to(moment.dtype).to(moment.device)


def retain_bases(
    model: Any, batches: Iterable[Batch], inputs: int | None, outputs: int | None
) -> dict[str, Basis]:
    """Return the shared directions of every linear map, by parameter name.

    Maps that read the same input (q, k and v; gate and up) share one input basis.

    Args:
        model: As it is before unlearning.
        batches: Of the retain set.
        inputs: How many directions of inputs; None to leave that side alone.
        outputs: How many directions of the gradients of the retain NLL at the outputs.

    Raises:
        ConfigError: There are no batches, or more directions are asked for than there are.
    """
    with _moments(model, inputs is not None, outputs is not None) as found:
        for batch in batches:
            found.mask = batch.attention_mask.bool()
            with frozen(model):
                total = answer_logprobs(model, batch).sum.sum()
                if outputs is not None:
                    total.backward()
    if not found.inputs and not found.outputs:
        raise ConfigError(
            "projection: the shared directions are read off the retain set, and it has no rows. "
            "Give retain rows or leave projection out."
        )
    left = _directions(found.inputs, inputs, "projection", "input")
    right = _directions(found.outputs, outputs, "projection_outputs", "output")
    return {
        f"{path}.weight": Basis(left.get(source), right.get(path), path in found.transposed)
        for path, source in found.owner.items()
    }


def random_bases(model: Any, inputs: int | None, outputs: int | None) -> dict[str, Basis]:
    """Return as many directions of every linear map as `retain_bases`, drawn at random: a control.

    What it has in common with them is that only linear maps are updated, and by less. Maps that read
    the same input share their directions here too; every run draws the same ones.

    Raises:
        ConfigError: More directions are asked for than there are.
    """
    found = _Found(model)

    def drawn(path: str, side: Literal["inputs", "outputs"], k: int | None) -> Tensor | None:
        if k is None:
            return None
        weight: Tensor = model.get_submodule(path).weight
        width = weight.shape[(side == "inputs") != (path in found.transposed)]
        if k >= width:
            key = "projection" if side == "inputs" else "projection_outputs"
            raise ConfigError(f"{key}: must be below {width}, the {side} of {path}, got {k}.")
        seeded = torch.Generator().manual_seed(zlib.crc32(f"{side} of {path}".encode()))
        basis: Tensor = torch.linalg.qr(torch.randn(width, k, generator=seeded)).Q
        return basis.to(weight)

    return {
        f"{path}.weight": Basis(
            drawn(source, "inputs", inputs), drawn(path, "outputs", outputs), path in found.transposed
        )
        for path, source in found.owner.items()
    }


def _directions(
    moments: dict[str, Tensor], k: int | None, key: str, what: str
) -> dict[str, Float[Tensor, "d k"]]:
    if k is None:
        return {}
    width = min(moment.shape[0] for moment in moments.values())
    if k >= width:
        raise ConfigError(f"{key}: must be below {width}, the narrowest {what} here, got {k}.")
    return {path: leading_directions(moment, k) for path, moment in moments.items()}


# The first map that reads an input keeps the moment for the others.
_SHARED = {"k": "q", "v": "q", "up": "gate"}


class _Found:
    """Second moments by path; `owner` names the path that keeps a map's input moment.

    A fused map has one moment of inputs and one of outputs, for all of its parts.
    """

    def __init__(self, model: Any) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.owner: dict[str, str] = {}
        self.transposed: set[str] = set()
        self.mask = torch.empty(0)
        first: dict[tuple[int, str], str] = {}
        for path, parts in by_path(find_sites(model)).items():
            layer, module = parts[0].layer, parts[0].module
            first |= {(layer, part.module): path for part in parts}
            self.owner[path] = first.get((layer, _SHARED.get(module, module)), path)
            if parts[0].transposed:
                self.transposed.add(path)

    def add(self, moments: dict[str, Tensor], path: str, rows: Tensor) -> None:
        x = rows.reshape(*self.mask.shape, -1)[self.mask].float()
        moment = x.T @ x
        moments[path] = moments[path] + moment if path in moments else moment


@contextmanager
def _moments(model: Any, inputs: bool, outputs: bool) -> Iterator[_Found]:
    """Collect second moments while the context is open; no hook outlives it."""
    found = _Found(model)
    handles = [
        model.get_submodule(path).register_forward_pre_hook(
            lambda _, given, path=path: found.add(found.inputs, path, given[0].detach())
        )
        for path, owner in found.owner.items()
        if inputs and owner == path
    ]
    try:
        if outputs:
            with capture(model, found.owner, lambda path, _, d: found.add(found.outputs, path, d)):
                yield found
        else:
            with torch.no_grad():
                yield found
    finally:
        for handle in handles:
            handle.remove()

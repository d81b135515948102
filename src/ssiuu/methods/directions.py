"""Projection (ours): take the directions that all answers share out of the forget gradient.

For a linear map y = W x the forget gradient G = dL/dW lives in the span of its inputs x (rows) and
of its output gradients d (columns). The k leading eigenvectors V of the inputs' second moment over
the retain set, and U of the output gradients', are what every text shares; relearning anything at
all restores what was changed along them. So the forget step uses

    G <- (I - U U^T) G (I - V V^T)     for every linear map inside the blocks
    G <- 0                             for every other parameter (embeddings, norms)

Others are also weights that are no linear map of their own, such as experts in one tensor and routers,
and maps with no more inputs or outputs than directions are taken out (`untouched` names both).

The retain gradient is left as it is. The idea is that of CIR and RepSelect (collapse of irrelevant
representations).

A soft cut leaves a share f_i of every direction in place of nothing, V f V^T in the place of 0:

    G <- G - (G V)(I - f) V^T,     f_i = s_min / s_i (soft)  or  (s_min / s_i)^2 (quadratic)

s_i are the singular values of the rows' inputs (or output gradients) along the directions, s_min the
least of those taken. Hundreds of directions can be cut so where a hard cut would leave no gradient.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from ssiuu.attribution.neuron import by_path, capture, frozen
from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError
from ssiuu.likelihood import Batch, answer_logprobs
from ssiuu.methods.spectrum import NOTHING, Tokens, room_for_tokens, stored
from ssiuu.models.maps import block_maps, block_matrices, passed_by, widths
from ssiuu.models.shards import shard_total
from ssiuu.models.sites import known_sites

Cut = Literal["hard", "soft", "quadratic"]
POWERS: dict[Cut, int] = {"soft": 1, "quadratic": 2}


@dataclass(frozen=True)
class Subspace:
    """Orthonormal shared directions of one linear map, None where a side is left alone.

    `transposed`: the map's weight, and so its gradient, is stored as [in, out]. `inputs_left`,
    `outputs_left`: the share of each direction that stays in the gradient; None: nothing.
    """

    inputs: Float[Tensor, "in k"] | None = None
    outputs: Float[Tensor, "out m"] | None = None
    transposed: bool = False
    inputs_left: Float[Tensor, " k"] | None = None
    outputs_left: Float[Tensor, " m"] | None = None

    def of(self, side: Literal["inputs", "outputs"]) -> Subspace:
        """Return one side alone."""
        if side == "inputs":
            return Subspace(self.inputs, inputs_left=self.inputs_left)
        return Subspace(outputs=self.outputs, outputs_left=self.outputs_left)


@torch.no_grad()
def project_out(gradient: Float[Tensor, "out in"], basis: Subspace) -> Float[Tensor, "out in"]:
    """Return (I - U U^T) G (I - V V^T), in place; of a soft cut see the module."""
    if basis.transposed:
        project_out(gradient.T, replace(basis, transposed=False))
        return gradient
    if basis.inputs is not None:
        shared = basis.inputs.to(gradient.dtype)
        # Grouped so that no projector of [in, in] is ever formed.
        gradient.sub_(_cut(gradient @ shared, basis.inputs_left) @ shared.T)
    if basis.outputs is not None:
        shared = basis.outputs.to(gradient.dtype)
        gradient.sub_(shared @ _cut((shared.T @ gradient).T, basis.outputs_left).T)
    return gradient


@torch.no_grad()
def project_piece(gradient: Float[Tensor, "rows d"], basis: Subspace, rows: slice) -> None:
    """Do the same, in place, to these rows of a gradient whose others lie on other processes.

    Along a row nobody is asked; across them the components, [k, d], are summed over all.
    """
    if basis.transposed:
        along, across, left = basis.of("outputs"), basis.inputs, basis.inputs_left
        project_out(gradient.T, along)
    else:
        along, across, left = basis.of("inputs"), basis.outputs, basis.outputs_left
        project_out(gradient, along)
    if across is not None:
        here = across[rows].to(gradient.dtype)
        shared = shard_total(here.T @ gradient)
        gradient.sub_(here @ _cut(shared.T, left).T)


def _cut(along: Float[Tensor, "n k"], left: Float[Tensor, " k"] | None) -> Float[Tensor, "n k"]:
    """Return what is taken away of a gradient's components along the directions."""
    return along if left is None else along * (1 - left.to(along.dtype))


def softened(
    tokens: Tokens, k: int, cut: Cut
) -> tuple[Float[Tensor, "d m"], Float[Tensor, " m"] | None]:
    """Return the leading directions of what a map was given and the share that a cut leaves of each.

    Directions along which there is nothing are left out: m is k, or the rows' rank.

    Raises:
        ValueError: k is not below the width.
    """
    if cut == "hard":
        return tokens.leading(k), None
    values, vectors = tokens.spectrum(k)
    there = values > NOTHING * values[-1]
    left = (values[there][0] / values[there]) ** (POWERS[cut] / 2)
    return vectors[:, there].to(tokens.dtype), left.to(tokens.dtype)


def retain_bases(
    model: CausalLM,
    batches: Iterable[Batch],
    inputs: int | None,
    outputs: int | None,
    cut: Cut = "hard",
) -> dict[str, Subspace]:
    """Return the shared directions of every linear map, by parameter name.

    Maps that read the same input (q, k and v; gate and up) share one input basis.

    Args:
        model: As it is before unlearning.
        batches: Of the retain set.
        inputs: How many directions of inputs; None to leave that side alone.
        outputs: How many directions of the gradients of the retain NLL at the outputs.
        cut: What is left of a direction.

    Raises:
        ConfigError: There are no batches; see also `check_directions`.
    """
    maps = _Maps(model)
    maps.check(inputs, outputs)
    wide = maps.wide(inputs, outputs)
    of_inputs: dict[str, _Directions] = {}
    of_outputs: dict[str, _Directions] = {}
    for found in _tokens(model, [*batches], maps, wide, inputs is not None, outputs is not None):
        # A group's rows are gone before those of the next one are there.
        of_inputs |= {path: softened(t, inputs, cut) for path, t in found.inputs.items() if inputs}
        of_outputs |= {path: softened(t, outputs, cut) for path, t in found.outputs.items() if outputs}
        found.clear()
    if not of_inputs and not of_outputs:
        raise ConfigError(
            "projection: the shared directions are read off the retain set, and it has no rows. "
            "Give retain rows or leave projection out."
        )

    def both(path: str, owner: str) -> Subspace:
        v, v_left = of_inputs.get(owner, (None, None))
        u, u_left = of_outputs.get(path, (None, None))
        return Subspace(v, u, path in maps.transposed, v_left, u_left)

    return {
        f"{path}.weight": both(path, owner)
        for path, owner in wide.items()
        if (inputs is None or owner in of_inputs) and (outputs is None or path in of_outputs)
    }


def energy_bases(model: CausalLM, batches: Iterable[Batch], share: float) -> dict[str, Subspace]:
    """Return the fewest leading directions of every linear map's inputs that hold a share of all.

    The whole is the trace of the inputs' uncentred second moment. At least one direction stays free.

    Args:
        model: As it is before unlearning.
        batches: Of the retain set.
        share: Between 0 and 1.

    Raises:
        ConfigError: There are no batches.
    """
    maps = _Maps(model)
    found: dict[str, Tensor] = {}
    for seen in _tokens(model, [*batches], maps, maps.owner, True, False):
        found |= {path: tokens.holding(share) for path, tokens in seen.inputs.items()}
        seen.clear()
    if not found:
        raise ConfigError(
            "nullspace: it is read off the retain set, and that has no rows. Give retain rows or leave "
            "nullspace out."
        )
    return {
        f"{path}.weight": Subspace(found[owner], transposed=path in maps.transposed)
        for path, owner in maps.owner.items()
        if owner in found
    }


def random_bases(model: CausalLM, inputs: int | None, outputs: int | None) -> dict[str, Subspace]:
    """Return as many directions of every linear map as `retain_bases`, drawn at random: a control.

    What it has in common with them is that only linear maps are updated, and by less. Maps that read
    the same input share their directions here too; every run draws the same ones.

    Raises:
        ConfigError: See `check_directions`.
    """
    maps = _Maps(model)
    maps.check(inputs, outputs)

    def drawn(path: str, side: Literal["inputs", "outputs"], k: int | None) -> Tensor | None:
        if k is None:
            return None
        # By the path alone, so that every run draws the same; `hash` is another one in every process.
        seeded = torch.Generator().manual_seed(zlib.crc32(f"{side} of {path}".encode()))
        width = maps.widths[path][side == "outputs"]
        # Q of a matrix of normal numbers: every subspace is as likely as any other.
        basis: Tensor = torch.linalg.qr(torch.randn(width, k, generator=seeded)).Q
        return basis.to(model.get_parameter(f"{path}.weight"))

    return {
        f"{path}.weight": Subspace(
            drawn(owner, "inputs", inputs), drawn(path, "outputs", outputs), path in maps.transposed
        )
        for path, owner in maps.wide(inputs, outputs).items()
    }


def untouched(model: CausalLM, bases: Mapping[str, Subspace]) -> list[str]:
    """Return the matrices inside the blocks that a projection leaves without a forget gradient."""
    return [name for name in block_matrices(model) if name not in bases]


def check_directions(model: CausalLM, inputs: int | None, outputs: int | None) -> None:
    """Refuse to take out more directions than a model's maps have.

    Raises:
        ConfigError: There are as many as a map that is known has, or as the widest where none is.
    """
    _Maps(model).check(inputs, outputs)


# What is found of one side of a map: the directions, and the share of each that stays.
_Directions = tuple[Tensor, Tensor | None]

# The first map that reads an input keeps the moment for the others.
_SHARED = {"k": "q", "v": "q", "up": "gate"}


class _Maps:
    """The linear maps of the blocks; `owner` names the path that keeps a map's input moment.

    Maps that the model never calls are left out. A fused map has one moment of inputs and one of
    outputs, for all of its parts. `known`: maps that are sites of neurons. `widths`: of inputs and of
    outputs.
    """

    def __init__(self, model: CausalLM) -> None:
        self.owner: dict[str, str] = {}
        first: dict[tuple[int, str], str] = {}
        self.known = by_path(known_sites(model))
        for path, parts in self.known.items():
            layer, module = parts[0].layer, parts[0].module
            first |= {(layer, part.module): path for part in parts}
            self.owner[path] = first.get((layer, _SHARED.get(module, module)), path)
        maps, silent = block_maps(model), passed_by(model)
        for path in maps:
            self.owner.setdefault(path, path)
        for path in silent:
            del self.owner[path]
        self.transposed = {path for path in self.owner if isinstance(maps[path], Conv1D)}
        self.widths: dict[str, tuple[int, int]] = {}
        for path in self.owner:
            out, width = widths(maps[path])
            self.widths[path] = width, out

    def check(self, inputs: int | None, outputs: int | None) -> None:
        """See `check_directions`."""
        for k, side, key, what in (
            (inputs, 0, "projection", "input"),
            (outputs, 1, "projection_outputs", "output"),
        ):
            known = [width[side] for path, width in self.widths.items() if path in self.known]
            least = min(known) if known else max((w[side] for w in self.widths.values()), default=0)
            if k is not None and k >= least:
                which = "narrowest" if known else "widest"
                raise ConfigError(f"{key}: must be below {least}, the {which} {what} here, got {k}.")

    def wide(self, inputs: int | None, outputs: int | None) -> dict[str, str]:
        """Return the owners of the maps that have more directions than are taken out."""
        return {
            path: owner
            for path, owner in self.owner.items()
            if self.widths[path][0] > (inputs or 0) and self.widths[path][1] > (outputs or 0)
        }


class _Found:
    """Inputs of maps and gradients at their outputs, at the tokens that `mask` says are real."""

    def __init__(self) -> None:
        self.inputs: dict[str, Tokens] = {}
        self.outputs: dict[str, Tokens] = {}
        self.mask = torch.empty(0)

    def add(self, tokens: dict[str, Tokens], path: str, rows: Tensor) -> None:
        if rows.numel() != self.mask.numel() * rows.shape[-1]:
            return  # it is given some tokens only, and nothing says which
        x = rows.reshape(*self.mask.shape, -1)[self.mask]
        tokens.setdefault(path, Tokens()).add(x)

    def clear(self) -> None:
        self.inputs.clear()
        self.outputs.clear()


@dataclass(frozen=True)
class _Group:
    """Maps whose tokens are in memory at once: paths whose inputs, and whose output gradients."""

    inputs: list[str]
    outputs: list[str]


def _groups(model: CausalLM, batches: Sequence[Batch], maps: _Maps, sides: _Group) -> list[_Group]:
    """Return the maps in groups, in their order, none of which takes more memory than there is for it.

    All tokens of a large model's maps are more than the model itself: they are read in several passes.
    """
    weight = next(model.parameters())
    rows = sum(int(batch.attention_mask.sum()) for batch in batches)
    room, used, groups = room_for_tokens(weight.device), 0, [_Group([], [])]
    wanted = [(0, path) for path in sides.inputs] + [(1, path) for path in sides.outputs]
    if sides.outputs:  # both sides of a map in one pass, which runs backward anyway
        order = {path: n for n, path in enumerate(maps.owner)}
        wanted.sort(key=lambda item: order[item[1]])
    for side, path in wanted:
        need = stored(rows, maps.widths[path][side], weight)
        if used and used + need > room:
            groups, used = [*groups, _Group([], [])], 0
        used += need
        (groups[-1].inputs, groups[-1].outputs)[side].append(path)
    return groups


def _tokens(
    model: CausalLM,
    batches: Sequence[Batch],
    maps: _Maps,
    owners: Mapping[str, str],
    inputs: bool,
    outputs: bool,
) -> Iterator[_Found]:
    """Yield the tokens of a group of maps after the other."""
    sides = _Group([*dict.fromkeys(owners.values())] * inputs, [*owners] * outputs)
    for group in _groups(model, batches, maps, sides):
        with _listening(model, group) as found:
            for batch in batches:
                found.mask = batch.attention_mask.bool()
                with frozen(model):
                    total = answer_logprobs(model, batch).sum.sum()
                    if group.outputs:
                        total.backward()
        yield found


@contextmanager
def _listening(model: CausalLM, group: _Group) -> Iterator[_Found]:
    """Collect the tokens of these maps while the context is open; no hook outlives it."""
    found = _Found()
    handles = [
        model.get_submodule(path).register_forward_pre_hook(
            lambda _, given, path=path: found.add(found.inputs, path, given[0].detach())
        )
        for path in group.inputs
    ]
    try:
        if group.outputs:
            with capture(model, group.outputs, lambda path, _, d: found.add(found.outputs, path, d)):
                yield found
        else:
            with torch.no_grad():
                yield found
    finally:
        for handle in handles:
            handle.remove()

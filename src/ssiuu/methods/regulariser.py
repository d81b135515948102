"""The regulariser of Ssiuu: what is added to the forget gradient of one parameter, and its state.

    A_t = phi * g                              features are parameters (Algorithm 1)
    A_t[i] = sum over j of phi[i,j] g[i,j]     features are neurons, the output units of W = phi
    penalty = 2 lambda (A_t - A_ref) g         on I- = {A_t < 0}; 0 elsewhere
            = lambda sign(A_t - A_ref) g       with the absolute value in place of the square

At the neuron level sum_j W[i,j] g[i,j] is sum_k h[i,k] dP/dh[i,k], Eq. 1 summed over tokens (without
a bias), and the penalty reaches the neuron's own weights only: further upstream the cotangent stays
clean, or the attribution of earlier neurons would contain the penalties of later ones.

All is element-wise (or row-wise) and done in chunks, so that temporaries stay in the processor's
cache. A_ref is stored in bf16, 2 bytes a parameter: a relative error of at most 1/256 in A_ref, with
fp32's range. Wider parameters (float64) store it exactly. With `memory: int8` it takes 1 byte, its sign
is exact and its error at most 4.4 % (`ssiuu.methods.eight_bit`); what is of neurons stays as it is.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ssiuu.methods.eight_bit import BLOCK, Short, lengthened, shortened
from ssiuu.models.shards import Place, shard_sum

# A parameter counts as moved when the penalty changes its forget gradient by more than this share.
MOVED = 0.01
CHUNK = 1 << 18  # elements at a time on a CPU: a megabyte of fp32
# What the penalty moved is counted in one element of so many of a whole chunk: counting costs as many
# passes as the penalty. All its norms are exact.
SAMPLE = 16

# x where y is above a bound, or between two, and 0 elsewhere: one pass, where a comparison and a
# product are three. A NaN in y keeps x.
keep_above = torch.ops.aten.threshold_backward.grad_input
keep_between = torch.ops.aten.hardtanh_backward.grad_input


@runtime_checkable
class PenaltyForm(Protocol):
    """What a regulariser is told of its form; see `ssiuu.methods.transforms.ssiuu`."""

    @property
    def anchor(self) -> str:
        """What A_t is held to."""

    @property
    def side(self) -> str:
        """Which changes are penalised."""

    @property
    def level(self) -> str:
        """What the features are."""

    @property
    def penalty(self) -> str:
        """Of the difference."""

    @property
    def index(self) -> str:
        """Where it acts."""

    @property
    def memory(self) -> str:
        """What A_ref is held in."""


@dataclass
class Moved:
    """What a penalty did to the forget gradient it was added to; sums over parameters.

    `parameters` is an estimate from a sample where a parameter holds a chunk or more. On an
    accelerator the sums are tensors there, so that no parameter waits for the processor.
    """

    penalty_squared: float | Tensor = 0.0
    forget_squared: float | Tensor = 0.0
    parameters: float | Tensor = 0.0
    total: int = 0

    def everywhere(self) -> Moved:
        """Return the same over all processes that each have a piece of the parameters."""
        each = (self.penalty_squared, self.forget_squared, self.parameters, self.total)
        penalty, forget, parameters, total = shard_sum(*(float(n) for n in each))
        return Moved(penalty, forget, parameters, int(total))

    @property
    def share(self) -> float:
        """Norm of the penalty over the norm of the forget gradient without it."""
        whole = float(self.forget_squared)
        return math.sqrt(max(0.0, float(self.penalty_squared)) / whole) if whole else 0.0

    def told(self) -> dict[str, float]:
        """Return the shares of norm and parameters for the log; nothing without a forget gradient."""
        if not self.forget_squared > 0:
            return {}
        parameters = float(self.parameters) / self.total
        return {"penalty_share": self.share, "penalty_parameters": parameters}

    def add(self, penalty: Tensor, forget: Tensor) -> None:
        """Add a penalty's gradient to a forget gradient in place, and count it."""
        self.total += forget.numel()
        self.take(penalty, forget, 1.0)

    def take(self, direction: Tensor, forget: Tensor, factor: float) -> None:
        """Add factor * direction to a forget gradient in place; `total` is left to the caller."""
        self.forget_squared += _squared(forget)
        self.penalty_squared += factor * factor * _squared(direction)
        if factor:
            part, rise = _sample(direction)
            # Moved by more than the share: factor |d| > MOVED |f|, divided by the factor, which saves
            # a pass.
            excess = part.abs().sub_(_sample(forget)[0].abs(), alpha=MOVED / factor)
            self.parameters += rise * _sum(excess.sign_().clamp_(min=0.0))
        if factor > 1e38:  # beyond fp32: let it overflow where the gradients are checked
            direction, factor = direction * factor, 1.0
        forget.add_(direction, alpha=factor)


@dataclass
class Regulariser:
    """The state of the regulariser over a run: A_ref of every parameter or neuron.

    Element-wise on whatever shard of a parameter it is given, except at the neuron level, where a
    shard must hold whole rows.
    """

    form: PenaltyForm
    neurons: frozenset[str] = frozenset()  # names of the weights whose rows are neurons
    reference: dict[str, Tensor] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)  # of parameters that are here in part

    def covers(self, name: str) -> bool:
        """Whether this parameter has features: at the neuron level only linear maps do."""
        return self.form.level == "parameter" or name in self.neurons

    @torch.no_grad()
    def measure(
        self, name: str, parameter: Tensor, gradient: Tensor, forget: Tensor, scale: float, moved: Moved
    ) -> None:
        """Add the squared norms of the penalty at strength 1 and of the forget gradient to `moved`.

        The arguments are those of `apply`; nothing is changed.
        """
        if not self.covers(name):
            moved.forget_squared += _squared(forget)
            return
        factor = self._factor(1.0, scale)
        for g, f, influence, before, rows in self._chunks(name, parameter, gradient, forget, scale):
            if before is not None:
                direction = self._direction(name, g, influence, before, rows)
                moved.penalty_squared += factor * factor * _squared(direction)
            moved.forget_squared += _squared(f)

    @torch.no_grad()
    def apply(
        self,
        name: str,
        parameter: Float[Tensor, "*shape"],
        gradient: Float[Tensor, "*shape"],
        forget: Float[Tensor, "*shape"],
        scale: float,
        strength: float,
        moved: Moved,
    ) -> None:
        """Add the penalty's gradient to the forget gradient of one parameter, in place.

        Args:
            name: Key of the parameter in the state.
            parameter: phi_j.
            gradient: g_j / scale, summed over the whole batch; may be `forget` itself.
            forget: The backbone's forget gradient; changed in place.
            scale: What `gradient` is to be multiplied by to give g_j.
            strength: lambda.
            moved: Added to.
        """
        moved.total += forget.numel()
        if not self.covers(name):
            moved.forget_squared += _squared(forget)
            return
        first = name not in self.reference
        follows = self.form.anchor == "previous"
        if first and follows:
            self._store(name, parameter)
        factor = self._factor(strength, scale)
        for g, f, influence, before, rows in self._chunks(name, parameter, gradient, forget, scale):
            # `before` is a copy of what stood there, so the memory is renewed at once.
            if follows:
                self._keep(name, rows, influence)
            if first or before is None:
                moved.forget_squared += _squared(f)
            else:
                moved.take(self._direction(name, g, influence, before, rows), f, factor)

    @torch.no_grad()
    def bending(
        self, name: str, parameter: Tensor, gradient: Tensor, scale: float, strength: float
    ) -> Tensor | None:
        """Return along what g has to be differentiated for the penalty's gradient through it.

            d/dphi lambda sum over I- of (A - A_ref)^2 = 2 lambda (A - A_ref) g + H v,
            v = 2 lambda (A - A_ref) phi on I-, 0 elsewhere;   H = dg/dphi

        None where there is no memory yet, or nothing to penalise. The memory stays as it is.
        """
        if not self.covers(name) or name not in self.reference:
            return None
        along, neurons = torch.empty_like(parameter), self.form.level == "neuron"
        shape = parameter.shape if neurons else (-1,)
        phis, factor = parameter.view(shape), self._factor(strength, 1.0)
        chunks = self._chunks(name, parameter, gradient, gradient, scale)
        for _, _, influence, before, rows in chunks:
            assert before is not None
            found = self._direction(name, phis[rows], influence, before, rows)
            along.view(shape)[rows] = found.mul_(factor)
        return along

    @torch.no_grad()
    def anchor(self, name: str, parameter: Tensor, gradient: Tensor, scale: float) -> None:
        """Store A_ref from a gradient over the whole forget set, times `scale`."""
        if not self.covers(name):
            return
        self._store(name, parameter)
        for _, _, influence, _, rows in self._chunks(name, parameter, gradient, gradient, scale):
            self._keep(name, rows, influence)

    def _store(self, name: str, parameter: Tensor) -> None:
        """Make room for A_ref of one parameter."""
        kind = torch.bfloat16 if parameter.dtype == torch.float32 else parameter.dtype
        size, device = parameter.numel(), parameter.device
        if self.form.level == "neuron":
            size = parameter.shape[0]
        elif self.form.memory == "int8":
            kind = torch.int8
            self.reference[_most(name)] = torch.zeros(-(-size // BLOCK), device=device)
        self.reference[name] = torch.empty(size, dtype=kind, device=device)

    def _keep(self, name: str, rows: slice, influence: Tensor) -> None:
        """Write a chunk of A_ref."""
        stored = self.reference[name][rows]
        most = self.reference.get(_most(name))
        if most is None:
            stored.copy_(influence.view(stored.shape))
        else:
            codes, most[_blocks(rows, len(most))] = shortened(influence.view(-1))
            stored.copy_(codes)

    def _kept(self, name: str, rows: slice, dtype: torch.dtype) -> Tensor | None:
        """Return a copy of a chunk of A_ref; None where there is none yet."""
        if name not in self.reference:
            return None
        stored, most = self.reference[name][rows], self.reference.get(_most(name))
        if most is None:
            return stored.to(dtype, copy=True)
        return lengthened(Short(stored, most[_blocks(rows, len(most))]), dtype)

    def _chunks(
        self, name: str, parameter: Tensor, gradient: Tensor, forget: Tensor, scale: float
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None, slice]]:
        """Yield g / scale, the forget gradient, A_t, A_ref and where in A_ref they stand."""
        neurons = self.form.level == "neuron"
        shape = parameter.shape if neurons else (-1,)
        phis, gs, fs = (t.view(shape) for t in (parameter, gradient, forget))
        width = parameter.shape[1:].numel() if neurons else 1
        size = max(1, CHUNK // width if parameter.device.type == "cpu" else phis.shape[0])
        for start in range(0, phis.shape[0], size):
            rows = slice(start, start + size)
            phi, g = phis[rows], gs[rows]
            influence = (phi * g).sum(1, keepdim=True) if neurons else phi * g
            if scale != 1.0:
                influence.mul_(scale)
            before = self._kept(name, rows, influence.dtype)
            if before is not None and neurons:
                before = before.unsqueeze(1)
            yield g, fs[rows], influence, before, rows

    def _factor(self, strength: float, scale: float) -> float:
        """Return what a direction is to be multiplied by to give the penalty's gradient."""
        # d/dphi (A - A_ref)^2 = 2 (A - A_ref) g, and of |A - A_ref| the sign times g. The scale
        # stands here for that g; the one within A has been applied.
        return strength * scale * (1.0 if self.form.penalty == "absolute" else 2.0)

    def _direction(
        self, name: str, g: Tensor, influence: Tensor, before: Tensor, rows: slice
    ) -> Tensor:
        """Return (A_t - A_ref) g, or its sign times g, where the penalty acts and 0 elsewhere.

        Uses up `before`.
        """
        change = torch.sub(influence, before, out=before)
        if self.form.side == "growth":
            change.clamp_(max=0.0)
        if self.form.penalty == "absolute":
            change.sign_()
        if self.form.index == "random":
            change.mul_(self._half(name, influence, rows, g[0].numel() if g.dim() > 1 else 1))
        elif self.form.index == "negative":
            keep_between(change, influence, -math.inf, 0.0, grad_input=change)
        else:
            keep_above(change, influence, 0.0, grad_input=change)
        return change * g

    def _half(self, name: str, influence: Tensor, rows: slice, width: int) -> Float[Tensor, "*n"]:
        """Return 1 on a random half, the same at every step: about as many as I- holds.

        It is drawn chunk by chunk of the whole parameter, whatever part of it is here.
        """
        place = self.places.get(name)
        if place is None:
            return _drawn(name, rows.start, influence.shape).to(influence)
        neurons = self.form.level == "neuron"
        start, total = (place.start, place.rows) if neurons else (place.first, place.entries)
        size = max(1, CHUNK // width) if influence.device.type == "cpu" else total
        begin, end = start + rows.start, start + rows.start + len(influence)
        found = [
            _drawn(name, at, (min(size, total - at), *influence.shape[1:]))[
                max(begin - at, 0) : end - at
            ]
            for at in range(begin // size * size, end, size)
        ]
        return torch.cat(found).to(influence) if found else influence.clone()


def _drawn(name: str, start: int, shape: Sequence[int]) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name}:{start}".encode()))
    return torch.randint(0, 2, tuple(shape), generator=generator)


def _most(name: str) -> str:
    """Return the key of what is largest in each block of a parameter's A_ref."""
    return f"{name}:most"


def _blocks(rows: slice, count: int) -> slice:
    return slice(rows.start // BLOCK, min(count, -(-rows.stop // BLOCK)))


def gate(
    parameter: Float[Tensor, "*shape"],
    gradient: Float[Tensor, "*shape"],
    forget: Float[Tensor, "*shape"],
    sign: float,
    moved: Moved,
    strength: float | None = None,
) -> None:
    """Zero the forget gradient, in place, wherever phi_j dlogP/dphi_j < 0, or divide it there.

    Args:
        parameter: phi_j.
        gradient: dlogP/dphi_j summed over the batch, up to a factor; may be `forget` itself.
        forget: The backbone's forget gradient; changed in place.
        sign: The sign of that factor.
        moved: Added to; what was zeroed counts as moved.
        strength: Where it is given, it is divided by 1 + strength where the product is not above 0.
    """
    moved.total += forget.numel()
    size = CHUNK if parameter.device.type == "cpu" else max(1, parameter.numel())
    # The largest number below 0, for a product of exactly 0 is kept and the pass keeps what is above.
    below = -torch.finfo(parameter.dtype).smallest_normal * torch.finfo(parameter.dtype).eps
    with torch.no_grad():
        for phi, g, f in zip(
            *(t.view(-1).split(size) for t in (parameter, gradient, forget)), strict=True
        ):
            product = torch.mul(phi, g)
            if sign < 0:
                product.neg_()
            before = _squared(f)
            if strength is None:
                keep_above(f, product, below, grad_input=f)
                moved.penalty_squared += before - _squared(f)
            else:
                divided = torch.where(product > 0, f, f / (1.0 + strength))
                moved.penalty_squared += _squared(f - divided)
                f.copy_(divided)
            moved.forget_squared += before
            part, rise = _sample(product)
            moved.parameters += rise * _sum((part < 0).to(f))


def _sample(values: Tensor) -> tuple[Tensor, float]:
    """Return the part of a chunk in which is counted, and what the count is to be multiplied by."""
    if values.numel() < CHUNK:
        return values, 1.0
    part = values.view(-1)[: values.numel() // SAMPLE]
    return part, values.numel() / part.numel()


def _sum(values: Tensor) -> float | Tensor:
    total = values.sum()
    return float(total) if values.device.type == "cpu" else total


def _squared(values: Tensor) -> float | Tensor:
    """Return the squared norm; P is small and a penalty goes with its square, so fp32 underflows."""
    flat = values.reshape(-1)
    if values.device.type == "cpu" and values.dtype != torch.bfloat16:
        fast = float(torch.dot(flat, flat))
        # Beyond, the squares of fp32 lose digits or overflow.
        if 1e-25 < fast < 1e35:
            return fast
    wide: Tensor = torch.linalg.vector_norm(flat, dtype=torch.float64).square()
    return float(wide) if values.device.type == "cpu" else wide


def log_sentence(shares: Mapping[str, float]) -> str:
    """Return what the regulariser did, for the log: shares of norm and parameters."""
    return (
        f"the regulariser moved {shares['norm']:.2e} of the forget gradient's norm and "
        f"{shares['parameters']:.2e} of the parameters by over {MOVED:.0%} of their forget gradient"
    )

"""Mean and principal components of activations, and what is left of a vector without them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssiuu.methods.spectrum import NOTHING, keeps_rows

POWER_STEPS = 16
SPARE = 8  # further directions that are iterated on: the last of those wanted converge sooner
SKIPPED = 1  # tokens at the start of a row, whose states are of a kind of their own


def later(mask: Bool[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """Return which tokens of each row come after its first."""
    return mask & (mask.cumsum(1) > SKIPPED)


@dataclass
class Moments:
    """Sums over rows: how many, Σ x and Σ x x^T, or the rows themselves while they take less.

    Wide maps have fewer tokens than the square of their width: see `ssiuu.methods.spectrum`.
    """

    count: Float[Tensor, ""]
    total: Float[Tensor, " d"]
    square: Float[Tensor, "d d"] | None = None
    rows: Float[Tensor, "n d"] | None = None

    @classmethod
    def of(cls, rows: Float[Tensor, "n d"]) -> Moments:
        """Return the sums over these rows."""
        sums = cls(rows.new_tensor(float(len(rows))), rows.sum(0), rows=rows)
        return sums if keeps_rows(rows.shape[1], rows.device) else sums.squared()

    def add(self, other: Moments) -> Moments:
        """Add other sums, in place."""
        self.count += other.count
        self.total += other.total
        if self.rows is not None and other.rows is not None:
            self.rows = torch.cat([self.rows, other.rows])
            return self.squared() if len(self.rows) > len(self.total) else self
        assert self.square is not None
        if other.square is None:
            assert other.rows is not None
            self.square.addmm_(other.rows.T, other.rows)
        else:
            self.square += other.square
        return self

    def squared(self) -> Moments:
        """Let Σ x x^T stand for the rows, in place."""
        assert self.rows is not None
        self.square, self.rows = self.rows.T @ self.rows, None
        return self

    @property
    def power(self) -> Tensor:
        """Σ |x|^2."""
        if self.square is not None:
            return self.square.diagonal().sum()
        assert self.rows is not None
        return self.rows.square().sum()


@dataclass
class _Spread:
    """The covariance of rows, which is formed where their moment is there, and else only multiplied."""

    moments: Moments

    def __post_init__(self) -> None:
        self.mean, square = self.moments.total / self.moments.count, self.moments.square
        self.formed = square
        if square is not None:
            self.formed = square / self.moments.count - torch.outer(self.mean, self.mean)

    def times(self, block: Float[Tensor, "d k"]) -> Float[Tensor, "d k"]:
        if self.formed is not None:
            return self.formed @ block
        rows = self.moments.rows
        assert rows is not None
        turned = rows.T @ (rows @ block) / self.moments.count
        return turned - torch.outer(self.mean, self.mean @ block)

    def within(self, basis: Float[Tensor, "d k"]) -> Float[Tensor, "k k"]:
        """Return the covariance of what the rows have along a basis."""
        return basis.T @ self.times(basis) if self.formed is None else basis.T @ self.formed @ basis


@torch.no_grad()
def mean_and_components(moments: Moments, k: int, name: str = "") -> Float[Tensor, "d m"]:
    """Return the direction of the mean and the k − 1 leading principal components, as columns.

    The components are orthonormal; the mean is of length 1 and may lean on them. Where rows vary along
    fewer directions there are fewer, and where they have no mean there is none.

    Args:
        moments: Of rows of width d; k must be below d.
        k: How many at most, the mean among them.
        name: Decides what the iteration begins with.

    Source: as CIR takes them, by a randomised principal component analysis with 16 power steps.
    Departures: further directions take part in it.
    """
    mean = moments.total / moments.count
    # Of the mean square: what lies below is what rounding leaves of a mean, or of a variance, of 0.
    least = NOTHING * float(moments.power / moments.count)
    length = torch.linalg.vector_norm(mean)
    first = (mean / length).unsqueeze(1) if float(length) ** 2 > least else mean.new_zeros(len(mean), 0)
    if k < 2:
        return first
    spread = _Spread(moments)
    seeded = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    wide = min(k - 1 + SPARE, len(mean))
    drawn = torch.randn(len(mean), wide, generator=seeded, dtype=torch.float64).to(mean)
    basis = torch.linalg.qr(drawn).Q
    for _ in range(POWER_STEPS):
        basis = torch.linalg.qr(spread.times(basis)).Q
    values, turned = torch.linalg.eigh(spread.within(basis))
    leading = (basis @ turned).flip(1)[:, : k - 1]
    return torch.cat([first, leading[:, values.flip(0)[: k - 1] > least]], 1)


def as_one(directions: Float[Tensor, "d m"]) -> Float[Tensor, "d m"]:
    """Return directions that span the same and do not lean on each other."""
    basis: Tensor = torch.linalg.qr(directions).Q
    return basis


def outside(x: Float[Tensor, "*n d"], directions: Float[Tensor, "d m"]) -> Float[Tensor, "*n d"]:
    """Return what is left of vectors without these directions, taken out one by one, in their order.

    Where the first leans on the others a vector may have a little of it again in the end; see `as_one`.
    """
    mean, components = directions[:, :1].to(x.dtype), directions[:, 1:].to(x.dtype)
    without = x - (x @ mean) @ mean.T
    return without - (without @ components) @ components.T

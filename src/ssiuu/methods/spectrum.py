"""Leading directions of many rows, without the second moment of a wide map ever being formed.

The directions of rows X [n, d] are the eigenvectors of X^T X. Of a map up to `NARROW` wide that matrix
is formed, in fp32, and decomposed. Of a wider one, and on an accelerator, the rows themselves are kept,
as they came, and

    few rows, or nearly all directions wanted:   eigh of X X^T, or of X^T X where that is smaller
    else:   V <- the leading directions within span(Q, X^T X Q, (X^T X)^2 Q, ...),   Q <- V, and again

in fp64, until what is left of X^T X V - V L says that the space is found within `ANGLE` (block Krylov
iteration). It begins with the same random numbers every time, and costs O(n d k) operations and
O((n + k) d) memory. A direction with less than 1e-7 of the largest eigenvalue, as beside activations of
a few very large units, is lost in a moment in fp32 and found here.

Source: Musco and Musco 2015, "Randomized block Krylov methods for stronger and faster approximate
singular value decomposition"; Davis and Kahan 1970 for the angle.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import eigsh
from torch import Tensor

NARROW = 2048  # a moment of 16 MB
ROOM = 1 << 30  # bytes of tokens in main memory at once
# Of the largest eigenvalue: below it a moment taken in fp32 holds rounding alone.
NOTHING = 1e-7
ANGLE = 1e-5  # between the space that is found and the one looked for, radians
DEPTH = 4  # blocks of a Krylov space
CYCLES = 60
SEED = 20_261_101


class Spectrum(NamedTuple):
    """Eigenvalues of a second moment in rising order, and their orthonormal vectors, as columns."""

    values: Float[Tensor, " k"]
    vectors: Float[Tensor, "d k"]


@dataclass
class Tokens:
    """The rows that a map was given: their second moment where that is small, else themselves."""

    moment: Float[Tensor, "d d"] | None = None
    rows: list[Float[Tensor, "n d"]] = field(default_factory=list)

    def add(self, rows: Float[Tensor, "n d"]) -> None:
        """Take rows in."""
        if keeps_rows(rows.shape[1], rows.device):
            self.rows.append(rows)
            return
        x = rows.float()
        moment = x.T @ x
        self.moment = moment if self.moment is None else self.moment + moment

    @property
    def dtype(self) -> torch.dtype:
        """What directions are given in: fp32, where nothing is wider."""
        kind = torch.float32 if self.moment is None else self.moment.dtype
        return kind if self.moment is not None else torch.promote_types(self.rows[0].dtype, kind)

    def leading(self, k: int) -> Float[Tensor, "d k"]:
        """Return the k leading directions; fewer where there are fewer rows.

        Raises:
            ValueError: k is not below the width.
        """
        if self.moment is not None:
            return leading_directions(self.moment, k)
        return leading(self.rows, k).vectors.to(self.dtype)

    def spectrum(self, k: int) -> Spectrum:
        """Return them with their eigenvalues, in fp64: the least of hundreds is decided by the last
        digits.

        Raises:
            ValueError: k is not below the width.
        """
        if self.moment is None:
            return leading(self.rows, k)
        _check(k, self.moment.shape[0])
        values, vectors = torch.linalg.eigh(self.moment.double())
        return Spectrum(values[-k:], vectors[:, -k:])

    def holding(self, share: float) -> Float[Tensor, "d k"]:
        """Return the fewest leading directions that hold a share of the trace, below the width."""
        if self.moment is None:
            return holding(self.rows, share).to(self.dtype)
        values, vectors = torch.linalg.eigh(self.moment.double())
        held = values.flip(0).cumsum(0) / values.sum()
        k = min(int((held < share).sum()) + 1, len(values) - 1)
        held_by: Tensor = vectors[:, -k:].to(self.moment.dtype)
        return held_by


def keeps_rows(width: int, device: torch.device) -> bool:
    """Whether rows of this width are kept, and not their moment."""
    return width > NARROW or device.type != "cpu"


def stored(rows: int, width: int, like: Tensor) -> int:
    """Return the bytes that so many rows of a map take here."""
    if keeps_rows(width, like.device):
        return rows * width * like.element_size()
    return 4 * width * width


def room_for_tokens(device: torch.device) -> int:
    """Return the bytes that tokens may take at once: half of what is free on CUDA, or `ROOM`."""
    if device.type == "cuda":
        return max(ROOM, torch.cuda.mem_get_info(device)[0] // 2)
    return ROOM


def _check(k: int, width: int) -> None:
    if not 1 <= k < width:
        raise ValueError(f"projection needs 1 <= k < {width} (the width of the input), got {k}")


def leading_directions(moment: Float[Tensor, "d d"], k: int) -> Float[Tensor, "d k"]:
    """Return the k leading eigenvectors of a second moment, orthonormal columns.

    Raises:
        ValueError: k is not below the dimension.
    """
    d = moment.shape[0]
    _check(k, d)
    matrix = moment.cpu().numpy()
    # Lanczos, because k is small; the start vector is fixed so that runs repeat exactly.
    _, vectors = eigsh(matrix, k=k, which="LA", v0=np.ones(d, matrix.dtype))
    return torch.from_numpy(vectors.copy()).to(moment.dtype).to(moment.device)


@torch.no_grad()
def leading(rows: list[Float[Tensor, "n d"]], k: int) -> Spectrum:
    """Return the k leading directions of X^T X, X the rows in all of these pieces; see the module.

    Where there are fewer rows than k there are fewer directions. In fp64, but on devices without it.

    Raises:
        ValueError: k is not below the width.
    """
    n, d = sum(map(len, rows)), rows[0].shape[1]
    _check(k, d)
    block = k + max(8, k // 4)
    if min(n, d) <= (DEPTH + 1) * block:
        return _dense(rows, min(k, n))
    return _krylov(rows, k, block)


@torch.no_grad()
def holding(rows: list[Float[Tensor, "n d"]], share: float) -> Float[Tensor, "d k"]:
    """Return the fewest leading directions that hold a share of the sum of squares, below the width."""
    kind = _exact(rows[0].device)
    total = sum(float(part.to(kind).square().sum()) for part in rows)
    most = min(sum(map(len, rows)), rows[0].shape[1] - 1)
    asked = min(64, most)
    while True:
        values, vectors = leading(rows, asked)
        held = values.flip(0).cumsum(0) / total
        if asked == most or float(held[-1]) >= share:
            k = min(int((held < share).sum()) + 1, len(values))
            return vectors[:, -k:]
        asked = min(4 * asked, most)


def _exact(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _dense(rows: list[Tensor], k: int) -> Spectrum:
    """By the eigenvectors of the smaller one of X X^T and X^T X."""
    kind = _exact(rows[0].device)
    n, d = sum(map(len, rows)), rows[0].shape[1]
    if d <= n:
        values, vectors = torch.linalg.eigh(_times(rows, torch.eye(d, dtype=kind).to(rows[0].device)))
        return Spectrum(values[-k:], vectors[:, -k:])
    x = torch.cat(rows).to(kind)
    values, left = torch.linalg.eigh(x @ x.T)
    # V s = X^T U; orthonormal again where s is so small that rounding is seen.
    orthonormal: Tensor = torch.linalg.qr(x.T @ left[:, -k:].flip(1)).Q
    return Spectrum(values[-k:], orthonormal.flip(1))


def _krylov(rows: list[Tensor], k: int, width: int) -> Spectrum:
    """By a block Krylov iteration that begins again from the best of what it has found."""
    device, d = rows[0].device, rows[0].shape[1]
    kind = _exact(device)
    seeded = torch.Generator().manual_seed(SEED)
    start = torch.randn(d, width, generator=seeded, dtype=torch.float64).to(device, kind)
    for _ in range(CYCLES):
        blocks: list[Tensor] = [torch.linalg.qr(start).Q]
        images: list[Tensor] = [_times(rows, blocks[0])]
        for _ in range(DEPTH - 1):
            blocks.append(_beside(images[-1], blocks))
            images.append(_times(rows, blocks[-1]))
        basis, image = torch.cat(blocks, 1), torch.cat(images, 1)
        within = basis.T @ image
        values, turned = torch.linalg.eigh((within + within.T) / 2)
        start = basis @ turned[:, -width:]
        found = Spectrum(values[-k:], start[:, -k:])
        left = torch.linalg.matrix_norm(image @ turned[:, -k:] - found.vectors * found.values)
        # What rounding leaves whatever is done, or an angle that is small enough.
        rounding = 1e-14 * k**0.5 * values[-1]
        if bool(left <= torch.maximum(ANGLE * (values[-k] - values[-k - 1]), rounding)):
            break
    return found


def _times(rows: list[Tensor], block: Float[Tensor, "d k"]) -> Float[Tensor, "d k"]:
    """Return X^T X times a block; a piece of the rows at a time is widened."""
    total = torch.zeros_like(block)
    for part in rows:
        wide = part.to(block.dtype)
        total.addmm_(wide.T, wide @ block)
    return total


def _beside(block: Float[Tensor, "d k"], blocks: list[Tensor]) -> Float[Tensor, "d k"]:
    """Return an orthonormal block of what one has beside others."""
    for _ in range(2):  # rounding leaves some of them the first time
        for other in blocks:
            block = block - other @ (other.T @ block)
        block = torch.linalg.qr(block).Q
    return block

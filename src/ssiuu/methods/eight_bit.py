"""Numbers in 8 bits whose signs are exact and whose errors are a share of each: sign and logarithm.

    x = sign(c) M 2^((|c| - 127) / 8),    |c| = 1 .. 127;    c = 0 where x is 0

with M the largest |x| of a block of `BLOCK`. From M down to M / 2^15.75, five orders of magnitude, the
error is at most 2^(1/16) - 1 = 4.4 % of x; what is smaller is held as the smallest, with its sign.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int8
from torch import Tensor

BLOCK = 256
CODES, OCTAVE = 127, 8  # codes of one sign, and codes to a factor of two


class Short(NamedTuple):
    """Codes, and the largest |x| of each block."""

    codes: Int8[Tensor, " n"]
    most: Float[Tensor, " blocks"]


def shortened(values: Float[Tensor, " n"]) -> Short:
    """Return numbers in 8 bits; see the module."""
    size = values.numel()
    rows = torch.nn.functional.pad(values, (0, -size % BLOCK)).view(-1, BLOCK)
    most = rows.abs().amax(1)
    share = rows.abs() / most.clamp(min=torch.finfo(most.dtype).tiny).unsqueeze(1)
    codes = share.log2_().mul_(OCTAVE).round_().add_(CODES).clamp_(1, CODES).mul_(rows.sign())
    return Short(codes.view(-1)[:size].to(torch.int8), most)


def lengthened(short: Short, dtype: torch.dtype) -> Float[Tensor, " n"]:
    """Return the numbers that codes stand for."""
    codes = short.codes.to(dtype)
    size = codes.numel()
    rows = torch.nn.functional.pad(codes, (0, -size % BLOCK)).view(-1, BLOCK)
    found = (
        rows.abs()
        .sub_(CODES)
        .div_(OCTAVE)
        .exp2_()
        .mul_(rows.sign())
        .mul_(short.most.to(dtype).unsqueeze(1))
    )
    return found.view(-1)[:size]

"""The k-quants `q4_k` and `q6_k` of GGUF files, which the package gguf reads and does not make.

    made = quantised(weight, "q4_k")                 # the bytes of each row

A super-block is 256 neighbouring inputs, in parts with a scale each, which are held in few bits
themselves: by a scale d of the super-block, and in q4_k an m, in half precision.

    q4_k   8 parts of 32:    w ~ d s q - m t,   q of 4 bits, s and t of 6;    144 bytes
    q6_k   16 parts of 16:   w ~ d s q,         q of 6 bits, s of 8;          210 bytes

s and t are searched: of several trial scales, each rounded to codes and fitted to them by weighted
least squares, the one of smallest error is kept. A weight counts by its size, because large ones matter
more: |w| + sqrt(mean w^2) in q4_k, w^2 in q6_k.

Source: llama.cpp's quantisation without an importance matrix, and the layout as gguf dequantises it.
Departures: sums may be taken in another order, so that a tie can fall otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
KQuant = Literal["q4_k", "q6_k"]

SUPER: Final = 256  # inputs of a super-block
AT_ONCE: Final = 2048  # super-blocks, so that a trial's arrays stay in the cache
SMALLEST: Final = np.float32(1e-15)  # what is smaller counts as zero


class _Fit(NamedTuple):
    """Of each part its scale, what is taken off (none in q6_k), and its codes."""

    scale: Floats
    low: Floats
    codes: Floats


def quantised(weight: Floats, kind: KQuant) -> Bytes:
    """Return the bytes of a matrix, row by row.

    Args:
        weight: [out, in], in a multiple of 256.
        kind: Of the super-blocks.
    """
    blocks = np.ascontiguousarray(weight, np.float32).reshape(-1, SUPER)
    pieces = [MAKERS[kind](blocks[at : at + AT_ONCE]) for at in range(0, len(blocks), AT_ONCE)]
    return np.concatenate(pieces).reshape(len(weight), -1)


def _q4_k(blocks: Floats) -> Bytes:
    """Return super-blocks [n, 256] as [n, 144] bytes."""
    count = len(blocks)
    parts = blocks.reshape(-1, 32)
    fit = _with_low(parts)
    (d, scales), (m, lows) = (_six_bits(part.reshape(count, 8)) for part in (fit.scale, fit.low))
    steps = (d * scales).reshape(-1, 1)
    off = (m * lows).reshape(-1, 1)
    codes = np.where(steps > 0, _codes((parts + off) / _nonzero(steps), 0, 15), fit.codes)
    pairs = codes.astype(np.uint8).reshape(count, 4, 2, 32)
    s, t = scales.astype(np.uint8), lows.astype(np.uint8)
    # The upper two bits of the last four of each lie above the six of the first four.
    packed = np.concatenate(
        [
            s[:, :4] | (s[:, 4:] >> 4) << 6,
            t[:, :4] | (t[:, 4:] >> 4) << 6,
            (s[:, 4:] & 15) | (t[:, 4:] & 15) << 4,
        ],
        axis=1,
    )
    return np.concatenate(
        [_half(d), _half(m), packed, (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(count, 128)], axis=1
    )


def _q6_k(blocks: Floats) -> Bytes:
    """Return super-blocks [n, 256] as [n, 210] bytes."""
    count = len(blocks)
    parts = blocks.reshape(-1, 16)
    fit = _without_low(parts)
    largest = _largest(fit.scale.reshape(count, 16))
    zero = np.abs(largest) < SMALLEST
    inverse = np.where(zero, 0, np.float32(-128) / np.where(zero, np.float32(1), largest))
    d = np.where(zero, 0, 1 / _nonzero(inverse)).astype(np.float16).astype(np.float32)
    scales = np.minimum(np.rint(inverse * fit.scale.reshape(count, 16)), 127)
    steps = (d * scales).reshape(-1, 1)
    codes = np.where(steps != 0, _codes(parts / _nonzero(steps), -32, 31), fit.codes)
    halves = (codes + 32).astype(np.uint8).reshape(count, 2, 4, 32)  # [., half, quarter, .]
    lower, upper = halves & 15, halves >> 4
    low = np.concatenate([lower[:, :, :2], lower[:, :, 2:] << 4], axis=3)
    nibbles = low[..., :32] | low[..., 32:]
    quarters = np.array([0, 2, 4, 6], np.uint8)[None, None, :, None]
    high = np.bitwise_or.reduce(upper << quarters, axis=2)
    packed = [
        nibbles.reshape(count, 128),
        high.reshape(count, 64),
        scales.astype(np.int8).view(np.uint8),
    ]
    return np.where(zero, np.uint8(0), np.concatenate([*packed, _half(d)], axis=1))


MAKERS: Final[dict[KQuant, Callable[[Floats], Bytes]]] = {"q4_k": _q4_k, "q6_k": _q6_k}


# --- the search ----------------------------------------


def _with_low(x: Floats) -> _Fit:
    """Fit x ~ scale code - low with codes 0 to 15 and no low below 0, for each row."""
    weight = np.sqrt((x * x).mean(1, keepdims=True)) + np.abs(x)
    low, high = np.minimum(x.min(1, keepdims=True), 0), x.max(1, keepdims=True)
    flat = high - low < SMALLEST
    sum_w, sum_x = (t.sum(1, keepdims=True) for t in (weight, weight * x))

    def coded(steps: float, low: Floats) -> Floats:
        return _codes(steps / np.where(flat, 1, high - low) * (x - low), 0, 15)

    def error(scale: Floats, least: Floats, codes: Floats) -> Floats:
        return _summed(weight * np.square(scale * codes + least - x))

    best = _Fit((high - low) / 15, low, coded(15, low))
    smallest = error(*best)
    for trial in range(21):
        codes = coded(14 + 0.1 * trial, best.low)  # from what fitted best so far
        weighted = weight * codes
        sum_c, sum_cc, sum_cx = (_summed(t) for t in (weighted, weighted * codes, weighted * x))
        determinant = sum_w * sum_cc - sum_c * sum_c
        under = _nonzero(determinant)
        scale, least = (
            (sum_w * sum_cx - sum_x * sum_c) / under,
            (sum_cc * sum_x - sum_c * sum_cx) / under,
        )
        above = least > 0
        scale, least = np.where(above, sum_cx / _nonzero(sum_cc), scale), np.where(above, 0, least)
        tried = error(scale, least, codes)
        better = (determinant > 0) & (tried < smallest)
        smallest = np.where(better, tried, smallest)
        best = _Fit(
            *(np.where(better, *both) for both in zip((scale, least, codes), best, strict=True))
        )
    scale, codes = (np.where(flat, 0, t) for t in (best.scale, best.codes))
    return _Fit(scale, -np.where(flat, low, best.low), codes)


def _without_low(x: Floats) -> _Fit:
    """Fit x ~ scale code with codes -32 to 31, for each row; of its largest value about -32."""
    weight = x * x
    largest = _largest(x)
    zero = np.abs(largest) < SMALLEST
    under = np.where(zero, np.float32(1), largest)

    def tried(steps: float) -> tuple[Floats, Floats, Floats]:
        codes = _codes(-steps / under * x, -32, 31)
        return codes, _summed(weight * x * codes), _summed(weight * codes * codes)

    codes, with_x, squares = tried(32)
    scale = with_x / _nonzero(squares)
    # The error is sum w x^2 - (sum w x c)^2 / sum w c^2, and this is what is taken off.
    gain = scale * with_x
    for trial in (*range(-9, 0), *range(1, 10)):
        others, with_x, squares = tried(32 + 0.1 * trial)
        better = (squares > 0) & (with_x * with_x > gain * squares)
        fitted = with_x / _nonzero(squares)
        scale, codes = np.where(better, fitted, scale), np.where(better, others, codes)
        gain = np.where(better, fitted * with_x, gain)
    scale, codes = (np.where(zero, 0, t) for t in (scale, codes))
    return _Fit(scale, np.zeros_like(scale), codes)


def _six_bits(values: Floats) -> tuple[Floats, Floats]:
    """Return the half-precision scale [n, 1] of values [n, 8] that are at least 0, and their codes."""
    largest = np.maximum(values.max(1, keepdims=True), 0)
    codes = _codes(np.where(largest > 0, 63 / _nonzero(largest), 0) * values, 0, 63)
    return (largest / 63).astype(np.float16).astype(np.float32), codes


def _codes(values: NDArray[Any], least: int, most: int) -> Floats:
    codes: Floats = np.clip(np.rint(values), least, most)
    return codes


def _largest(values: Floats) -> Floats:
    """Return of each row the value that is furthest from 0, with its sign."""
    return np.take_along_axis(values, np.abs(values).argmax(1)[:, None], axis=1)


def _summed(values: Floats) -> Floats:
    total: Floats = values.sum(1, keepdims=True)
    return total


def _nonzero(values: Floats) -> Floats:
    """Return what may be divided by: 1 for 0, whose quotient nobody takes."""
    return np.where(values == 0, np.float32(1), values)


def _half(values: Floats) -> Bytes:
    return values.astype(np.float16).view(np.uint8).reshape(len(values), 2)

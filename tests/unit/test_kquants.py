"""K-quants: what is made is read back by gguf itself, as close as the search by loops comes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from ssiuu.models.gguf import fitting, form_of, rounded
from ssiuu.models.kquants import KQuant, quantised

KINDS: list[KQuant] = ["q4_k", "q6_k"]
SIZE = {"q4_k": 144, "q6_k": 210}


def weights(kind: str, rows: int = 8, inputs: int = 512) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(0)
    made = {
        "normal": lambda: rng.standard_normal((rows, inputs)) / 50,
        "heavy": lambda: rng.standard_t(3, (rows, inputs)),
        "positive": lambda: 1 + rng.random((rows, inputs)),
        "negative": lambda: -1 - rng.random((rows, inputs)),
        "sparse": lambda: rng.standard_normal((rows, inputs)) * (rng.random((rows, inputs)) < 0.1),
    }
    return made[kind]().astype(np.float32)


def back(weight: np.ndarray[Any, Any], kind: KQuant) -> np.ndarray[Any, Any]:
    made = quantised(weight, kind)
    assert made.shape == (len(weight), weight.shape[1] // 256 * SIZE[kind])
    read: np.ndarray[Any, Any] = dequantize(made, GGMLQuantizationType[kind.upper()])
    return read


def by_range(weight: np.ndarray[Any, Any], kind: KQuant) -> np.ndarray[Any, Any]:
    """Round each part between its least and largest value, with scales in full."""
    width, top = (32, 15) if kind == "q4_k" else (16, 31)
    parts = weight.reshape(-1, width)
    if kind == "q6_k":
        step = np.abs(parts).max(1, keepdims=True) / top
        return (np.rint(parts / np.where(step > 0, step, 1)) * step).reshape(weight.shape)
    low = np.minimum(parts.min(1, keepdims=True), 0)
    step = (parts.max(1, keepdims=True) - low) / top
    return (np.rint((parts - low) / np.where(step > 0, step, 1)) * step + low).reshape(weight.shape)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("values", ["normal", "heavy", "positive", "negative", "sparse"])
def test_no_further_off_than_rounding_between_least_and_largest(kind: KQuant, values: str) -> None:
    """Though its scales are held in few bits, and those of the comparison in full."""
    weight = weights(values)
    ours, plain = (
        float(np.linalg.norm(w - weight)) for w in (back(weight, kind), by_range(weight, kind))
    )
    assert ours < plain * (1.03 if kind == "q4_k" else 1.0)
    width, top = (32, 15) if kind == "q4_k" else (16, 31)
    parts = weight.reshape(-1, width)
    low, high = np.minimum(parts.min(1), 0), np.maximum(parts.max(1), 0)
    reach = high - low if kind == "q4_k" else np.maximum(high, -low)
    # The scales of a super-block are a sixty-third, or a 127th, of its largest one apart.
    coarse = np.repeat(reach.reshape(-1, 256 // width).max(1), 256 // width) / (
        63 if top == 15 else 127
    )
    off = np.abs(back(weight, kind) - weight).reshape(-1, width).max(1)
    assert bool((off <= reach / top + coarse).all())


def search_by_loop(x: list[float]) -> tuple[float, float]:
    """Return the scale and the least value of a part of q4_k, one number at a time."""
    mean = (sum(v * v for v in x) / len(x)) ** 0.5
    weight = [mean + abs(v) for v in x]
    least, high = min(*x, 0.0), max(x)

    def coded(steps: float, least: float) -> list[int]:
        return [max(0, min(15, round(steps / (high - least) * (v - least)))) for v in x]

    def error(scale: float, least: float, codes: list[int]) -> float:
        return sum(w * (scale * c + least - v) ** 2 for w, c, v in zip(weight, codes, x, strict=True))

    best = (high - least) / 15, least
    smallest = error(*best, coded(15, least))
    for trial in range(21):
        codes = coded(14 + 0.1 * trial, best[1])
        design = np.array([[c, 1.0] for c in codes]) * np.sqrt(weight)[:, None]
        wanted = np.array(x) * np.sqrt(weight)
        if len(set(codes)) < 2:
            continue
        scale, offset = map(float, np.linalg.lstsq(design, wanted, rcond=None)[0])
        if offset > 0:
            scale, offset = float(np.linalg.lstsq(design[:, :1], wanted, rcond=None)[0][0]), 0.0
        if (tried := error(scale, offset, codes)) < smallest:
            best, smallest = (scale, offset), tried
    return best


@pytest.mark.parametrize("values", ["normal", "positive"])
def test_the_search_finds_what_loops_find(values: str) -> None:
    weight = weights(values, rows=2, inputs=256)
    made = quantised(weight, "q4_k").reshape(-1, 144)
    d, m = (made[:, at : at + 2].copy().view(np.float16).astype(np.float64) for at in (0, 2))
    found = [[search_by_loop(p.tolist()) for p in row.reshape(-1, 32)] for row in weight]
    # Of a super-block the largest scale has the code 63, and so d is a sixty-third of it; m likewise.
    for row, fits in enumerate(found):
        assert d[row, 0] * 63 == pytest.approx(max(s for s, _ in fits), rel=1e-3)
        assert m[row, 0] * 63 == pytest.approx(max(-low for _, low in fits), rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_read_back_is_made_again_nearly_unchanged(kind: KQuant) -> None:
    once = back(weights("normal"), kind)
    assert float(np.linalg.norm(back(once, kind) - once) / np.linalg.norm(once)) < 5e-3


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_constants_outliers_and_tiny_values(kind: KQuant) -> None:
    weight = np.zeros((5, 256), np.float32)
    weight[1], weight[2], weight[3, 7], weight[4] = 0.25, -0.25, 9.0, 1e-38
    found = back(weight, kind)
    assert not found[0].any() and not found[4].any()
    assert np.abs(found[1:3] - weight[1:3]).max() < 1e-3 and abs(found[3, 7] - 9) < 0.01
    assert not np.delete(found[3], 7).any()


def test_a_rounded_matrix_keeps_its_type_and_is_what_the_file_would_hold() -> None:
    weight = torch.from_numpy(weights("normal"))
    assert torch.equal(rounded(weight, "q4_k"), torch.from_numpy(back(weight.numpy(), "q4_k")))
    assert rounded(weight.bfloat16(), "q6_k").dtype == torch.bfloat16
    off = [
        float((rounded(weight, form) - weight).norm() / weight.norm())
        for form in (*KINDS, "q4_0", "q8_0")
    ]  # type: ignore[arg-type]
    assert 0.08 < off[2] < 0.1 and 0.06 < off[0] < 0.08 and 0.01 < off[1] < 0.02 and off[3] < 0.01


def test_rows_that_are_no_super_blocks_are_held_as_llama_cpp_holds_them() -> None:
    assert [fitting(n, "q4_k") for n in (512, 576, 40)] == ["q4_k", "q5_0", "f16"]
    assert [fitting(n, "q6_k") for n in (256, 64, 33)] == ["q6_k", "q8_0", "f16"]
    assert fitting(576, "q4_0") == "q4_0"
    weight = torch.from_numpy(weights("normal", inputs=96))
    assert torch.equal(rounded(weight, "q4_k"), rounded(weight, "q5_0"))


def test_the_mixed_kind_is_finer_where_llama_cpp_is() -> None:
    """Of 18 blocks, as a file of llama.cpp's with as many has them: each is in 6 bits or in 4."""
    down = [n for n in range(18) if form_of(f"blk.{n}.ffn_down.weight", "q4_k_m", 18, ()) == "q6_k"]
    assert down == [0, 1, 4, 7, 10, 13, 15, 16, 17]
    value = [n for n in range(18) if form_of(f"blk.{n}.attn_v.weight", "q4_k_m", 18, ()) == "q6_k"]
    assert value == down
    names = {"token_embd.weight", "output.weight"}
    assert [form_of(name, "q4_k_m", 18, names) for name in sorted(names)] == ["q6_k", "q4_k"]
    assert form_of("token_embd.weight", "q4_k_m", 18, names - {"output.weight"}) == "q6_k"
    assert form_of("blk.0.ffn_up.weight", "q4_k_m", 18, names) == "q4_k"

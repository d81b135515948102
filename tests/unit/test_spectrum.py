"""Directions of wide maps: against the decomposed moment, in little memory, in one group of maps or many."""

from __future__ import annotations

import resource
import time
from typing import Any

import pytest
import torch
from torch import Tensor

from ssiuu.likelihood import collate
from ssiuu.methods import spectrum
from ssiuu.methods.components import Moments, mean_and_components
from ssiuu.methods.directions import energy_bases, retain_bases
from ssiuu.methods.spectrum import Tokens, holding, leading


def oracle(rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """All eigenvectors of the moment, in float64."""
    values, vectors = torch.linalg.eigh(rows.double().T @ rows.double())
    return values[-k:], vectors[:, -k:]


def angle(found: Tensor, wanted: Tensor) -> float:
    """The largest angle between two subspaces, radians."""
    beside = found.double() - wanted @ (wanted.T @ found.double())
    return float(torch.linalg.matrix_norm(beside, 2).clamp(max=1).arcsin())


def drawn(n: int, d: int, power: float = 0.5, outlier: float = 3.0, seed: int = 0) -> Tensor:
    """Rows like activations: variances that fall by a power, and one direction far above the rest."""
    seeded = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, d, generator=seeded) * torch.arange(1.0, d + 1) ** -power
    along = torch.randn(d, generator=seeded)
    return rows + outlier * torch.randn(n, 1, generator=seeded) * along


@pytest.mark.parametrize(
    ("n", "d", "k", "power"),
    [
        (300, 900, 16, 0.5),
        (300, 900, 16, 0.1),
        (900, 300, 16, 0.5),
        (60, 900, 16, 0.5),
        (300, 900, 80, 1),
    ],
)
def test_the_directions_are_those_of_the_moment(n: int, d: int, k: int, power: float) -> None:
    rows = drawn(n, d, power)
    found = leading([*rows.split(128)], k)
    values, wanted = oracle(rows, k)
    assert angle(found.vectors, wanted) < 1e-4
    torch.testing.assert_close(found.values, values, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        found.vectors.T @ found.vectors, torch.eye(k, dtype=torch.float64), rtol=0, atol=1e-10
    )
    again = leading([*rows.split(128)], k)
    assert torch.equal(found.vectors, again.vectors)


def test_both_ways_of_finding_them_agree() -> None:
    rows = [*drawn(300, 400).split(100)]
    dense, krylov = spectrum._dense(rows, 12), spectrum._krylov(rows, 12, 20)
    assert angle(krylov.vectors, dense.vectors) < 1e-5


def test_there_are_no_more_directions_than_rows() -> None:
    found = leading([drawn(5, 900)], 16)
    assert found.vectors.shape == (900, 5) and found.values.shape == (5,)
    with pytest.raises(ValueError, match="1 <= k < 900"):
        leading([drawn(5, 900)], 900)


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_share_is_held_by_as_few_as_the_moment_says(share: float) -> None:
    rows = drawn(700, 800, 1.0)
    found = holding([*rows.split(300)], share)
    values, vectors = torch.linalg.eigh(rows.double().T @ rows.double())
    k = int((values.flip(0).cumsum(0) / values.sum() < share).sum()) + 1
    assert found.shape == (800, k)
    assert angle(found, vectors[:, -k:]) < 1e-4


@pytest.mark.parametrize(
    ("inputs", "outputs", "cut"), [(3, None, "hard"), (3, 2, "hard"), (4, 4, "soft")]
)
def test_a_model_has_the_directions_of_its_narrow_maps_by_rows_too(
    tiny_model: Any, make_examples: Any, monkeypatch: Any, inputs: int, outputs: Any, cut: Any
) -> None:
    """In groups of one map each, whose tokens are read in as many passes."""
    batches = [collate(make_examples(8)[i : i + 4], 40) for i in (0, 4)]
    today = retain_bases(tiny_model, batches, inputs, outputs, cut)
    monkeypatch.setattr(spectrum, "NARROW", 0)
    monkeypatch.setattr(spectrum, "ROOM", 1)
    found = retain_bases(tiny_model, iter(batches), inputs, outputs, cut)
    assert found.keys() == today.keys()
    for name, basis in found.items():
        before = today[name]
        assert basis.inputs is not None and before.inputs is not None
        assert angle(basis.inputs, before.inputs.double()) < 1e-3  # that of the moment in fp32
        if outputs is not None:
            assert basis.outputs is not None and before.outputs is not None
            assert angle(basis.outputs, before.outputs.double()) < 1e-3
        for mine, theirs in ((basis.inputs_left, before.inputs_left),):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_the_null_space_is_the_same_by_rows(
    tiny_model: Any, make_examples: Any, monkeypatch: Any
) -> None:
    batches = [collate(make_examples(6), 40)]
    today = energy_bases(tiny_model, batches, 0.9)
    monkeypatch.setattr(spectrum, "NARROW", 0)
    found = energy_bases(tiny_model, batches, 0.9)
    for name, basis in found.items():
        assert basis.inputs is not None
        assert angle(basis.inputs, today[name].inputs.double()) < 1e-3  # type: ignore[union-attr]


def test_groups_read_what_one_pass_reads(tiny_model: Any, make_examples: Any, monkeypatch: Any) -> None:
    batches = [collate(make_examples(6), 40)]
    one = retain_bases(tiny_model, batches, 3, None)
    monkeypatch.setattr(spectrum, "ROOM", 3000)
    many = retain_bases(tiny_model, batches, 3, None)
    assert all(torch.equal(many[name].inputs, basis.inputs) for name, basis in one.items())  # type: ignore[arg-type]


def test_components_of_rows_are_those_of_their_moment(monkeypatch: Any) -> None:
    rows = drawn(90, 120, 1.0, 0.2) + 0.3
    formed = Moments.of(rows[:50]).add(Moments.of(rows[50:]))
    monkeypatch.setattr(spectrum, "NARROW", 0)
    kept = Moments.of(rows[:50]).add(Moments.of(rows[50:]))
    assert kept.square is None and kept.rows is not None and formed.rows is None
    found, wanted = (mean_and_components(m, 6, "a map") for m in (kept, formed))
    torch.testing.assert_close(found @ found.T, wanted @ wanted.T, rtol=1e-4, atol=1e-4)
    more = kept.add(Moments.of(rows))  # more rows than they are wide: their moment takes less
    assert more.rows is None and more.square is not None
    torch.testing.assert_close(more.square, 2 * formed.square, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        more.add(Moments.of(rows)).square, 3 * formed.square, rtol=1e-4, atol=1e-4
    )


@pytest.mark.slow
def test_four_maps_of_8192_take_little_time_and_memory() -> None:
    maps = [[*drawn(2048, 8192, seed=n).split(256)] for n in range(4)]
    held = sum(t.numel() * t.element_size() for rows in maps for t in rows)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.process_time()
    bases = [Tokens(rows=rows).leading(32) for rows in maps]
    spent = time.process_time() - begun
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert held + grown < 1e9
    assert spent < 20  # seconds of the processor: 10 on two cores
    assert all(torch.isfinite(basis).all() and basis.shape == (8192, 32) for basis in bases)

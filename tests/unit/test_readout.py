"""The linear read-out: its solution, what it predicts, and that it leaves no trace."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import VOCABULARY, build_model
from ssiuu.diagnosis import readout as module
from ssiuu.diagnosis.readout import RIDGE, Readout, Target, _solved, readable
from ssiuu.errors import ConfigError
from ssiuu.evaluation.tree import Tree


def token_rows(count: int = 30, length: int = 12, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(3, len(VOCABULARY)) for _ in range(length)] for _ in range(count)]


def slow(x: Tensor, t: Tensor, ridge: float) -> np.ndarray[Any, Any]:
    """Minimise ||XA - T||² + λ/D tr(X^T X) ||A||² as one least-squares problem with more rows."""
    a, b = x.double().numpy(), t.double().numpy()
    columns = a.shape[1]
    penalty = ridge / columns * np.trace(a.T @ a)
    below = np.sqrt(penalty) * np.eye(columns)
    rows, targets = np.vstack([a, below]), np.vstack([b, np.zeros((columns, b.shape[1]))])
    return np.asarray(np.linalg.lstsq(rows, targets, rcond=None)[0])


@pytest.mark.parametrize("block", [5, 512])
@pytest.mark.parametrize("tokens", [9, 14, 40])  # fewer than the 14 columns, as many, more
@pytest.mark.parametrize("ridge", [1e-4, RIDGE, 1.0])
def test_the_solution_is_that_of_the_definition(
    tokens: int, ridge: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, 14, generator=generator)
    t = torch.randn(tokens, 3, generator=generator)
    assert _solved(x, t, ridge).numpy() == pytest.approx(slow(x, t, ridge), rel=1e-4, abs=1e-5)


def test_what_is_not_finite_is_solved_to_what_is_not() -> None:
    x, t = torch.randn(20, 14), torch.randn(20, 3)
    x[3, 2] = torch.nan
    assert _solved(x, t, RIDGE).isnan().any()
    assert _solved(x.T, torch.randn(14, 3), RIDGE).isnan().any()


def predictions(model: Any, row: list[int], side: int = 0) -> Tensor:
    """Return what a model predicts after a row; side 1: what is read beside it."""
    with torch.no_grad():
        found: Tensor = model(input_ids=torch.tensor([row])).logits[side].log_softmax(-1)
    return found


def test_a_model_read_as_itself_predicts_what_it_predicts(tiny_model: Any) -> None:
    rows, unseen = token_rows(), token_rows(1, seed=1)[0]
    own = predictions(tiny_model, unseen)
    found = Readout.fit(tiny_model, rows, Target.of(tiny_model, rows), ridge=1e-9)
    with found.beside(tiny_model):
        assert torch.allclose(predictions(tiny_model, unseen, side=1), own, atol=1e-3)
        assert torch.equal(predictions(tiny_model, unseen), own), "by itself it predicts as ever"
    assert torch.equal(predictions(tiny_model, unseen), own)


def test_another_model_is_read_as_the_first_one(tiny_model: Any) -> None:
    """Its blocks put out the first one's states turned around: a linear map turns them back."""
    rows, unseen = token_rows(), token_rows(1, seed=1)[0]
    target, own = Target.of(tiny_model, rows), predictions(tiny_model, unseen)
    last = tiny_model.model.layers[-1]
    turn, _ = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))
    handle = last.register_forward_hook(lambda module, inputs, output: output @ turn)
    assert not torch.allclose(predictions(tiny_model, unseen), own, atol=0.1)
    with Readout.fit(tiny_model, rows, target, ridge=1e-9).beside(tiny_model):
        assert torch.allclose(predictions(tiny_model, unseen, side=1), own, atol=1e-2)
    handle.remove()


def test_the_order_of_rows_does_not_matter(tiny_model: Any) -> None:
    rows = token_rows()
    turned = list(reversed(rows))
    fits = [Readout.fit(tiny_model, r, Target.of(tiny_model, r)) for r in (rows, turned)]
    for name in ("weight", "centre", "scale", "bias"):
        one, other = (getattr(fit, name) for fit in fits)
        assert torch.allclose(one, other, atol=1e-4), name


def test_rows_of_any_lengths_are_read_as_each_by_itself(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several together, padded, in the order that they are given in."""
    rows = [row[: 3 + 5 * n % 9] for n, row in enumerate(token_rows(12))]
    wanted = torch.cat([Target.of(tiny_model, [row]).states for row in rows])
    for at_once in (1, 20, 512):
        monkeypatch.setattr(module, "AT_ONCE", at_once)
        assert torch.allclose(Target.of(tiny_model, rows).states, wanted, atol=1e-5)
        features, widths = module._features_of(tiny_model, rows)
        alone = torch.cat([module._features_of(tiny_model, [row])[0] for row in rows])
        assert features.shape == (sum(map(len, rows)), sum(widths))
        assert torch.allclose(features, alone, atol=1e-5)


@pytest.mark.parametrize("packed", [True, False])
def test_lineups_are_read_both_ways_in_one_pass(
    tiny_model: Any, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself to the bit as without, and by the read-out as a pass over one row says."""
    if not packed:
        monkeypatch.setattr("ssiuu.evaluation.tree.takes_trees", lambda model: False)
    rows = token_rows()
    tree = Tree(tiny_model)
    pairs = [(row[:5], row[5 : 6 + n % 3]) for n, row in enumerate(token_rows(7, seed=2))]
    paths = [tree.add(*pair) for pair in pairs]
    tree.read()
    own = [tree.logprobs[tree.rows(path.predictors)] for path in paths]
    assert not len(tree.beside)
    tree.forget()
    with Readout.fit(tiny_model, rows, Target.of(tiny_model, rows)).beside(tiny_model):
        tree.read()
        alone = [predictions(tiny_model, [*a, *b[:-1]], side=1)[len(a) - 1 :] for a, b in pairs]
    for path, before, wanted in zip(paths, own, alone, strict=True):
        assert torch.equal(tree.logprobs[tree.rows(path.predictors)], before)
        assert torch.allclose(tree.beside[0][tree.rows(path.predictors)], wanted, atol=1e-5)


def hooks(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_no_hook_is_left(tiny_model: Any) -> None:
    rows = token_rows(4)
    assert readable(tiny_model) == "" and hooks(tiny_model) == 0
    found = Readout.fit(tiny_model, rows, Target.of(tiny_model, rows))
    assert hooks(tiny_model) == 0
    with pytest.raises(RuntimeError, match="here"), found.beside(tiny_model):
        assert hooks(tiny_model) > 0
        raise RuntimeError("here")
    assert hooks(tiny_model) == 0
    with pytest.raises(IndexError):
        Target.of(tiny_model, [[len(VOCABULARY) + 1]])
    assert hooks(tiny_model) == 0


def test_a_model_whose_last_norm_is_not_known_is_refused() -> None:
    model = build_model()
    model.model.last_one = model.model.norm
    del model.model.norm
    assert "the norm after its last block is not known" in readable(model)
    with pytest.raises(ConfigError, match="norm after its last block"):
        Target.of(model, token_rows(1))

"""The linear read-out: its solution, what it predicts, and that it leaves no trace."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import VOCABULARY, build_model
from ssiuu.diagnosis.readout import RIDGE, Readout, Target, _solved, readable
from ssiuu.errors import ConfigError


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


@pytest.mark.parametrize("tokens", [9, 14, 40])  # fewer than the 14 columns, as many, more
@pytest.mark.parametrize("ridge", [1e-4, RIDGE, 1.0])
def test_the_solution_is_that_of_the_definition(tokens: int, ridge: float) -> None:
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, 14, generator=generator)
    t = torch.randn(tokens, 3, generator=generator)
    assert _solved(x, t, ridge).numpy() == pytest.approx(slow(x, t, ridge), rel=1e-4, abs=1e-5)


def predictions(model: Any, row: list[int]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=torch.tensor([row])).logits[0].log_softmax(-1)
    return found


def test_a_model_read_as_itself_predicts_what_it_predicts(tiny_model: Any) -> None:
    rows, unseen = token_rows(), token_rows(1, seed=1)[0]
    own = predictions(tiny_model, unseen)
    found = Readout.fit(tiny_model, rows, Target.of(tiny_model, rows), ridge=1e-9)
    with found.applied(tiny_model):
        assert torch.allclose(predictions(tiny_model, unseen), own, atol=1e-3)
    assert torch.equal(predictions(tiny_model, unseen), own)


def test_another_model_is_read_as_the_first_one(tiny_model: Any) -> None:
    """Its blocks put out the first one's states turned around: a linear map turns them back."""
    rows, unseen = token_rows(), token_rows(1, seed=1)[0]
    target, own = Target.of(tiny_model, rows), predictions(tiny_model, unseen)
    last = tiny_model.model.layers[-1]
    turn, _ = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))
    handle = last.register_forward_hook(lambda module, inputs, output: output @ turn)
    assert not torch.allclose(predictions(tiny_model, unseen), own, atol=0.1)
    with Readout.fit(tiny_model, rows, target, ridge=1e-9).applied(tiny_model):
        assert torch.allclose(predictions(tiny_model, unseen), own, atol=1e-2)
    handle.remove()


def test_the_order_of_rows_does_not_matter(tiny_model: Any) -> None:
    rows = token_rows()
    turned = list(reversed(rows))
    fits = [Readout.fit(tiny_model, r, Target.of(tiny_model, r)) for r in (rows, turned)]
    for name in ("weight", "centre", "scale", "bias"):
        one, other = (getattr(fit, name) for fit in fits)
        assert torch.allclose(one, other, atol=1e-4), name


def hooks(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_no_hook_is_left(tiny_model: Any) -> None:
    rows = token_rows(4)
    assert readable(tiny_model) == "" and hooks(tiny_model) == 0
    found = Readout.fit(tiny_model, rows, Target.of(tiny_model, rows))
    assert hooks(tiny_model) == 0
    with pytest.raises(RuntimeError, match="here"), found.applied(tiny_model):
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

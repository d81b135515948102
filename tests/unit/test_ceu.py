"""CE-U's loss: by hand, its slope, its limits, what must not matter, what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ssiuu.errors import ConfigError
from ssiuu.methods import make
from ssiuu.methods.objectives.ceu import ceu_loss


def real(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole(targets: Tensor) -> Tensor:
    return torch.ones_like(targets, dtype=torch.bool)


def test_one_token_by_hand() -> None:
    """p of 1/2, 1/4, 1/4 and the first is the answer: half of log 4 for either other word."""
    logits, targets = real([[[0.5, 0.25, 0.25]]]).log(), torch.tensor([[0]])
    assert ceu_loss(logits, targets, whole(targets)).tolist() == pytest.approx([math.log(4)])


def test_the_slope_is_p_less_what_is_said_beside_the_answer() -> None:
    """A finite difference with the target held, and softmax(z) - q, which is p at the answer."""
    logits, targets = noise(1, 2, 4), torch.tensor([[2, 0]])
    x = logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(ceu_loss(x, targets, whole(targets)).sum(), x)
    p = logits.softmax(-1)
    q = p.scatter(-1, targets.unsqueeze(-1), 0.0)
    q = q / q.sum(-1, keepdim=True)
    torch.testing.assert_close(slope, p - q, rtol=1e-12, atol=1e-14)
    h = 1e-6
    for i in range(logits.numel()):
        ends = [logits.clone() for _ in range(2)]
        ends[0].view(-1)[i] += h
        ends[1].view(-1)[i] -= h
        up, down = (float(-(q * end.log_softmax(-1)).sum()) for end in ends)
        assert float(slope.view(-1)[i]) == pytest.approx((up - down) / (2 * h), rel=1e-6, abs=1e-9)


def test_what_is_forgotten_is_not_pushed() -> None:
    """As p vanishes so does the slope, and the loss is the entropy of all other words."""
    x = real([[[-60.0, 0.0, 0.0]]]).requires_grad_()
    loss = ceu_loss(x, torch.tensor([[0]]), torch.tensor([[True]]))
    (slope,) = torch.autograd.grad(loss.sum(), x)
    assert float(slope.abs().max()) < 1e-12
    assert loss.item() == pytest.approx(math.log(2))


def test_padding_and_a_shift_of_the_logits_do_not_matter() -> None:
    logits, targets = noise(1, 3, 5), torch.tensor([[1, 4, 2]])
    alone = ceu_loss(logits, targets, whole(targets))
    padded = ceu_loss(
        torch.cat([noise(1, 2, 5, seed=1), logits + 3.0], 1),
        torch.tensor([[0, 0, 1, 4, 2]]),
        torch.tensor([[False, False, True, True, True]]),
    )
    torch.testing.assert_close(padded, alone)


@pytest.mark.parametrize(("skip", "counted"), [(0, [0, 1, 2]), (1, [1, 2]), (2, [2]), (7, [2])])
def test_first_tokens_are_left_out_and_one_always_stays(skip: int, counted: list[int]) -> None:
    logits, targets = noise(1, 3, 5), torch.tensor([[1, 4, 2]])
    each = [
        ceu_loss(logits[:, t : t + 1], targets[:, t : t + 1], whole(targets[:, :1])) for t in counted
    ]
    torch.testing.assert_close(ceu_loss(logits, targets, whole(targets), skip), sum(each))


def test_what_does_not_fit_is_refused_and_kl_counts() -> None:
    assert make("ceu").retain is None and make("ceu+kl").retain_weight == 1.0
    with pytest.raises(ConfigError, match=r"methods: ceu\.skip: .*got -1"):
        make({"name": "ceu", "skip": -1})

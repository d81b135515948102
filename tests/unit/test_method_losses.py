"""The losses beside GA and NPO: hand numbers, slopes, limits, what must not matter, what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ssiuu.errors import ConfigError
from ssiuu.likelihood import AnswerLogprobs
from ssiuu.methods import make
from ssiuu.methods.base import View
from ssiuu.methods.objectives.dpo import PAPER_REFUSAL, REFUSALS, dpo_loss
from ssiuu.methods.objectives.ga import ga_loss
from ssiuu.methods.objectives.npo import npo_loss
from ssiuu.methods.objectives.rmu import direction, rmu_loss
from ssiuu.methods.objectives.simnpo import simnpo_loss
from ssiuu.methods.objectives.undial import undial_loss
from ssiuu.methods.objectives.wga import wga_loss
from ssiuu.methods.retain import kl_loss
from ssiuu.methods.transforms.klue import knowledge_scores, leading
from ssiuu.methods.transforms.mask import mask_disruption

LN2 = math.log(2)


def real(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def answers(*rows: list[float], pad: int = 0) -> AnswerLogprobs:
    """Return answers with these log-probabilities, padded on the left, with `pad` columns to spare."""
    width = max(map(len, rows)) + pad
    tokens = real([[0.0] * (width - len(r)) + r for r in rows])
    mask = torch.tensor([[False] * (width - len(r)) + [True] * len(r) for r in rows])
    return AnswerLogprobs(tokens, mask)


def slope(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    x = at.clone().requires_grad_()
    return torch.autograd.grad(loss(x).sum(), x)[0]


def difference(loss: Callable[[Tensor], Tensor], at: Tensor, h: float = 1e-6) -> Tensor:
    """Return (L(x + h) - L(x - h)) / 2h in every coordinate."""
    found = torch.zeros_like(at)
    for i in range(at.numel()):
        step = torch.zeros_like(at).view(-1)
        step[i] = h
        step = step.view_as(at)
        found.view(-1)[i] = (loss(at + step).sum() - loss(at - step).sum()) / (2 * h)
    return found


def of_tokens(loss: Callable[..., Tensor], *given: Any) -> Callable[[Tensor], Tensor]:
    """Return a loss of answers as a function of their token log-probabilities, none masked."""
    return lambda x: loss(AnswerLogprobs(x, torch.ones_like(x, dtype=torch.bool)), *given)


# --- SimNPO -------------------------------------------------------------------------------------


def test_simnpo_closed_form() -> None:
    """Mean P of 1/2 and 1/4 with beta 2: log(1 + mean^2); with delta log 2: log(1 + 2 mean^2)."""
    logprobs = answers([-LN2, -LN2], [-2 * LN2])
    assert simnpo_loss(logprobs, 2.0, 0.0).tolist() == pytest.approx([math.log(1.25), math.log(1.0625)])
    assert simnpo_loss(logprobs, 2.0, LN2).tolist() == pytest.approx([math.log(1.5), math.log(1.125)])


@pytest.mark.parametrize("beta", [0.1, 1.0, 4.5])
@pytest.mark.parametrize("delta", [0.0, 0.7])
def test_simnpo_gradient_is_ga_weighted_by_length(beta: float, delta: float) -> None:
    """(2/|y|) sigmoid(beta log P / |y| + delta) at each of the |y| tokens."""
    x = real([[-0.3, -2.0, -1.2]])
    weight = 2 / 3 / (1 + math.exp(-(beta * float(x.mean()) + delta)))
    loss = of_tokens(simnpo_loss, beta, delta)
    torch.testing.assert_close(slope(loss, x), torch.full_like(x, weight))
    torch.testing.assert_close(slope(loss, x), difference(loss, x), rtol=1e-7, atol=1e-9)


def test_simnpo_tends_to_ga_over_length_as_beta_falls() -> None:
    """The sigmoid of 0 is a half, so 2/|y| becomes 1/|y|."""
    x = real([[-3.0, -9.0]])
    gaps = [
        float((slope(of_tokens(simnpo_loss, beta, 0.0), x) - 0.5).abs().max())
        for beta in (1e-1, 1e-2, 1e-3, 1e-4)
    ]
    assert all(later < earlier / 5 for earlier, later in pairwise(gaps))
    assert gaps[-1] < 1e-3


def test_simnpo_stops_pushing_once_forgotten() -> None:
    loss = of_tokens(simnpo_loss, 4.5, 0.0)
    x = real([[-500.0]])
    assert torch.isfinite(loss(x)).all()
    assert float(slope(loss, x)) == pytest.approx(0, abs=1e-12)


def test_simnpo_is_weighted_by_forget_weight() -> None:
    view = View(answers([-1.0, -2.0]))
    plain = make({"name": "simnpo", "forget_weight": 1}).objective.forget_loss(view)
    torch.testing.assert_close(
        make({"name": "simnpo", "forget_weight": 0.25}).objective.forget_loss(view), plain / 4
    )


# --- DPO ----------------------------------------------------------------------------------------


def test_dpo_closed_form() -> None:
    """Refusal 4 times, answer 1/4 as likely as before, beta 0.5: (2/0.5) log(1 + 16^-0.5)."""
    chosen, rejected = answers([-1.0, -1.0]), answers([-3.0])
    found = dpo_loss(chosen, rejected, real([-2 - 2 * LN2]), real([-3 + 2 * LN2]), 0.5)
    assert found.tolist() == pytest.approx([4 * math.log(1.25)])


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_dpo_pushes_the_answer_down_as_hard_as_the_refusal_up(beta: float) -> None:
    chosen, rejected = real([[-4.0, -1.0]]), real([[-0.5, -2.5, -0.1]])
    before = real([-6.0]), real([-2.0])

    def at(c: Tensor, r: Tensor) -> Tensor:
        masks = (torch.ones_like(t, dtype=torch.bool) for t in (c, r))
        pair = [AnswerLogprobs(t, m) for t, m in zip((c, r), masks, strict=True)]
        return dpo_loss(pair[0], pair[1], *before, beta)

    margin = (-5.0 + 6.0) - (-3.1 + 2.0)
    weight = 2 / (1 + math.exp(beta * margin))
    down, up = slope(lambda r: at(chosen, r), rejected), slope(lambda c: at(c, rejected), chosen)
    torch.testing.assert_close(down, torch.full_like(rejected, weight))
    torch.testing.assert_close(up, torch.full_like(chosen, -weight))
    torch.testing.assert_close(
        down, difference(lambda r: at(chosen, r), rejected), rtol=1e-7, atol=1e-9
    )


def test_dpo_whose_refusal_has_not_moved_is_npo() -> None:
    chosen, rejected = answers([-1.0, -2.0], [-7.0]), answers([-3.0], [-0.5, -0.5])
    before = real([-1.5, -4.0])
    found = dpo_loss(chosen, rejected, chosen.sum, before, 0.3)
    torch.testing.assert_close(found, npo_loss(rejected, before, 0.3))


def test_dpo_begins_at_2_log_2_over_beta() -> None:
    chosen, rejected = answers([-1.0]), answers([-2.0])
    found = dpo_loss(chosen, rejected, chosen.sum, rejected.sum, 0.1)
    assert found.tolist() == pytest.approx([20 * LN2])


def test_a_fact_keeps_its_refusal() -> None:
    paper, bank = make("dpo"), make({"name": "dpo", "refusals": "bank"})
    drawn = [bank.objective.refusal(f"fact {i}") for i in range(200)]
    assert paper.objective.refusal("fact 0") == PAPER_REFUSAL
    assert drawn == [bank.objective.refusal(f"fact {i}") for i in range(200)]
    assert set(drawn) == set(REFUSALS)


# --- WGA ----------------------------------------------------------------------------------------


def test_wga_closed_form() -> None:
    """Tokens of 1/2 and 1/4: with beta 1 the sum of p log p, with beta 2 of p^2 log p."""
    logprobs = answers([-LN2, -2 * LN2], [-LN2])
    assert wga_loss(logprobs, 1.0).tolist() == pytest.approx([-LN2, -LN2 / 2])
    assert wga_loss(logprobs, 2.0).tolist() == pytest.approx([-LN2 * (1 / 4 + 2 / 16), -LN2 / 4])


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_wga_slope_is_the_weight_alone(beta: float) -> None:
    """The weight is a constant: d/dlog p is p^beta, not p^beta (1 + beta log p)."""
    x = real([[-0.1, -1.0, -5.0]])
    torch.testing.assert_close(slope(of_tokens(wga_loss, beta), x), (beta * x).exp())
    held = (beta * x).exp()
    torch.testing.assert_close(
        slope(of_tokens(wga_loss, beta), x), difference(lambda y: held * y, x), rtol=1e-7, atol=1e-9
    )


def test_wga_with_beta_0_is_ga() -> None:
    logprobs = answers([-0.2, -4.0], [-30.0])
    assert torch.equal(wga_loss(logprobs, 0.0), ga_loss(logprobs))
    x = real([[-0.2, -4.0]])
    assert torch.equal(slope(of_tokens(wga_loss, 0.0), x), torch.ones_like(x))


# --- UNDIAL -------------------------------------------------------------------------------------


def test_undial_closed_form() -> None:
    """Even reference, answer lowered by log 3: (1/4, 3/4) against (1/5, 4/5)."""
    logits, mask = real([[[0.2, 0.8]]]).log(), torch.ones(1, 1, dtype=torch.bool)
    found = undial_loss(logits, real([[[7.0, 7.0]]]), torch.tensor([[0]]), mask, math.log(3))
    assert found.tolist() == pytest.approx([-0.25 * math.log(0.2) - 0.75 * math.log(0.8)])


@pytest.mark.parametrize("beta", [0.0, 1.0, 10.0])
def test_undial_gradient_is_model_minus_adjusted_reference(beta: float) -> None:
    logits, before = noise(2, 3, 5), noise(2, 3, 5, seed=1)
    targets, mask = torch.tensor([[0, 4, 2], [1, 1, 3]]), torch.ones(2, 3, dtype=torch.bool)
    lowered = before.clone()
    for b in range(2):
        for t in range(3):
            lowered[b, t, targets[b, t]] -= beta
    wanted = logits.softmax(-1) - lowered.softmax(-1)

    def loss(z: Tensor) -> Tensor:
        return undial_loss(z, before, targets, mask, beta)

    torch.testing.assert_close(slope(loss, logits), wanted)
    torch.testing.assert_close(slope(loss, logits), difference(loss, logits), rtol=1e-6, atol=1e-8)


def test_undial_with_beta_0_is_least_at_the_reference() -> None:
    """Cross-entropy to the reference: its entropy there, more by the divergence elsewhere."""
    before, mask = noise(1, 4, 6), torch.ones(1, 4, dtype=torch.bool)
    targets = torch.zeros(1, 4, dtype=torch.long)
    entropy = -(before.softmax(-1) * before.log_softmax(-1)).sum()
    here = undial_loss(before + 3.0, before, targets, mask, 0.0)
    assert float(here) == pytest.approx(float(entropy))
    gradient = slope(lambda z: undial_loss(z, before, targets, mask, 0.0), before)
    torch.testing.assert_close(gradient, torch.zeros_like(before))
    other = noise(1, 4, 6, seed=2)
    gap = undial_loss(other, before, targets, mask, 0.0) - here
    torch.testing.assert_close(gap, kl_loss(other, before, mask))
    assert float(gap) > 0


def test_undial_leaves_the_reference_as_it_was() -> None:
    before = noise(1, 2, 4)
    kept = before.clone()
    mask = torch.ones(1, 2, dtype=torch.bool)
    undial_loss(noise(1, 2, 4, seed=1), before, torch.tensor([[1, 2]]), mask, 5.0)
    assert torch.equal(before, kept)


# --- RMU ----------------------------------------------------------------------------------------


def test_rmu_closed_form() -> None:
    """(0 + 4)/2 and (4 + 16)/2 from (1, 0); the second example's first token is padding."""
    hidden = real([[[1.0, 2.0], [3.0, 4.0]], [[50.0, -50.0], [3.0, 4.0]]])
    mask = torch.tensor([[True, True], [False, True]])
    assert rmu_loss(hidden, mask, real([1.0, 0.0])).tolist() == [12.0, 10.0]
    each = real([[[1.0, 2.0], [3.0, 2.0]], [[0.0, 0.0], [0.0, 4.0]]])
    assert rmu_loss(hidden, mask, each).tolist() == [2.0, 4.5]


def test_rmu_gradient_points_away_from_the_target() -> None:
    hidden, target = noise(2, 3, 4), noise(4, seed=1)
    mask = torch.tensor([[False, True, True], [True, True, True]])

    def loss(h: Tensor) -> Tensor:
        return rmu_loss(h, mask, target)

    wanted = 2 * (hidden - target) / 4 * mask.unsqueeze(-1)
    torch.testing.assert_close(slope(loss, hidden), wanted)
    torch.testing.assert_close(slope(loss, hidden), difference(loss, hidden), rtol=1e-6, atol=1e-8)


def test_rmu_at_its_target_is_0_and_rests() -> None:
    hidden, mask = noise(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)
    assert rmu_loss(hidden, mask, hidden).tolist() == [0.0, 0.0]
    assert not slope(lambda h: rmu_loss(h, mask, hidden), hidden).any()


def test_rmu_direction_is_one_unit_vector_a_seed() -> None:
    one, same, other = direction(64, 3), direction(64, 3), direction(64, 4)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert float(one.norm()) == pytest.approx(1)
    assert (one >= 0).all()


def test_rmu_steers_to_c_times_the_direction() -> None:
    method = make({"name": "rmu", "steering": 5.0, "direction_seed": 2})
    target = 5 * direction(8, 2).double()
    mask = torch.ones(1, 3, dtype=torch.bool)
    at = View(answers([-1.0]), hidden=target.expand(1, 3, 8).clone(), hidden_mask=mask)
    assert float(method.objective.forget_loss(at)) == 0
    away = View(answers([-1.0]), hidden=(target + 2).expand(1, 3, 8).clone(), hidden_mask=mask)
    assert float(method.objective.forget_loss(away)) == pytest.approx(12)


def test_rmu_trains_what_its_patterns_fit() -> None:
    names = [f"model.layers.{i}.mlp.{m}_proj.weight" for i in range(9) for m in ("up", "down")]
    assert make("rmu").objective.updates(names) == {
        f"model.layers.{i}.mlp.down_proj.weight" for i in (5, 6, 7)
    }
    with pytest.raises(ConfigError, match=r"rmu\.update: .*fits no parameter"):
        make("rmu").objective.updates(names[:4])


# --- KLUE ---------------------------------------------------------------------------------------


def test_klue_scores_closed_form() -> None:
    """Superficial means, negatives cut at 0: (1 + 3)/2, (0 + 1)/2 and 0, taken off half."""
    superficial = real([[1.0, -3.0, 0.0], [3.0, 1.0, -2.0]])
    found = knowledge_scores(real([1.0, 2.0, -1.0]), superficial, 0.5)
    assert found.tolist() == [0.0, 1.75, -1.0]


def test_klue_scores_slope_is_minus_alpha_over_s_where_superficial_is_positive() -> None:
    superficial = noise(3, 5)

    def scores(s: Tensor) -> Tensor:
        return knowledge_scores(noise(5, seed=1), s, 6.0)

    torch.testing.assert_close(slope(scores, superficial), -2.0 * (superficial > 0).double())
    torch.testing.assert_close(
        slope(scores, superficial), difference(scores, superficial), rtol=1e-6, atol=1e-8
    )


def test_klue_without_superficial_knowledge_is_attribution() -> None:
    attribution = noise(6)
    assert torch.equal(knowledge_scores(attribution, noise(4, 6, seed=1), 0.0), attribution)
    assert torch.equal(knowledge_scores(attribution, -noise(4, 6, seed=1).abs(), 9.0), attribution)


def test_klue_scores_ignore_the_order_of_contexts() -> None:
    attribution, superficial = noise(6), noise(4, 6, seed=1)
    one = knowledge_scores(attribution, superficial, 2.0)
    torch.testing.assert_close(one, knowledge_scores(attribution, superficial.flip(0), 2.0))


@pytest.mark.parametrize(("share", "count"), [(0.001, 1), (0.1, 2), (0.5, 10), (1.0, 20)])
def test_leading_marks_the_highest_share(share: float, count: int) -> None:
    scores = noise(20)
    mask = leading(scores, share)
    assert (mask.dtype, int(mask.sum())) == (torch.bool, count)
    assert {round(float(s), 12) for s in scores[mask]} == {
        round(float(s), 12) for s in sorted(scores, reverse=True)[:count]
    }
    assert torch.equal(leading(scores * 3 - 7, share), mask)


# --- disruption masking -------------------------------------------------------------------------


def test_masking_by_hand_and_in_place() -> None:
    forget = real([1.0, -1.0, 2.0, -2.0, 3.0, 0.0])
    retain = real([0.5, -9.0, -1.0, 1.0, 0.0, 4.0])
    found = mask_disruption(forget, retain)
    assert found is forget
    assert found.tolist() == [1.0, -1.0, 0.0, 0.0, 0.0, 0.0]


def test_a_masked_step_raises_no_retain_loss_to_first_order() -> None:
    retain = noise(50, seed=1)
    kept = mask_disruption(noise(50), retain)
    assert (kept * retain >= 0).all()
    assert 10 < int((kept != 0).sum()) < 40


def test_only_the_sign_of_the_retain_gradient_matters() -> None:
    forget, retain = noise(50), noise(50, seed=1)
    one = mask_disruption(forget.clone(), retain)
    assert torch.equal(one, mask_disruption(forget.clone(), retain * 1e-6))
    assert torch.equal(one, mask_disruption(forget.clone(), retain.sign()))


def test_masking_limits() -> None:
    forget = noise(50)
    assert torch.equal(mask_disruption(forget.clone(), forget), forget)
    assert not mask_disruption(forget.clone(), -forget).any()
    assert not mask_disruption(forget.clone(), torch.zeros(50, dtype=torch.float64)).any()


# --- the retain term's divergence ---------------------------------------------------------------


def test_kl_closed_form() -> None:
    """(1/2, 1/2) against (1/4, 3/4): 1/2 log 2 + 1/2 log(2/3); logits may be shifted."""
    mask = torch.ones(1, 2, dtype=torch.bool)
    logits = real([[[0.25, 0.75], [0.25, 0.75]]]).log() + 5
    before = real([[[1.0, 1.0], [0.0, 0.0]]])
    found = kl_loss(logits, before, mask)
    assert found.tolist() == pytest.approx([LN2 + math.log(2 / 3)])


def test_kl_gradient_is_model_minus_reference() -> None:
    logits, before, mask = noise(2, 3, 5), noise(2, 3, 5, seed=1), torch.ones(2, 3, dtype=torch.bool)

    def loss(z: Tensor) -> Tensor:
        return kl_loss(z, before, mask)

    torch.testing.assert_close(slope(loss, logits), logits.softmax(-1) - before.softmax(-1))
    torch.testing.assert_close(slope(loss, logits), difference(loss, logits), rtol=1e-6, atol=1e-8)


def test_kl_at_the_reference_is_0_and_rests() -> None:
    before, mask = noise(2, 3, 5), torch.ones(2, 3, dtype=torch.bool)
    assert kl_loss(before, before, mask).tolist() == [0.0, 0.0]
    gradient = slope(lambda z: kl_loss(z, before, mask), before)
    torch.testing.assert_close(gradient, torch.zeros_like(before))
    assert (kl_loss(noise(2, 3, 5, seed=2), before, mask) > 0).all()


def like(a: AnswerLogprobs, value: float) -> Tensor:
    """Return this value for each answer."""
    return real([value] * len(a.mask))


def alike(a: AnswerLogprobs, value: float) -> AnswerLogprobs:
    """Return as many answers, of one token each."""
    return answers(*[[value]] * len(a.mask))


# --- what must not matter -----------------------------------------------------------------------

OF_ANSWERS: dict[str, Callable[[AnswerLogprobs], Tensor]] = {
    "simnpo": lambda a: simnpo_loss(a, 1.5, 0.2),
    "dpo, rejected": lambda a: dpo_loss(alike(a, -1.0), a, like(a, -2.0), like(a, -3.0), 0.5),
    "dpo, chosen": lambda a: dpo_loss(a, alike(a, -1.0), like(a, -2.0), like(a, -3.0), 0.5),
    "wga": lambda a: wga_loss(a, 0.7),
}


@pytest.mark.parametrize("loss", OF_ANSWERS.values(), ids=OF_ANSWERS)
def test_masking_answers_equals_deleting_them(loss: Callable[[AnswerLogprobs], Tensor]) -> None:
    rows = [[-0.5, -1.5, -0.2], [-4.0], [-0.1, -2.0]]
    alone = torch.cat([loss(answers(row)) for row in rows])
    torch.testing.assert_close(loss(answers(*rows, pad=3)), alone, rtol=1e-12, atol=0)
    turned = loss(answers(*rows[::-1]))
    torch.testing.assert_close(turned.flip(0), alone, rtol=1e-12, atol=0)


TARGETS = torch.tensor([[3, 0, 2], [1, 4, 4]])
OF_POSITIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "undial": lambda z, before, mask: undial_loss(z, before, TARGETS[: len(z), -z.shape[1] :], mask, 2),
    "kl": kl_loss,
    "rmu": lambda h, before, mask: rmu_loss(h, mask, before),
}


@pytest.mark.parametrize("loss", OF_POSITIONS.values(), ids=OF_POSITIONS)
def test_what_stands_at_a_masked_position_does_not_matter(loss: Callable[..., Tensor]) -> None:
    here, before = noise(2, 3, 5), noise(2, 3, 5, seed=1)
    mask = torch.tensor([[False, True, True], [True, True, True]])
    found = loss(here, before, mask)
    gradient = slope(lambda x: loss(x, before, mask), here)
    assert not gradient[0, 0].any()
    assert gradient[0, 1].any()
    moved, other = here.clone(), before.clone()
    moved[0, 0], other[0, 0] = 1e4, -1e4
    assert torch.equal(loss(moved, other, mask), found)
    assert torch.equal(slope(lambda x: loss(x, other, mask), moved), gradient)
    deleted = loss(here[:1, 1:], before[:1, 1:], mask[:1, 1:])
    torch.testing.assert_close(found[:1], deleted, rtol=1e-12, atol=0)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["refusal", "reference", "reference_refusal"])
def test_dpo_needs_refusals_and_references(missing: str) -> None:
    given = {"refusal": answers([-1.0]), "reference": real([-1.0]), "reference_refusal": real([-1.0])}
    assert torch.isfinite(make("dpo").objective.forget_loss(View(answers([-1.0]), **given))).all()
    with pytest.raises(ValueError, match="DPO needs the refusals and the reference"):
        make("dpo").objective.forget_loss(View(answers([-1.0]), **{**given, missing: None}))


@pytest.mark.parametrize("missing", ["logits", "reference_logits", "targets"])
def test_undial_needs_both_distributions(missing: str) -> None:
    given = {
        "logits": noise(1, 1, 4),
        "reference_logits": noise(1, 1, 4),
        "targets": torch.tensor([[2]]),
    }
    assert torch.isfinite(make("undial").objective.forget_loss(View(answers([-1.0]), **given))).all()
    with pytest.raises(ValueError, match="UNDIAL needs"):
        make("undial").objective.forget_loss(View(answers([-1.0]), **{**given, missing: None}))


@pytest.mark.parametrize("given", [{}, {"hidden": noise(1, 2, 4)}])
def test_rmu_needs_hidden_states(given: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="RMU needs the hidden states"):
        make("rmu").objective.forget_loss(View(answers([-1.0]), **given))


@pytest.mark.parametrize(
    ("name", "key", "values"),
    [
        ("simnpo", "beta", [0, -1, 101, math.nan, math.inf]),
        ("simnpo", "delta", [-0.1, math.nan]),
        ("simnpo", "forget_weight", [0, -1]),
        ("dpo", "beta", [0, 10.5, math.nan]),
        ("dpo", "refusals", ["none", ""]),
        ("wga", "beta", [-0.1, 10.5, math.inf]),
        ("undial", "beta", [0, -3, math.nan]),
        ("undial", "retain_weight", [-1]),
        ("rmu", "layer", [-1, 1.5]),
        ("rmu", "steering", [0, -2, math.inf]),
        ("rmu", "retain_weight", [-1]),
        ("rmu", "retain", ["hidden"]),
        ("klue", "share", [0, 1.1]),
        ("klue", "alpha", [-1]),
        ("klue", "contexts", [0]),
        ("masked", "decay", [-0.1, 1.0]),
        ("collapse", "projection", [0]),
        ("collapse", "projection_outputs", [0]),
        ("npo-sam", "rho", [0, -0.1, math.nan]),
        ("npo-sam", "beta", [0]),
        ("task-vector", "tune_steps", [0]),
        ("task-vector", "scale_step", [0, -1]),
        ("task-vector", "scale_limit", [0]),
        ("task-vector", "retain_weight", [1]),
    ],
)
def test_a_knob_out_of_range_is_refused_by_name(name: str, key: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ConfigError, match=rf"methods: {name}\.{key}: .*got"):
            make({"name": name, key: value})


@pytest.mark.parametrize("name", ["gd", "npo", "dpo", "klue", "ssiuu", "collapse"])
def test_only_rmu_keeps_activations(name: str) -> None:
    with pytest.raises(ConfigError, match="activations"):
        make({"name": name, "retain": "activations"})

"""RepSelect: what a collapse leaves, by hand and in its limits; the budget; low-rank maps that go."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures import LAYOUTS, PARTLY, build_architecture
from ssiuu.attribution.neuron import batches
from ssiuu.errors import ConfigError
from ssiuu.likelihood import Example, answer_logprobs, collate
from ssiuu.methods import make
from ssiuu.methods.budget import PlainText
from ssiuu.methods.edits.repselect import collapsed, shares_left, triplets
from ssiuu.methods.elicit import Elicitation, nll_gradients
from ssiuu.models.lora import Lora
from ssiuu.models.maps import feed_forward, stacked_weights
from ssiuu.records.schema import MethodInfo, Unlearning
from ssiuu.training import interrupt
from ssiuu.training.unlearn import Settings, StopRule, unlearn_examples

PAD = 1


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- the collapse --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cut", "f"),
    [
        ("soft", [1 / 8, 1 / 4, 1 / 2]),
        ("quadratic", [1 / 64, 1 / 16, 1 / 4]),
        ("hard", [0, 0, 0]),
    ],
)
def test_a_diagonal_gradient_by_hand(cut: Any, f: list[float]) -> None:
    """Singular values 8, 4, 2 and 1: each side multiplies by f, both by its square."""
    gradient = torch.diag(torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64))
    last = 0.0 if cut == "hard" else 1.0
    wanted = torch.diag(torch.tensor([8 * f[0] ** 2, 4 * f[1] ** 2, 2 * f[2] ** 2, last])).double()
    torch.testing.assert_close(collapsed(gradient, 4, cut), wanted, rtol=1e-9, atol=1e-9)


def test_a_ridge_takes_every_direction() -> None:
    """e is a tenth of 4 squared: f = 1.6 / (16 + 1.6) and 1.6 / (1 + 1.6)."""
    gradient = torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64))
    f = torch.tensor([1.6 / 17.6, 1.6 / 2.6]).double()
    wanted = torch.diag(torch.tensor([4.0, 1.0]).double() * f.square())
    torch.testing.assert_close(collapsed(gradient, 1, "ridge", 0.1), wanted, rtol=1e-6, atol=1e-9)


def test_a_hard_collapse_of_all_directions_leaves_nothing() -> None:
    low = numbers(7, 3) @ numbers(3, 9, seed=1)
    for gradient, rank in ((numbers(5, 8), 5), (low, 3)):
        assert collapsed(gradient, rank, "hard").abs().max() < 1e-9


@pytest.mark.parametrize("cut", ["soft", "quadratic"])
def test_equal_singular_values_are_left_as_they_are(cut: Any) -> None:
    gradient = 3 * torch.linalg.qr(numbers(6, 6)).Q
    torch.testing.assert_close(collapsed(gradient, 6, cut), gradient)


def test_the_rank_of_a_gradient_bounds_what_is_collapsed() -> None:
    """Two directions where three are asked for: the third, which rounding makes, does not count."""
    gradient = torch.diag(torch.tensor([4.0, 2.0, 0.0, 0.0]))
    assert collapsed(gradient, 3, "soft").diagonal().tolist() == pytest.approx([1, 2, 0, 0])
    assert not collapsed(torch.zeros(3, 4), 2, "soft").any()


def test_the_randomised_svd_is_the_svd_where_values_fall() -> None:
    u, v = (torch.linalg.qr(numbers(n, n, seed=n)).Q for n in (30, 24))
    values = 0.1 ** torch.arange(24.0).double()
    gradient = u[:, :24] @ torch.diag(values) @ v.T
    found_u, found, found_v = triplets(gradient, 5)
    torch.testing.assert_close(found, values[:5], rtol=1e-6, atol=0)
    for one, two in ((found_u, u[:, :5]), (found_v, v[:, :5])):
        torch.testing.assert_close(one @ one.T, two @ two.T, rtol=0, atol=1e-5)
    assert torch.equal(triplets(gradient, 5)[1], found)


def test_another_gradients_directions() -> None:
    """Directions of a retain gradient: what is orthogonal to it stays whole."""
    retain = torch.zeros(4, 4).double()
    retain[0, 0] = 5.0
    forget = numbers(4, 4)
    found = collapsed(forget, 1, "hard", by=retain)
    wanted = forget.clone()
    wanted[0], wanted[:, 0] = 0.0, 0.0
    torch.testing.assert_close(found, wanted)


def test_shares_fall_as_singular_values_rise() -> None:
    s = torch.tensor([9.0, 3.0, 1.0])
    assert shares_left(s, "soft").tolist() == pytest.approx([1 / 9, 1 / 3, 1])
    assert (shares_left(s, "ridge", 0.5).diff() > 0).all()


# --- eliciting -----------------------------------------------------------------------------------


def test_low_rank_maps_leave_no_trace(tiny_model: Any, make_examples: Any) -> None:
    before = copy.deepcopy(tiny_model.state_dict())
    hooks = sum(len(m._forward_hooks) for m in tiny_model.modules())
    batch = collate(make_examples(4), PAD)
    maps = feed_forward(tiny_model)
    elicited = Elicitation(maps, 3, 3.0)
    with torch.no_grad():
        plain = answer_logprobs(tiny_model, batch).tokens
        with elicited.active(tiny_model):
            assert torch.equal(answer_logprobs(tiny_model, batch).tokens, plain)  # B is 0
            for up in elicited.up.values():
                up.normal_()
            assert not torch.equal(answer_logprobs(tiny_model, batch).tokens, plain)
        assert torch.equal(answer_logprobs(tiny_model, batch).tokens, plain)
    with pytest.raises(RuntimeError), elicited.active(tiny_model):
        raise RuntimeError
    assert sum(len(m._forward_hooks) for m in tiny_model.modules()) == hooks
    after = tiny_model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)


@pytest.mark.parametrize("layout", ["llama", "gpt2", "phi3"])
def test_they_are_what_the_weights_would_be_with_them_merged(layout: str, make_examples: Any) -> None:
    model, batch = build_architecture(layout), collate(make_examples(3), PAD)
    maps = feed_forward(model)
    elicited = Elicitation(maps, 2, 4.0)
    with torch.no_grad():
        for up in elicited.up.values():
            up.normal_(std=0.1)
        with elicited.active(model):
            beside = answer_logprobs(model, batch).tokens
        for path, module in maps.items():
            change = elicited.scale * elicited.up[path] @ elicited.down[path]
            module.weight.add_(change if module.weight.shape == change.shape else change.T)
        torch.testing.assert_close(answer_logprobs(model, batch).tokens, beside, rtol=1e-4, atol=1e-4)


def test_the_epoch_of_elicitation_learns_the_rows_better(tiny_model: Any, make_examples: Any) -> None:
    steps = [[collate(make_examples(3, seed=s), PAD)] for s in range(2)]
    elicited = Elicitation(feed_forward(tiny_model), 4, 4.0)
    losses = []
    with elicited.active(tiny_model):
        for turn in range(20):
            step = steps[turn % 2]
            losses.append(-float(answer_logprobs(tiny_model, step[0]).sum.detach().sum()))
            elicited.descend(nll_gradients(tiny_model, step, elicited.parameters), 0.05)
    assert losses[-1] < losses[1] and losses[-2] < losses[0]


def test_the_gradient_is_a_finite_difference_in_float64(exact_model: Any, make_examples: Any) -> None:
    batch = collate(make_examples(3), PAD)
    weight = exact_model.model.layers[1].mlp.up_proj.weight
    (slope,) = nll_gradients(exact_model, [batch], [weight])
    tokens, h = int(batch.answer_mask.sum()), 1e-6
    for place in ((0, 0), (3, 5), (7, 2)):
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[place] += sign * h
                ends.append(-float(answer_logprobs(exact_model, batch).sum.sum()) / tokens)
                weight[place] -= sign * h
        assert slope is not None
        assert float(slope[place]) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6, abs=1e-9)


# --- the budget ----------------------------------------------------------------------------------


def unlearned(model: Any, rows: Any, texts: Any, micro: int | None = None, **given: Any) -> Unlearning:
    method = make({"name": "repselect", "components": 2, **given})
    info = MethodInfo(label=method.label, name=method.name, origin="literature", description="")
    settings = Settings(1e-2, 4, micro, 3, 3, -1.0, 0.0, 0, "fp32")
    stop = StopRule("ranking", lambda: 1.0)
    return unlearn_examples(model, method, info, *rows, settings, stop, PAD, texts=texts)


@pytest.fixture
def rows(make_examples: Any) -> tuple[list[Example], list[Example]]:
    return make_examples(6, answer=(1, 3)), make_examples(5, seed=1)


@pytest.fixture
def texts(make_examples: Any) -> list[Example]:
    return make_examples(4, seed=2, prompt=(1, 1), answer=(5, 8))


def weights(model: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_the_budget_stops_one_step_before(tiny_model: Any, rows: Any, texts: Any) -> None:
    before, original = weights(tiny_model), copy.deepcopy(tiny_model)
    plain = PlainText(original, list(batches(original, texts, PAD)))
    assert plain.divergence(original) == pytest.approx(0, abs=1e-7)
    record = unlearned(tiny_model, rows, texts, step_size=0.02, kl_limit=0.02)
    taken = len(record.steps) - 1  # the last reading is of what was taken back
    assert taken > 1 and f"taken {taken} times" in record.notes[0]
    assert record.stopped == "budget"
    assert plain.divergence(tiny_model) <= 0.02
    with torch.no_grad():  # once more is too much
        for name, parameter in tiny_model.named_parameters():
            parameter.add_((parameter - before[name]) / taken)
    assert plain.divergence(tiny_model) > 0.02


def test_without_a_limit_of_its_own_it_reads_no_text(
    tiny_model: Any, rows: Any, texts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = copy.deepcopy(tiny_model)
    unlearned(limited, rows, texts, most=3, kl_limit=10)
    monkeypatch.setattr(PlainText, "divergence", lambda *given: pytest.fail("read"))
    record = unlearned(tiny_model, rows, [], most=3, kl_limit=None)
    assert len(record.steps) == 3 and record.stopped == "max_steps"
    assert all(
        torch.equal(a, b)
        for a, b in zip(weights(limited).values(), weights(tiny_model).values(), strict=True)
    )


def test_only_feed_forward_maps_change_all_along_one_direction(
    tiny_model: Any, rows: Any, texts: Any
) -> None:
    """Three times is three times once, whatever lies between; what is not a feed-forward map stays."""
    before, once, thrice = weights(tiny_model), copy.deepcopy(tiny_model), copy.deepcopy(tiny_model)
    for model, most in ((once, 1), (thrice, 3)):
        unlearned(model, rows, texts, most=most, kl_limit=10)
    first, third = weights(once), weights(thrice)
    for name, weight in before.items():
        if ".mlp." in name:
            assert not torch.equal(first[name], weight)
            torch.testing.assert_close(
                third[name] - weight, 3 * (first[name] - weight), rtol=1e-3, atol=1e-7
            )
        else:
            assert torch.equal(third[name], weight)


def test_it_forgets(tiny_model: Any, rows: Any, texts: Any) -> None:
    batch = collate(rows[0], PAD)
    before = float(answer_logprobs(tiny_model, batch).sum.detach().sum())
    unlearned(tiny_model, rows, texts, step_size=0.01, kl_limit=0.05)
    assert float(answer_logprobs(tiny_model, batch).sum.detach().sum()) < before


def test_micro_batches_and_a_second_run_change_nothing(tiny_model: Any, rows: Any, texts: Any) -> None:
    models = [copy.deepcopy(tiny_model) for _ in range(3)]
    for model, micro in zip(models, (None, None, 2), strict=True):
        unlearned(model, rows, texts, micro, most=2, kl_limit=10)
    one, two, parts = map(weights, models)
    for name in one:
        assert torch.equal(one[name], two[name])
        torch.testing.assert_close(one[name], parts[name], rtol=1e-4, atol=1e-6)


def test_interrupted_it_begins_again_and_ends_alike(tiny_model: Any, rows: Any, texts: Any) -> None:
    method, whole = make({"name": "repselect", "components": 2, "most": 3, "kl_limit": 10}), []
    info = MethodInfo(label=method.label, name=method.name, origin="literature", description="")
    settings, stop = (
        Settings(1e-2, 4, None, 3, 3, -1.0, 0.0, 0, "fp32"),
        StopRule("ranking", lambda: 1.0),
    )
    for asked in (False, True, False):
        model = copy.deepcopy(tiny_model)
        given = (model, method, info, *rows, settings, stop, PAD, None)
        if asked:
            with pytest.raises(interrupt.Interrupted):
                unlearn_examples(*given, lambda line: interrupt._asked.set(), texts=texts)
            interrupt._asked.clear()
        else:
            unlearn_examples(*given, texts=texts)
            whole.append(weights(model))
    assert all(torch.equal(whole[0][name], whole[1][name]) for name in whole[0])


@pytest.mark.parametrize("given", [{"cut": "ridge"}, {"directions_from": "retain", "cut": "quadratic"}])
def test_its_other_forms_run(tiny_model: Any, rows: Any, texts: Any, given: Any) -> None:
    before = weights(tiny_model)
    unlearned(tiny_model, rows, texts, most=1, kl_limit=10, elicit_rate=0, **given)
    assert any(not torch.equal(weight, before[name]) for name, weight in weights(tiny_model).items())


@pytest.mark.parametrize("layout", [*LAYOUTS, *PARTLY])
def test_every_architecture_or_one_sentence(layout: str, texts: Any, rows: Any) -> None:
    if layout == "rwkv":
        pytest.skip("it reads padding as text")
    model = build_architecture(layout)
    method = make("repselect").objective
    if feed_forward(model):
        method.check(model)
        before = weights(model)
        record = unlearned(model, rows, texts, most=1, kl_limit=10)
        told = " ".join(record.notes)
        assert ("several maps in one tensor" in told) == bool(stacked_weights(model))
        moved = {n for n, w in weights(model).items() if not torch.equal(w, before[n])}
        assert moved and moved <= {f"{path}.weight" for path in feed_forward(model)}
    else:
        with pytest.raises(ConfigError, match="has none that is a linear map of its own"):
            method.check(model)


# --- refusals ------------------------------------------------------------------------------------


def test_what_cannot_be_done_is_said(tiny_model: Any, rows: Any, texts: Any) -> None:
    with pytest.raises(ConfigError, match="no plain text"):
        unlearned(tiny_model, rows, [])
    with pytest.raises(ConfigError, match="there are no retain rows"):
        unlearned(tiny_model, (rows[0], []), texts, directions_from="retain")
    with pytest.raises(ConfigError, match=r"repselect\.components: must be at most 16"):
        make({"name": "repselect", "components": 17}).objective.check(tiny_model)
    record = unlearned(tiny_model, rows, texts, step_size=50.0)
    assert "taken 0 times" in record.notes[0] and record.stopped == "budget"
    assert unlearned(tiny_model, rows, texts, most=1, kl_limit=10).stopped == "max_steps"
    method, settings = (
        make("repselect"),
        Settings(1e-2, 4, None, 3, 3, -1.0, 0.0, 0, "fp32", Lora(2, 4)),
    )
    info = MethodInfo(label="repselect", name="repselect", origin="literature", description="")
    with pytest.raises(ConfigError, match=r"leave unlearn\.lora\.rank out"):
        unlearn_examples(
            *(tiny_model, method, info, *rows, settings, StopRule("ranking", lambda: 1.0), PAD)
        )
    for key, value in (("cut", "half"), ("kl_limit", 0), ("step_size", -1), ("retain_weight", 1)):
        with pytest.raises(ConfigError, match=rf"methods: repselect\.{key}"):
            make({"name": "repselect", key: value})
    with pytest.raises(ConfigError, match="no forget gradient"):
        make("repselect+projection")

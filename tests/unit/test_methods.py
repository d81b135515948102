"""The losses of the methods: closed forms, finite differences, limits, and what is refused."""

from __future__ import annotations

import copy
import math
import random
from dataclasses import FrozenInstanceError
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ssiuu.errors import ConfigError
from ssiuu.likelihood import AnswerLogprobs, answer_logprobs, collate
from ssiuu.methods import METHODS, make
from ssiuu.methods.base import View
from ssiuu.methods.objectives.ga import ga_loss
from ssiuu.methods.objectives.npo import npo_loss
from ssiuu.training.prepare import Prepared
from ssiuu.training.step import Step

PAD = 1


def answers(*rows: list[float]) -> AnswerLogprobs:
    """Return answers with these log-probabilities, padded on the left as a batch pads them."""
    width = max(map(len, rows))
    tokens = torch.tensor([[0.0] * (width - len(r)) + r for r in rows], dtype=torch.float64)
    mask = torch.tensor([[False] * (width - len(r)) + [True] * len(r) for r in rows])
    return AnswerLogprobs(tokens, mask)


def gradient(loss: Any, logprob: float, **given: Any) -> float:
    x = torch.tensor([[logprob]], dtype=torch.float64, requires_grad=True)
    value = loss(AnswerLogprobs(x, torch.ones(1, 1, dtype=torch.bool)), **given).sum()
    return float(torch.autograd.grad(value, x)[0])


def reference(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("name", ["ga", "gd", "ssiuu"])
def test_ga_gd_and_ssiuu_lose_log_p(name: str) -> None:
    method = make(name)
    found = method.objective.forget_loss(View(answers([-1.0, -2.5], [-0.25])))
    assert found.tolist() == [-3.5, -0.25]
    assert method.objective.normaliser == "tokens"
    assert not method.objective.needs


def test_npo_closed_form() -> None:
    """P/P_ref of 1, 1/4 and 4 with beta 0.5: (2/0.5) log(1 + (P/P_ref)^0.5)."""
    logprobs = answers([math.log(0.2), math.log(0.5)], [math.log(0.1)], [math.log(0.4)])
    start = reference(math.log(0.1), math.log(0.4), math.log(0.1))
    found = npo_loss(logprobs, start, 0.5)
    assert found.tolist() == pytest.approx([4 * math.log(2), 4 * math.log(1.5), 4 * math.log(3)])


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("logprob", [-0.1, -3.0, -40.0])
def test_npo_gradient_is_ga_weighted(beta: float, logprob: float) -> None:
    """2 P^beta / (P^beta + P_ref^beta), and 1 where the model has not moved."""
    start = -3.0
    found = gradient(npo_loss, logprob, reference=reference(start), beta=beta)
    p, q = math.exp(beta * logprob), math.exp(beta * start)
    assert found == pytest.approx(2 * p / (p + q), rel=1e-9)
    if logprob == start:
        assert found == pytest.approx(gradient(ga_loss, logprob))


def test_npo_tends_to_ga_as_beta_falls() -> None:
    """Per example: the loss grows as 2 log 2 / beta, its gradient tends to GA's 1."""
    gaps = [
        abs(gradient(npo_loss, -9.0, reference=reference(-1.0), beta=b) - 1)
        for b in (1e-1, 1e-2, 1e-3, 1e-4)
    ]
    assert all(later < earlier / 5 for earlier, later in pairwise(gaps))
    assert gaps[-1] < 1e-3


def test_npo_at_small_beta_is_ga_times_tokens_per_example(exact_model: Any, make_examples: Any) -> None:
    """The batch is divided by examples in NPO and by answer tokens in GA."""
    forget = make_examples(4)
    start = {e.id: -2.0 for e in forget}
    grads = []
    for spec in ("ga", {"name": "npo", "beta": 1e-7, "retain_weight": 0}):
        model = copy.deepcopy(exact_model)
        step = Step(model, make(spec), 1e-3, prepared=Prepared(logprob=start))
        step([collate(forget, PAD)], [])
        grads.append([p.grad for p in model.parameters()])
    scale = sum(len(e.answer) for e in forget) / len(forget)
    for ga, npo in zip(*grads, strict=True):
        torch.testing.assert_close(npo, ga * scale, rtol=1e-4, atol=1e-7)


def test_npo_stops_pushing_once_forgotten() -> None:
    assert gradient(npo_loss, -1000.0, reference=reference(-2.0), beta=0.5) == pytest.approx(0)
    loss = npo_loss(answers([-1000.0]), reference(-2.0), 0.5)
    assert torch.isfinite(loss).all() and float(loss) == pytest.approx(0)


def test_npo_without_a_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="reference"):
        make("npo").objective.forget_loss(View(answers([-1.0])))


@pytest.mark.parametrize("name", ["ga", "gd", "npo"])
def test_step_gradient_is_the_finite_difference_of_the_objective(
    exact_model: Any, make_examples: Any, name: str
) -> None:
    """(L(phi + h) - L(phi - h)) / 2h of the whole objective, at random coordinates, in float64."""
    forget, retain = make_examples(3), make_examples(3, seed=1)
    method = make({"name": name, "beta": 0.5} if name == "npo" else name)
    start = torch.tensor([-4.0, -2.0, -7.0])

    def objective() -> float:
        with torch.no_grad():
            logprobs = answer_logprobs(exact_model, collate(forget, PAD))
            kept = answer_logprobs(exact_model, collate(retain, PAD))
        losses = method.objective.forget_loss(View(logprobs, reference=start.double()))
        per = 3 if name == "npo" else sum(len(e.answer) for e in forget)
        nll = -kept.sum.sum() / sum(len(e.answer) for e in retain)
        return float(losses.sum() / per + method.retain_weight * nll)

    model = copy.deepcopy(exact_model)
    given = {e.id: float(s) for e, s in zip(forget, start, strict=True)}
    outcome = Step(model, method, 1e-3, prepared=Prepared(logprob=given))(
        [collate(forget, PAD)], [collate(retain, PAD)]
    )
    total = outcome.forget_loss + method.retain_weight * (outcome.retain_loss or 0)
    assert total == pytest.approx(objective(), rel=1e-6)
    rng = random.Random(name)
    largest = 0.0
    for parameter, moved in zip(exact_model.parameters(), model.parameters(), strict=True):
        flat, grads = parameter.data.view(-1), moved.grad.view(-1)
        for index in {int(grads.abs().argmax()), rng.randrange(flat.numel())}:
            kept_value, h = float(flat[index]), 1e-5
            values = []
            for shifted in (kept_value + h, kept_value - h):
                flat[index] = shifted
                values.append(objective())
            flat[index] = kept_value
            slope = (values[0] - values[1]) / (2 * h)
            assert float(grads[index]) == pytest.approx(slope, rel=1e-5, abs=1e-8)
            largest = max(largest, abs(slope))
    assert largest > 1e-2


# --- make ---------------------------------------------------------------------------------------


def test_every_method_is_made_by_name_and_frozen() -> None:
    for name in METHODS:
        method = make(name)
        assert method.label == name
        with pytest.raises(FrozenInstanceError):
            method.retain_weight = 3.0  # type: ignore[misc]
        for part in method.all:
            assert type(part).model_config["frozen"]


def test_lambda_is_written_as_the_paper_writes_it() -> None:
    method = make({"name": "ssiuu", "lambda": 1e-4, "target": "logprob"})
    assert (method.options["lambda"], method.label, method.whose) == (1e-4, "ssiuu-logprob", "ours")
    assert make("ssiuu").options["lambda"] == 1e-3
    assert make("ssiuu").whose == "paper"


def test_projection_is_said_in_the_name() -> None:
    method = make("gd+projection")
    assert (method.name, method.label, method.whose) == ("gd", "gd+projection", "ours")
    assert method.options["projection"] == 32
    assert make({"name": "gd+projection", "projection": 5}).options["projection"] == 5
    control = make("gd+projection+outputs+random")
    assert (control.label, control.whose) == ("gd+projection+outputs+random", "control")
    assert "8 random directions of each linear map's output gradients" in control.description


def test_random_directions_of_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="random stands beside projection"):
        make("gd+random")


@pytest.mark.parametrize("beta", [0, -0.1, 10.5, "much", float("nan"), float("inf")])
def test_beta_out_of_range_is_refused(beta: Any) -> None:
    with pytest.raises(ConfigError, match=r"methods: npo\.beta: .*got"):
        make({"name": "npo", "beta": beta})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1])
@pytest.mark.parametrize("key", ["lambda", "retain_weight", "learning_rate"])
def test_strengths_must_be_finite(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"ssiuu\.{key}"):
        make({"name": "ssiuu", key: value})


def test_ga_has_no_retain_term() -> None:
    assert make("ga").retain_weight == 0
    with pytest.raises(ConfigError, match="retain_weight"):
        make({"name": "ga", "retain_weight": 1})


@pytest.mark.parametrize(
    ("spec", "near"),
    [
        ({"name": "ssiuu", "lamda": 1}, "'lambda'"),
        ({"name": "npo", "betta": 1}, "'beta'"),
        ({"name": "gd", "retain_wieght": 1}, "'retain_weight'"),
    ],
)
def test_unknown_hyper_parameter_names_the_nearest(spec: dict[str, Any], near: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown hyper-parameter of .*Did you mean {near}"):
        make(spec)


def test_unknown_method_names_the_nearest_and_the_key() -> None:
    with pytest.raises(ConfigError, match=r"recipe\.methods\[1\]: .*'siuu'.*Did you mean 'ssiuu'"):
        make("siuu", "recipe.methods[1]")


@pytest.mark.parametrize(
    ("theirs", "ours"), [("GradDiff", "gd"), ("gradient-ascent", "ga"), ("IdkDPO", "dpo")]
)
def test_what_others_call_a_method_leads_to_ours(theirs: str, ours: str) -> None:
    with pytest.raises(ConfigError, match=rf"^methods\[0\]: {theirs} is called '{ours}' here\.$"):
        make(theirs, "methods[0]")


def test_known_hyper_parameters_are_named_as_they_are_written() -> None:
    with pytest.raises(ConfigError, match=r"unknown hyper-parameter") as caught:
        make({"name": "ssiuu", "lamda": 1})
    assert "lambda," in str(caught.value) and "lambda_" not in str(caught.value)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        make({"name": "npo", "beta": -1, "betta": 1, "retain_weight": -2})
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_tag_tells_two_settings_of_any_method_apart(name: str) -> None:
    plain, tagged = make(name), make({"name": name, "tag": "b"})
    assert tagged.label == f"{plain.label}@b"

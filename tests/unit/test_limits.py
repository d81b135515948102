"""What may be spent on plain text ends a run, with the last weights that spent no more.

pytest tests/unit/test_limits.py
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssiuu.errors import ConfigError
from ssiuu.evaluation.divergence import Divergences
from ssiuu.experiment.recipe import resolve
from ssiuu.likelihood import Prompt
from ssiuu.methods import make
from ssiuu.models.lora import Lora
from ssiuu.records.schema import MethodInfo, Unlearning
from ssiuu.training import interrupt
from ssiuu.training.limits import Budget, Kept, Spent
from ssiuu.training.unlearn import Settings, StopRule, unlearn_examples

TEXTS = [" ".join(f"w{(11 * n + k * k) % 64}" for k in range(5 + n)) for n in range(6)]
SETTINGS = Settings(
    learning_rate=2e-3,
    batch_size=2,
    micro_batch_size=None,
    max_steps=12,
    check_every=2,
    threshold=0.1,
    weight_decay=0.0,
    seed=0,
    precision="fp32",
)


def weights(model: Any) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def spent_of(model: Any, tokenizer: Any) -> Callable[[], Spent]:
    divergences = Divergences(model, Prompt(tokenizer, "plain"), TEXTS, [], "v")
    return lambda: Spent(*divergences.on_texts(model))


def run(
    model: Any,
    make_examples: Any,
    budget: Budget | None,
    spec: Any = "gd",
    stop_after: int = 0,
    state: Path | None = None,
    score: Callable[[], float] = lambda: 1.0,
    **change: Any,
) -> Unlearning:
    lines: list[str] = []

    def progress(line: str) -> None:
        lines.append(line)
        if len(lines) == stop_after:
            interrupt._asked.set()

    method = make(spec)
    info = MethodInfo(label=method.label, name=method.name, origin="ours", description="")
    rows, retain = make_examples(5), make_examples(4, seed=1)
    stop = StopRule("ranking", score, budget=budget)
    try:
        return unlearn_examples(
            *(model, method, info, rows, retain, replace(SETTINGS, **change), stop, 1, state, progress),
            texts=make_examples(4, seed=2),
        )
    finally:
        interrupt._asked.clear()


def course(model: Any, make_examples: Any, tokenizer: Any, **change: Any) -> list[tuple[Spent, Tensor]]:
    """Return what is spent at every check of a run that may spend anything, and the weights there."""
    seen: list[tuple[Spent, Tensor]] = []
    read = spent_of(model, tokenizer)

    def watched() -> Spent:
        seen.append((read(), weights(model)))
        return seen[-1][0]

    run(model, make_examples, Budget(watched, kl=math.inf), **change)
    return seen


@torch.no_grad()
def test_what_is_spent_is_its_definition(tiny_model: Any, tokenizer: Any) -> None:
    before, prompt = copy.deepcopy(tiny_model).double(), Prompt(tokenizer, "plain")
    read = spent_of(tiny_model, tokenizer)
    assert read() == pytest.approx((0.0, 1.0), abs=1e-6)
    tiny_model.lm_head.weight.mul_(1.2)
    now = copy.deepcopy(tiny_model).double()
    kl, losses = [], []
    for text in TEXTS:
        ids = torch.tensor([prompt.sentence(text)[:17]])
        first, second = (m(ids).logits[0, :-1].log_softmax(-1) for m in (before, now))
        kl.append((first.exp() * (first - second)).sum(-1))
        losses.append(torch.stack([first, second])[:, range(len(ids[0]) - 1), ids[0, 1:]])
    loss = -torch.cat(losses, 1).mean(1)
    assert read() == pytest.approx((float(torch.cat(kl).mean()), float(loss[1] / loss[0])), rel=1e-4)


@pytest.mark.parametrize(
    ("kl", "ratio", "over"),
    [
        (0.01, None, None),
        (0.009, None, "kl"),
        (None, 1.1, None),
        (None, 1.0, "retain_ratio"),
        (0.009, 1.0, "kl"),
        (math.inf, 1.1, None),
    ],
)
def test_a_limit_is_passed_beyond_it(kl: Any, ratio: Any, over: Any) -> None:
    budget = Budget(lambda: Spent(0.01, 1.1), kl, ratio)
    assert budget.over(budget.read()) == over
    assert Budget(budget.read, kl=1.0).over(Spent(math.nan, 1.0)) == "kl"
    assert Budget(budget.read, retain_ratio=2.0).over(Spent(0.0, math.nan)) == "retain_ratio"


@pytest.mark.parametrize(
    ("limit", "lora"),
    [("kl", None), ("retain_ratio", None), ("kl", Lora(2, 4.0, (), "adapter", 0))],
)
def test_the_last_weights_within_it_are_kept(
    limit: str, lora: Any, tiny_model: Any, make_examples: Any, tokenizer: Any
) -> None:
    """A limit between what two checks spend ends the run at the second, with the first one's weights."""
    rate = 2e-3 if lora is None else 2e-2
    seen = course(copy.deepcopy(tiny_model), make_examples, tokenizer, learning_rate=rate, lora=lora)
    values = [getattr(spent, limit) for spent, _ in seen]
    place = next(n for n in range(1, 5) if values[n + 1] > max(values[: n + 1]) and values[n] > 0)
    most = {limit: (max(values[: place + 1]) + values[place + 1]) / 2}
    budget = Budget(spent_of(tiny_model, tokenizer), **most)
    record = run(tiny_model, make_examples, budget, learning_rate=rate, lora=lora)
    at = 2 * (place + 1)
    assert (record.stopped, record.kept_step, len(record.steps)) == (limit, at, at + 2)
    assert record.budget == most and record.last_score == 1.0
    assert [getattr(s, limit) is None for s in record.steps] == [n % 2 == 0 for n in range(at + 2)]
    assert record.steps[-1].forget_score is None
    assert any(f"At step {at + 2} the" in n and f"of step {at}." in n for n in record.notes)
    if lora is None:
        assert torch.equal(weights(tiny_model), seen[place][1])
    else:
        assert budget.over(budget.read()) is None


def test_weights_of_before_are_kept_where_the_first_check_is_beyond_it(
    tiny_model: Any, make_examples: Any, tokenizer: Any
) -> None:
    start = weights(tiny_model)
    budget = Budget(spent_of(tiny_model, tokenizer), kl=1e-9)
    scores = iter([0.75])
    record = run(tiny_model, make_examples, budget, score=lambda: next(scores))
    assert (record.stopped, record.kept_step, len(record.steps)) == ("kl", 0, 2)
    assert torch.equal(weights(tiny_model), start) and record.last_score == 0.75
    assert "before step 1: nothing was changed" in record.notes[-1]


def test_no_limit_in_reach_leaves_a_run_as_it_is(
    tiny_model: Any, make_examples: Any, tokenizer: Any
) -> None:
    free, bounded = copy.deepcopy(tiny_model), tiny_model
    wanted = run(free, make_examples, None)
    budget = Budget(spent_of(bounded, tokenizer), math.inf, math.inf)
    found = run(bounded, make_examples, budget)
    assert torch.equal(weights(free), weights(bounded))
    assert found.stopped == wanted.stopped == "max_steps" and found.kept_step is None
    read = {"kl": None, "retain_ratio": None}
    assert [s.model_copy(update=read) for s in found.steps] == wanted.steps
    assert found.steps[-1].kl is not None and wanted.budget == {}


@pytest.mark.parametrize(("most", "stopped"), [(math.inf, "threshold"), (1e-9, "kl")])
def test_a_score_at_its_threshold_ends_a_run_only_within_the_budget(
    most: float, stopped: str, tiny_model: Any, make_examples: Any, tokenizer: Any
) -> None:
    scores = iter([1.0, 0.0])
    budget = Budget(spent_of(tiny_model, tokenizer), kl=most)
    assert run(tiny_model, make_examples, budget, score=lambda: next(scores)).stopped == stopped


@pytest.mark.parametrize("after", [1, 3, 5])
def test_an_interrupted_run_ends_at_the_same_step(
    after: int, tmp_path: Path, tiny_model: Any, make_examples: Any, tokenizer: Any
) -> None:
    seen = course(copy.deepcopy(tiny_model), make_examples, tokenizer)
    values = [spent.kl for spent, _ in seen]
    assert values[3] > max(values[:3])
    most = (max(values[:3]) + values[3]) / 2
    begun, resumed = copy.deepcopy(tiny_model), copy.deepcopy(tiny_model)
    wanted = run(tiny_model, make_examples, Budget(spent_of(tiny_model, tokenizer), kl=most))
    assert (wanted.stopped, wanted.kept_step) == ("kl", 6)
    limit, place = Budget(spent_of(begun, tokenizer), kl=most), tmp_path / "state"
    with pytest.raises(interrupt.Interrupted):
        run(begun, make_examples, limit, stop_after=after, state=place)
    limit = Budget(spent_of(resumed, tokenizer), kl=most)
    found = run(resumed, make_examples, limit, state=place)
    assert found.steps == wanted.steps and found.kept_step == wanted.kept_step
    assert torch.equal(weights(resumed), weights(tiny_model))


def test_an_edit_is_taken_back_to_its_last_measure(
    tiny_model: Any, make_examples: Any, tokenizer: Any
) -> None:
    spec = {"name": "task-vector", "tune_steps": 2, "scale_step": 0.5, "scale_limit": 3.0}
    seen = course(copy.deepcopy(tiny_model), make_examples, tokenizer, spec=spec)
    values = [spent.kl for spent, _ in seen]
    most = (values[1] + values[2]) / 2
    assert values == sorted(values)
    record = run(tiny_model, make_examples, Budget(spent_of(tiny_model, tokenizer), kl=most), spec)
    assert record.stopped == "kl" and torch.equal(weights(tiny_model), seen[1][1])
    assert len(record.steps) == 5 and record.kept_step == 4  # two of fine-tuning, then the measures


@pytest.mark.parametrize("spec", ["gd+layered", "gd+undo"])
def test_the_limit_holds_over_stages(
    spec: str, tiny_model: Any, make_examples: Any, tokenizer: Any
) -> None:
    budget = Budget(spent_of(tiny_model, tokenizer), kl=0.02)
    record = run(tiny_model, make_examples, budget, spec)
    assert budget.over(budget.read()) is None
    assert record.stopped == "kl" and record.kept_step is not None


def test_a_copy_is_of_the_values_and_is_put_back_in_place() -> None:
    tensor = torch.ones(3)
    kept = Kept({"w": tensor})
    tensor.mul_(2)
    kept.restore()
    assert tensor.tolist() == [1, 1, 1] and kept.step == 0
    tensor.mul_(3)
    kept.take(4)
    tensor.zero_()
    kept.restore()
    assert tensor.tolist() == [3, 3, 3] and kept.step == 4


def test_both_spellings_are_one_setting() -> None:
    recipe, sources = resolve(None, ["unlearn.stop={forget: 0.2, steps: 7, kl: 0.01}"])
    assert (recipe.unlearn.threshold, recipe.unlearn.max_steps) == (0.2, 7)
    assert recipe.unlearn.stop.kl == 0.01 and recipe.unlearn.stop.given
    assert sources["unlearn.max_steps"] == "--set"
    assert not resolve(None, [])[0].unlearn.stop.given


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("unlearn.stop.kl=0", "--set: unlearn.stop.kl: .*greater than 0, got 0"),
        ("unlearn.stop.retain_ratio=0.9", "unlearn.stop.retain_ratio: .*greater than or equal to 1"),
        ("unlearn.stop.kll=1", "unlearn.stop.kll: unknown key 'kll'. Did you mean 'kl'"),
        ("unlearn.stop=0.01", "unlearn.stop: must be a section of settings"),
        ("unlearn={threshold: 0.2, stop: {forget: 0.2}}", "unlearn.stop.forget and unlearn.threshold"),
    ],
)
def test_limits_that_are_none(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        resolve(None, [text])
    assert len(caught.value.problems) == 1

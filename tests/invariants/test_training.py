"""Runs that must agree: batches, order of rows, interrupted and whole runs; and what must refuse."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssiuu.errors import ConfigError, DivergedError
from ssiuu.likelihood import Example, collate
from ssiuu.methods import make
from ssiuu.records.schema import MethodInfo, Unlearning
from ssiuu.training import interrupt
from ssiuu.training.batches import draw_rows, micro_batches
from ssiuu.training.prepare import Prepared
from ssiuu.training.step import Step
from ssiuu.training.unlearn import Settings, StopRule, unlearn_examples

PAD = 1
STEPS = 6


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)


# --- draw ---------------------------------------------------------------------------------------

shapes = st.integers(1, 24).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n + 3)))


@settings(max_examples=50, deadline=None)
@given(shapes, st.integers(1, 60), st.integers(0, 50))
def test_a_batch_holds_no_row_twice(shape: tuple[int, int], step: int, seed: int) -> None:
    rows, size = shape
    drawn = draw_rows(rows, size, step, seed)
    assert len(drawn) == min(size, rows) == len(set(drawn))
    assert set(drawn) <= set(range(rows))


@settings(max_examples=50, deadline=None)
@given(shapes, st.integers(0, 8), st.integers(0, 50))
def test_every_epoch_holds_every_row(shape: tuple[int, int], epoch: int, seed: int) -> None:
    """The batches that an epoch touches hold every row."""
    rows, size = shape
    size = min(size, rows)
    first, last = epoch * rows // size + 1, -(-(epoch + 1) * rows // size)
    seen = {i for step in range(first, last + 1) for i in draw_rows(rows, size, step, seed)}
    assert seen == set(range(rows))


@settings(max_examples=30, deadline=None)
@given(shapes, st.integers(0, 20))
def test_rows_are_drawn_equally_often(shape: tuple[int, int], seed: int) -> None:
    """After e epochs' worth of steps a row has been drawn e times, give or take one."""
    rows, size = shape
    counts = Counter(i for step in range(1, 2 * rows + 1) for i in draw_rows(rows, size, step, seed))
    assert max(counts.values()) - min(counts[i] for i in range(rows)) <= 1


def test_draw_depends_on_step_and_seed_alone() -> None:
    forwards = [draw_rows(10, 4, step, 3) for step in range(1, 30)]
    backwards = [draw_rows(10, 4, step, 3) for step in reversed(range(1, 30))]
    assert forwards == backwards[::-1]
    assert forwards != [draw_rows(10, 4, step, 4) for step in range(1, 30)]
    assert len({tuple(b) for b in forwards}) > 20


# --- order --------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["ga", "gd", "npo", {"name": "ssiuu", "lambda": 1.0}])
def test_the_order_of_rows_does_not_matter(exact_model: Any, make_examples: Any, spec: Any) -> None:
    forget, retain = make_examples(5, answer=(1, 2)), make_examples(5, seed=1)
    reference = {e.id: -3.0 for e in forget}
    found = []
    for turn in (slice(None), slice(None, None, -1)):
        model = copy.deepcopy(exact_model)
        step = Step(model, make(spec), 1e-3, prepared=Prepared(logprob=reference))
        for _ in range(2):
            step([collate(forget[turn], PAD)], [collate(retain[turn], PAD)])
        found.append({n: p.grad for n, p in model.named_parameters()})
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-6, atol=1e-9)


# --- interruption -------------------------------------------------------------------------------


def run(
    model: Any,
    spec: Any,
    rows: tuple[list[Example], list[Example]],
    state: Path | None = None,
    stop_after: int | None = None,
) -> Unlearning:
    """Unlearn for STEPS steps, asking for an interruption after `stop_after` of them."""
    method = make(spec)
    info = MethodInfo(
        label=method.label,
        name=method.name,
        origin=method.whose,
        description=method.description,
        hyperparameters=method.options,
    )
    settings = Settings(
        learning_rate=1e-3,
        batch_size=3,
        micro_batch_size=2,
        max_steps=STEPS,
        check_every=2,
        threshold=-1.0,
        weight_decay=0.01,
        seed=0,
        precision="fp32",
    )
    told = []

    def progress(line: str) -> None:
        told.append(line)
        if len(told) == stop_after:
            interrupt._asked.set()

    stop = StopRule("ranking", lambda: 1.0)
    texts = [replace(e, id=f"text {e.id}") for e in rows[1]] if method.options.get("texts", 0.0) else []
    return unlearn_examples(
        model, method, info, *rows, settings, stop, PAD, state, progress, texts=texts
    )


@pytest.fixture
def rows(make_examples: Any) -> tuple[list[Example], list[Example]]:
    return make_examples(5, answer=(1, 2)), make_examples(7, seed=1)


@pytest.fixture(autouse=True)
def _no_request_left() -> Any:
    yield
    interrupt._asked.clear()


@pytest.mark.parametrize(
    "spec",
    [
        "gd",
        {"name": "ssiuu", "lambda": 10.0},
        {"name": "ssiuu", "lambda": 0.1, "target": "logprob"},
        {"name": "npo", "projection": 2},
        {"name": "gd", "pull": 50.0},
        "npo+kl+texts+others",
    ],
)
def test_an_interrupted_run_ends_where_a_whole_one_does(
    tiny_model: Any, rows: Any, tmp_path: Path, spec: Any
) -> None:
    """After its first step, in the middle, and before its last."""
    whole = copy.deepcopy(tiny_model)
    wanted = run(whole, spec, rows)
    assert [log.step for log in wanted.steps] == list(range(1, STEPS + 1))
    for after in (1, 3, STEPS - 1):
        first, second = copy.deepcopy(tiny_model), copy.deepcopy(tiny_model)
        state = tmp_path / str(after) / "state.safetensors"
        state.parent.mkdir()
        with pytest.raises(interrupt.Interrupted):
            run(first, spec, rows, state, stop_after=after)
        assert state.exists()
        interrupt._asked.clear()
        found = run(second, spec, rows, state)
        assert same(weights(second), weights(whole)), after
        assert not same(weights(first), weights(whole)), after
        assert found.steps == wanted.steps
        assert list(state.parent.iterdir()) == [state]  # the caller's, until the weights are safe


def stepped(model: Any, pull: float, examples: Any) -> dict[str, torch.Tensor]:
    """Return the weights after one step of 1e-3."""
    one = copy.deepcopy(model)
    batch = [collate(examples(4), PAD)]
    Step(one, make({"name": "gd", "pull": pull}), 1e-3)(batch, batch)
    return weights(one)


def test_a_pull_goes_its_share_of_the_way_back(exact_model: Any, make_examples: Any) -> None:
    before, plain = weights(exact_model), stepped(exact_model, 0.0, make_examples)
    pulled = stepped(exact_model, 250.0, make_examples)
    for name, there in before.items():
        torch.testing.assert_close(pulled[name], there + 0.75 * (plain[name] - there))


def test_the_strongest_pull_stays_at_the_start(exact_model: Any, make_examples: Any) -> None:
    assert same(stepped(exact_model, 1000.0, make_examples), weights(exact_model))


def test_another_run_does_not_continue_from_a_state(tiny_model: Any, rows: Any, tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    with pytest.raises(interrupt.Interrupted):
        run(copy.deepcopy(tiny_model), "gd", rows, state, stop_after=2)
    interrupt._asked.clear()
    mine, plain = copy.deepcopy(tiny_model), copy.deepcopy(tiny_model)
    run(mine, {"name": "gd", "retain_weight": 2.0}, rows, state)
    run(plain, {"name": "gd", "retain_weight": 2.0}, rows)
    assert same(weights(mine), weights(plain))


def test_unlearning_leaves_the_model_in_evaluation_mode_without_gradients(
    tiny_model: Any, rows: Any
) -> None:
    run(tiny_model, "gd", rows)
    assert not tiny_model.training
    assert all(p.grad is None for p in tiny_model.parameters())


# --- divergence ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_changes_nothing(
    tiny_model: Any, make_examples: Any, value: float
) -> None:
    with torch.no_grad():
        tiny_model.model.layers[0].mlp.up_proj.weight[0, 0] = value
    before = weights(tiny_model)
    forget, retain = make_examples(2), make_examples(2, seed=1)
    step = Step(tiny_model, make("gd"), 1e-3)
    with pytest.raises(DivergedError, match=r"The batch: fact 0, fact 1\."):
        step([collate(forget, PAD)], [collate(retain, PAD)])
    for name, parameter in tiny_model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name], rtol=0, atol=0, equal_nan=True)


def test_a_penalty_that_overflows_changes_nothing(tiny_model: Any, make_examples: Any) -> None:
    forget, retain = make_examples(2, answer=(1, 1)), make_examples(2, seed=1)
    step = Step(tiny_model, make({"name": "ssiuu", "lambda": 1e38, "target": "logprob"}), 1e-3)
    step([collate(forget, PAD)], [collate(retain, PAD)])
    before = weights(tiny_model)
    with pytest.raises(DivergedError, match="gradient norm"):
        step([collate(forget, PAD)], [collate(retain, PAD)])
    assert same(weights(tiny_model), before)


def test_a_runaway_loss_is_divergence(tiny_model: Any, make_examples: Any) -> None:
    with torch.no_grad():
        tiny_model.lm_head.weight.mul_(1e5)
    before = weights(tiny_model)
    step = Step(tiny_model, make("ga"), 1e-3)
    with pytest.raises(DivergedError, match="forget loss"):
        step([collate(make_examples(4), PAD)], [])
    assert same(weights(tiny_model), before)


def test_a_diverged_run_says_which_step(tiny_model: Any, rows: Any, tmp_path: Path) -> None:
    with torch.no_grad():
        tiny_model.lm_head.weight[3, 0] = float("nan")
    with pytest.raises(DivergedError, match=r"gd, step 1: .*nan.*learning_rate"):
        run(tiny_model, "gd", rows, tmp_path / "state")


def test_a_small_beta_is_not_divergence(tiny_model: Any, rows: Any) -> None:
    """NPO's loss begins at 2 log 2 / beta nats an example, 13863 here."""
    assert len(run(tiny_model, {"name": "npo", "beta": 1e-4}, rows).steps) == STEPS


def test_a_diverged_run_diverges_again(tiny_model: Any, rows: Any, tmp_path: Path) -> None:
    """The failed step has overwritten A_{t-1}; were it saved, the penalty would vanish on resuming."""
    spec = {"name": "ssiuu", "lambda": 1e38, "target": "logprob"}
    for _ in range(2):
        with pytest.raises(DivergedError, match=r"step 2: the gradient norm is (inf|nan)"):
            run(copy.deepcopy(tiny_model), spec, rows, tmp_path / "state")


def test_projection_without_retain_rows_is_refused(tiny_model: Any, rows: Any) -> None:
    with pytest.raises(ConfigError, match="retain"):
        run(tiny_model, {"name": "ga", "projection": 2}, (rows[0], []))


# --- micro-batches ------------------------------------------------------------------------------


def test_micro_batches_keep_every_row(make_examples: Any) -> None:
    examples = make_examples(7)
    for size in (None, 1, 3, 7, 20):
        batches = micro_batches(examples, size, PAD, "cpu")
        assert [i for b in batches for i in b.ids] == [e.id for e in examples]
        assert max(len(b.ids) for b in batches) == min(size or 7, 7)
    assert micro_batches([], 3, PAD, "cpu") == []

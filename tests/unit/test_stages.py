"""Runs in stages: which rows each has, what is asked anew, noise and mending, going on where it was left."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssiuu.errors import ConfigError
from ssiuu.likelihood import Example, answer_logprobs, collate
from ssiuu.methods import make
from ssiuu.methods.base import Stage
from ssiuu.methods.transforms.layered import folded
from ssiuu.methods.transforms.undo import corrupt, xavier
from ssiuu.models.lora import Lora
from ssiuu.records.schema import MethodInfo, Unlearning
from ssiuu.training import interrupt, unlearn
from ssiuu.training.stages import mean_loss, planned
from ssiuu.training.unlearn import Settings, StopRule, unlearn_examples

PAD = 1
SETTINGS = Settings(1e-2, 3, 2, 6, 2, 0.3, 0.0, 0, "fp32")


class Rows:
    def __init__(self, make_examples: Any) -> None:
        self.forget = make_examples(6, answer=(1, 3))
        self.retain = [replace(e, id=f"kept {e.id}") for e in make_examples(5, seed=1)]
        self.texts = [replace(e, id=f"text {e.id}") for e in make_examples(4, seed=2)]


@pytest.fixture
def rows(make_examples: Any) -> Rows:
    return Rows(make_examples)


def weights(model: Any) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def run(
    model: Any,
    given: Any,
    rows: Rows,
    scores: Iterator[float] | None = None,
    state: Path | None = None,
    stop_after: int = 0,
    **change: Any,
) -> Unlearning:
    method, lines = make(given), 0

    def progress(line: str) -> None:
        nonlocal lines
        lines += " step " in line
        if lines == stop_after and stop_after:
            interrupt._asked.set()

    info = MethodInfo(label=method.label, name=method.name, origin="ours", description="")
    stop = StopRule("ranking", lambda: next(scores, 1.0) if scores else 1.0)
    try:
        return unlearn_examples(
            *(model, method, info, rows.forget, rows.retain, replace(SETTINGS, **change)),
            *(stop, PAD, state, progress),
            texts=rows.texts,
        )
    finally:
        interrupt._asked.clear()


def stage(given: Any, rows: Rows, steps: int = 6) -> Stage:
    return Stage(make(given), rows.forget, rows.retain, rows.texts, steps)


def ids(examples: Any) -> set[str]:
    return {e.id for e in examples}


# --- layered ------------------------------------------------------------------------------------


def test_stage_i_forgets_the_first_i_folds_and_keeps_the_others(rows: Rows) -> None:
    stages = planned(stage("npo+layered(3)", rows, 7), 0)
    assert [s.word for s in stages] == ["fold 1 of 3", "fold 2 of 3", "fold 3 of 3"]
    assert [len(s.forget) for s in stages] == [2, 4, 6] and sum(s.steps for s in stages) == 7
    assert [s.stops for s in stages] == [False, False, True]
    for s, later in pairwise(stages):
        assert ids(s.forget) < ids(later.forget)
    for s in stages:
        assert ids(s.forget) | ids(s.retain) == ids(rows.forget) | ids(rows.retain)
        assert not ids(s.forget) & ids(s.retain) and ids(rows.retain) <= ids(s.retain)


def test_one_fold_is_the_method_and_more_are_another(tiny_model: Any, rows: Rows) -> None:
    """The last stage alone sees what the method alone would; the seed decides the folds."""
    plain, layered = copy.deepcopy(tiny_model), tiny_model
    run(plain, "gd", rows)
    run(layered, "gd+layered(2)", rows)
    assert not torch.equal(weights(plain), weights(layered))
    parts = [folded(rows.forget, 3, seed) for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]


def test_all_rows_of_a_fact_are_in_one_fold(rows: Rows) -> None:
    forms = [
        Example(f"{e.id}{mark}", e.prompt, e.answer) for e in rows.forget for mark in ("", " or 2")
    ]
    for fold in folded(forms, 3, 0):
        roots = {row.id.removesuffix(" or 2") for row in fold}
        assert len(fold) == 2 * len(roots) == 4


def test_each_stage_asks_the_model_that_it_begins_with(
    tiny_model: Any, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NPO's reference is anew, of the forget rows of the stage; so a stage's first loss is 2/beta log 2."""
    asked = []
    inner = unlearn.prepare_parts

    def prepare(model: Any, *given: Any, **more: Any) -> Any:
        asked.append((weights(model), inner(model, *given, **more)))
        return asked[-1][1]

    monkeypatch.setattr(unlearn, "prepare_parts", prepare)
    record = run(tiny_model, {"name": "npo+layered", "folds": 2, "retain_weight": 2}, rows)
    assert [set(prepared.logprob) for _, prepared in asked] == [
        ids(s.forget) for s in planned(stage("npo+layered(2)", rows), 0)
    ]
    assert not torch.equal(asked[0][0], asked[1][0])
    for log in (record.steps[0], record.steps[3]):
        assert log.forget_loss == pytest.approx(20 * math.log(2), rel=1e-5)
        assert log.told["stage"] == (1.0 if log.step < 4 else 2.0)


def test_only_the_last_stage_may_end_the_run(tiny_model: Any, rows: Rows) -> None:
    record = run(tiny_model, "gd+layered(2)", rows, iter([0.9, 0.1]), check_every=1)
    assert record.stopped == "threshold" and [log.step for log in record.steps] == [1, 2, 3, 4]
    assert [log.forget_score for log in record.steps] == [None, None, None, 0.1]
    nothing = run(tiny_model, "gd+layered(2)", rows, iter([0.1]))
    assert nothing.stopped == "no steps" and not nothing.steps


# --- UNDO ---------------------------------------------------------------------------------------


def test_noise_takes_the_place_of_a_share_of_every_matrix(tiny_model: Any) -> None:
    before, drawn = copy.deepcopy(tiny_model), torch.Generator().manual_seed(3)
    corrupt(tiny_model, 0.25, 0.5, 3)
    for was, now in zip(before.parameters(), tiny_model.parameters(), strict=True):
        if was.dim() == 1:
            assert torch.equal(was, now)
            continue
        noise = xavier(was, drawn)
        assert float(noise.abs().max()) <= math.sqrt(6 / (was.shape[0] + was.shape[1]))
        assert float(noise.std()) == pytest.approx(math.sqrt(2 / sum(was.shape)), rel=0.15)
        torch.testing.assert_close(now, 0.75 * was + 0.125 * noise)


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.5), (1.0, 0.0)])
def test_the_ends_of_the_noise_are_the_weights_and_nothing(
    alpha: float, beta: float, tiny_model: Any
) -> None:
    before = copy.deepcopy(tiny_model)
    corrupt(tiny_model, alpha, beta, 0)
    for was, now in zip(before.parameters(), tiny_model.parameters(), strict=True):
        assert torch.equal(now, was * (1.0 if was.dim() == 1 or not alpha else 0.0))


def test_undo_is_the_method_then_noise_then_distillation(tiny_model: Any, rows: Rows) -> None:
    """The teacher is where the method ends; the student comes back to it on retain rows and texts."""
    teacher, student, given = copy.deepcopy(tiny_model), tiny_model, {"noise": 0.3, "within": 0.0}
    run(teacher, "gd", rows)
    record = run(student, {"name": "gd+undo", "distil_steps": 40, **given}, rows, check_every=50)
    logs = [log for log in record.steps if log.told["stage"] == 2]
    assert len(record.steps) == 46 and len(logs) == 40 and record.stopped == "max_steps"
    losses = [log.retain_loss or 0.0 for log in logs]
    assert losses[-1] < losses[0] / 3 and all(log.forget_loss == 0 for log in logs)
    corrupt(teacher, 0.3, 0.1, SETTINGS.seed)  # what the distillation began with
    assert not torch.equal(weights(student), weights(teacher))
    assert logs[-1].forget_score == 1.0  # read once it is at its end
    assert any(note.startswith("Distilling took 40 steps and ended") for note in record.notes)


def test_undo_ends_where_it_is_near_enough_and_says_what_came_back(tiny_model: Any, rows: Rows) -> None:
    given = {"name": "gd+undo", "noise": 0.05, "within": 5.0, "distil_steps": 50}
    record = run(tiny_model, given, rows, iter([0.9, 0.1, 0.8]))
    assert [log.forget_score for log in record.steps] == [None, 0.1, None, 0.8]
    assert record.stopped == "max_steps"
    (told,) = [note for note in record.notes if note.startswith("Distilling took 2 steps")]
    assert "ended within 500%" in told and "what was forgotten before it is not any more" in told
    assert not any(note.startswith("Raise max_steps") for note in record.notes)


def test_the_texts_are_distilled_on_too_and_nothing_is_refused(tiny_model: Any, rows: Rows) -> None:
    (_, last) = planned(stage("gd+undo", rows), 0)
    assert ids(last.retain) == ids(rows.retain) | ids(rows.texts) and not last.forget
    rows.retain, rows.texts = [], []
    with pytest.raises(ConfigError, match="undo: there are no retain rows and no texts to distil on"):
        run(tiny_model, "ga+undo", rows)


def test_the_mean_loss_is_of_all_tokens(exact_model: Any, rows: Rows) -> None:
    with torch.no_grad():
        one = answer_logprobs(exact_model, collate(rows.retain, PAD))
    found = mean_loss(exact_model, [collate(rows.retain[:2], PAD), collate(rows.retain[2:], PAD)])
    assert found == pytest.approx(-float(one.tokens.sum()) / int(one.mask.sum()), rel=1e-9)


# --- together -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_after", [2, 4, 8])
@pytest.mark.parametrize("given", ["npo+layered(2)+undo", "gd+texts+layered(3)", "rmu+undo"])
def test_a_run_goes_on_where_it_was_interrupted(
    given: str, stop_after: int, tiny_model: Any, rows: Rows, tmp_path: Path
) -> None:
    """In any stage: the weights, and all that the steps told, are those of the whole run."""
    spec = {"name": given} | ({"distil_steps": 4, "within": 0.0} if "undo" in given else {})
    if "rmu" in given:
        spec |= {"layer": 1, "update": [r"\.[01]\.mlp\.down_proj\.weight$"]}
    whole, state = copy.deepcopy(tiny_model), tmp_path / "run.state.safetensors"
    wanted = run(whole, spec, rows)
    if stop_after >= len(wanted.steps):
        return
    with pytest.raises(interrupt.Interrupted):
        run(copy.deepcopy(tiny_model), spec, rows, state=state, stop_after=stop_after)
    found = run(tiny_model, spec, rows, state=state)
    assert torch.equal(weights(tiny_model), weights(whole))
    assert [log.model_dump() for log in found.steps] == [log.model_dump() for log in wanted.steps]
    assert found.notes == wanted.notes and found.before == wanted.before
    assert [path.name for path in tmp_path.iterdir()] in ([], [state.name])


def test_another_run_does_not_go_on_from_a_stage(tiny_model: Any, rows: Rows, tmp_path: Path) -> None:
    state = tmp_path / "run.state.safetensors"
    with pytest.raises(interrupt.Interrupted):
        run(copy.deepcopy(tiny_model), "gd+layered(2)", rows, state=state, stop_after=5)
    whole = copy.deepcopy(tiny_model)
    run(whole, "gd+layered(2)", rows, learning_rate=1e-3)
    run(tiny_model, "gd+layered(2)", rows, state=state, learning_rate=1e-3)
    assert torch.equal(weights(tiny_model), weights(whole))


def test_a_range_test_has_one_stage(tiny_model: Any, rows: Rows) -> None:
    record = run(tiny_model, "gd+layered(2)+undo", rows, growth=1.5)
    assert len(record.steps) == SETTINGS.max_steps and not any(log.told for log in record.steps)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("ga+layered", "ga: layered: the folds that are kept so far want a retain term"),
        ("task-vector+undo", "undo: this method has no forget gradient to act on"),
        ({"name": "gd", "folds": 1}, r"gd\.folds: .*got 1"),
        ({"name": "gd", "noise": 1.5}, r"gd\.noise: .*got 1.5"),
    ],
)
def test_what_does_not_go_together_is_refused(given: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=f"methods: .*{told}"):
        make(given)


def test_what_these_rows_and_steps_do_not_allow_is_refused(
    tiny_model: Any, rows: Rows, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="layered: 9 folds of 6 facts: set folds to fewer"):
        run(tiny_model, "gd+layered(9)", rows)
    with pytest.raises(ConfigError, match=r"layered: 4 folds want a step each; .*max_steps is 3"):
        run(tiny_model, "gd+layered(4)", rows, max_steps=3)
    with pytest.raises(ConfigError, match="undo: the noise goes into all weights"):
        run(tiny_model, "gd+undo", rows, lora=Lora(1, 2.0))
    run(tiny_model, "gd+layered(2)", rows, lora=Lora(1, 2.0))
    method = make("gd+layered(2)")
    info = MethodInfo(label=method.label, name=method.name, origin="ours", description="")
    with pytest.raises(ConfigError, match=r"adapters are merged between its stages: .*merge to true"):
        unlearn_examples(
            *(tiny_model, method, info, rows.forget, rows.retain, replace(SETTINGS, lora=Lora(1, 2.0))),
            *(StopRule("ranking", lambda: 1.0), PAD),
            adapter=tmp_path / "adapter",
        )

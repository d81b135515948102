"""Cells in one folder: killed, continued, shared by processes, run again under changed settings.

The children are forked: they are killed outright (SIGKILL) at a line of progress, as a machine would.
"""

from __future__ import annotations

import fcntl
import json
import math
import multiprocessing
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

import ssiuu
from ssiuu.attacks import retrain
from ssiuu.benchmarks import texts
from ssiuu.errors import InputError, OutputError
from ssiuu.experiment import folder as folder_module
from ssiuu.experiment import run as run_module
from ssiuu.experiment import trials
from ssiuu.experiment import unlearn as unlearn_module
from ssiuu.experiment.cells import CellPlan, StagePlan
from ssiuu.experiment.folder import check_folder
from ssiuu.experiment.progress import Meter
from ssiuu.experiment.tuning import best
from ssiuu.methods.objectives.gd import GradientDifference
from ssiuu.models.load import save
from ssiuu.records import lease as leasing
from ssiuu.records.files import NOT_THE_SAME, read_record, without_times
from ssiuu.records.schema import MethodInfo, RunHeader, RunRecord, Unlearning
from ssiuu.records.sharing import LOCK
from ssiuu.records.underway import duration
from ssiuu.report import page
from ssiuu.report.formats import data, markdown
from ssiuu.report.text import summary
from ssiuu.training import loop
from word_facts import write_facts

pytestmark = pytest.mark.usefixtures("brief")

FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, make_model: Any, tokenizer: Any) -> list[str]:
    """A run of seconds: a random model, twelve facts, two methods, three attack curves."""
    folder = tmp_path_factory.mktemp("cells")
    save(make_model(), tokenizer, folder / "model")
    write_facts(folder, forget=range(8), retain=range(8, 12))
    return [
        "benchmark=own",
        "force=true",  # its weights are random
        f"model={folder / 'model'}",
        f"forget={folder / 'forget.jsonl'}",
        f"retain={folder / 'retain.jsonl'}",
        "methods=[none,gd,{name: ssiuu, lambda: 0.1}]",
        "unlearn={max_steps: 5, check_every: 5, learning_rate: 1e-3}",
        "attacks.harmful={fractions: [0.25], learning_rates: [1e-3, 1e-2]}",
        "attacks.benign={rows: 12, tokens: 4}",
        "attacks.reads=[1,3]",
        "examine.steps=[]",
    ]


def run(
    settings: list[str], out: Path, *more: str, progress: Callable[[str], None] = lambda _: None
) -> RunRecord:
    recipe, sources = ssiuu.resolve(None, [*settings, *more])
    return ssiuu.run(recipe, sources, out, progress=progress)


@pytest.fixture(scope="module")
def whole(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a run that nothing disturbed, and its lines of progress."""
    out, lines = tmp_path_factory.mktemp("whole") / "run", list[str]()
    run(settings, out, progress=lines.append)
    return out, lines


@pytest.fixture(autouse=True)
def _save_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    for module in (run_module, trials):  # slow beside all the objects of the tests
        monkeypatch.setattr(module, "release_memory", lambda: None)
    monkeypatch.setattr(page, "figures", lambda *_: [])


def child(
    settings: list[str],
    out: Path,
    kill_at: int | str | None = None,
    wait_for: Path | None = None,
) -> Any:
    """Start the run in a process of its own, killed at the n-th line or at one that holds a text.

    Before that it waits for a file to be there.
    """
    told = 0

    def progress(line: str) -> None:
        nonlocal told
        told += 1
        if told == kill_at or (isinstance(kill_at, str) and kill_at in line):
            while wait_for is not None and not wait_for.exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        run(settings, out, progress=progress)

    process = FORK.Process(target=work)
    process.start()
    return process


def numbers(record: RunRecord) -> Any:
    """Return everything measured but times, memory and the header's date."""
    cells = [
        [without_times(part) if part else None for part in (c.unlearning, c.evaluation, c.diagnosis)]
        + [without_times(attack) for attack in c.attacks]
        for c in record.cells
    ]
    return record.header.stages, record.original and without_times(record.original), cells


def times(out: Path) -> dict[Path, int]:
    """Return when every record in the cells was written."""
    return {p.relative_to(out): p.stat().st_mtime_ns for p in out.glob("*/*/*.json")}


def left_over(out: Path) -> list[str]:
    """Return what is neither a record nor a lock."""
    files = [p for p in out.rglob("*") if p.is_file()]
    return sorted(p.name for p in files if p.suffix != ".json" and not p.name.endswith(".lock"))


def test_every_evaluation_says_how_far_the_model_moved(whole: tuple[Path, list[str]]) -> None:
    """The original has not, and neither has the control that is the original."""
    record = ssiuu.load_run(whole[0])
    original, none, *trained = [record.original, *(cell.evaluation for cell in record.cells)]
    found = [scores.divergence for scores in (original, none, *trained) if scores]
    assert all(moved and moved.text_version == texts.version() for moved in found)
    assert [moved.plain for moved in found[:2] if moved] == [0.0, 0.0] and found[0] == found[1]
    for moved in found[2:]:
        assert moved and moved.plain > 1e-6 and moved.plain_se > 0
        assert moved.rows == len(texts.measured()) and moved.instruction_rows > 30


@pytest.mark.parametrize(
    ("at", "goes_on"),
    [
        ("gd step 3/5", "gd step 3/5"),
        (
            "gd seed 0: harmful_0.25 full lr 0.01 seed 0 step 3/3",
            "gd seed 0: harmful_0.25 full lr 0.01 seed 0 step 3/3",
        ),
    ],
)
def test_a_killed_run_continues_where_it_was_and_ends_in_the_same_numbers(
    settings: list[str], whole: tuple[Path, list[str]], tmp_path: Path, at: str, goes_on: str
) -> None:
    process, lines = child(settings, tmp_path / "run", at), list[str]()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    record = run(settings, tmp_path / "run", progress=lines.append)
    assert goes_on in lines[3]  # after "loading", "prompt" and "asking"
    assert numbers(record) == numbers(ssiuu.load_run(whole[0]))
    assert left_over(tmp_path / "run") == []


@pytest.mark.slow
def test_a_run_killed_at_every_line_ends_in_the_same_numbers(
    settings: list[str], whole: tuple[Path, list[str]], tmp_path: Path
) -> None:
    out, lines = whole
    wanted = numbers(ssiuu.load_run(out))
    for point, line in enumerate(lines, 1):
        killed = tmp_path / str(point)
        process = child(settings, killed, point)
        process.join(300)
        assert process.exitcode == -signal.SIGKILL
        assert numbers(run(settings, killed)) == wanted, line
        assert left_over(killed) == []


def test_nothing_that_is_there_is_run_again(settings: list[str], whole: tuple[Path, list[str]]) -> None:
    out, _ = whole
    before, header, lines = times(out), (out / "run.json").read_bytes(), list[str]()
    run(settings, out, progress=lines.append)
    assert times(out) == before and (out / "run.json").read_bytes() == header
    assert len(lines) == 3 and "loading" in lines[0] and "prompt: chat" in lines[1]


@pytest.fixture
def folder(whole: tuple[Path, list[str]], tmp_path: Path) -> Path:
    return shutil.copytree(whole[0], tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "made"),
    [
        ("diagnose=false", {}),
        ("attacks.harmful.learning_rates=[1e-3, 1e-2, 3e-3]", {"gd": 1, "ssiuu": 1}),
        ("attacks.benign.tokens=3", {"gd": 1, "ssiuu": 1}),
        ("methods=[none,gd,{name: ssiuu, lambda: 0.2}]", {"ssiuu": 6}),
        ("methods=[none,{name: gd, learning_rate: 2e-3},{name: ssiuu, lambda: 0.1}]", {"gd": 6}),
        ("seeds=[0,1]", {"gd": 6, "ssiuu": 6, "none": 1}),
        ("attacks.control=true", {"none": 3}),
    ],
)
def test_a_changed_setting_runs_what_depends_on_it(
    settings: list[str], folder: Path, change: str, made: dict[str, int]
) -> None:
    before, old = times(folder), ssiuu.load_run(folder)
    record = run(settings, folder, change)
    after = times(folder)
    assert before.items() <= after.items()
    new = Counter(path.parent.name.rpartition("-")[0] for path in after.keys() - before.keys())
    assert new == made
    assert not any(not (folder / path).exists() for path in record.header.stages)
    assert [c.model_dump() for c in ssiuu.load_run(folder).cells] == [
        c.model_dump() for c in record.cells
    ]
    kept = [read_record(p, RunHeader) for p in folder.glob("run-*.json")]
    assert kept == [old.header]
    back = run(settings, folder)
    assert times(folder) == after and numbers(back) == numbers(old)


def test_other_facts_or_another_model_are_another_run(
    settings: list[str], folder: Path, tmp_path: Path, make_model: Any, tokenizer: Any
) -> None:
    save(make_model(seed=1), tokenizer, tmp_path / "model")
    facts = Path(next(s for s in settings if s.startswith("forget=")).removeprefix("forget="))
    before = {path: path.read_bytes() for path in folder.rglob("*.json")}
    for change, said in (
        ("split.seed=1", r"split\.seed is 0 there and 1 now"),
        ("evaluate.options=2", r"evaluate\.options"),
        (f"model={tmp_path / 'model'}", "model is"),
        ("prompt=plain", "prompt"),
    ):
        with pytest.raises(OutputError, match=said):
            run(settings, folder, change)
    with pytest.raises(OutputError, match="holds a run, this is an audit"):
        check_folder(folder, ssiuu.resolve(None, settings)[0], tmp_path / "model")
    content = facts.read_text()
    try:
        facts.write_text(content.replace("w0 w20", "w1 w20"))
        with pytest.raises(OutputError, match="the benchmark was another one"):
            run(settings, folder)
    finally:
        facts.write_text(content)
    assert {path: path.read_bytes() for path in folder.rglob("*.json")} == before


def test_weights_that_are_gone_are_made_again_and_compared(
    settings: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    run(settings, folder, "attacks.reads=[2]", progress=lines.append)
    assert any("gd step 5/5" in line for line in lines)
    assert not any("other weights" in line for line in lines)
    path = next(folder.glob("cells/gd-s0/unlearn-*.json"))
    changed = json.loads(path.read_text())
    del changed["sha256"]  # as older versions wrote it
    changed["steps"][-1]["forget_loss"] += 1e-9
    path.write_text(json.dumps(changed))
    record = run(settings, folder, "attacks.reads=[1]", progress=lines.append)
    assert sum("other weights than the first time" in line for line in lines) == 1
    noted = {
        c.method.label for c in record.cells if c.unlearning and NOT_THE_SAME in c.unlearning.notes
    }
    assert noted == {"gd"}


def test_weights_are_kept_where_that_is_asked(settings: list[str], folder: Path) -> None:
    record = run(settings, folder, "keep_checkpoints=true")
    assert len(left_over(folder)) == 2 and numbers(record) == numbers(ssiuu.load_run(folder))


def test_equal_models_are_measured_once(settings: list[str], folder: Path) -> None:
    lines: list[str] = []
    record = run(settings, folder, "seeds=[0,1,2]", "methods=[none]", progress=lines.append)
    assert [c.seed for c in record.cells] == [0, 1, 2] and len(lines) == 3


def test_a_file_that_does_not_belong_is_told(folder: Path) -> None:
    path = next(folder.glob("cells/gd-s0/evaluate-*.json"))
    other = next(folder.glob("cells/ssiuu-s0/evaluate-*.json"))
    path.write_bytes(other.read_bytes())
    with pytest.raises(InputError, match=f"{path.name} holds another result"):
        ssiuu.load_run(folder)
    header = json.loads((folder / "run.json").read_text())
    del header["sha256"]
    (folder / "run.json").write_text(json.dumps(header | {"stages": {}}))
    with pytest.raises(InputError, match="older version"):
        ssiuu.load_run(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cells/gd-s0/evaluate", b""),
        pytest.param("cells/gd-s0/unlearn", b'{"key": "a', marks=pytest.mark.slow),
        pytest.param("cells/gd-s0/attack", None, marks=pytest.mark.slow),
        pytest.param("original", b"[]", marks=pytest.mark.slow),
    ],
)
def test_a_damaged_record_is_told_and_made_again(
    settings: list[str], folder: Path, name: str, content: bytes | None
) -> None:
    wanted, path, lines = ssiuu.load_run(folder), next(folder.glob(f"{name}-*.json")), list[str]()
    damage(path) if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path.name} is damaged.*makes it again"):
        ssiuu.load_run(folder)
    assert numbers(run(settings, folder, progress=lines.append)) == numbers(wanted)
    assert sum("is damaged, and is made again" in line for line in lines) == 1
    assert path.with_name(f"{path.name}.damaged").exists()


def damage(path: Path) -> None:
    """Turn one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


SLOW_WAYS = [pytest.param(how, marks=pytest.mark.slow) for how in ("and the facts", "and the original")]


@pytest.mark.parametrize("how", ["lost", "damaged", *SLOW_WAYS])
def test_a_header_that_is_lost_is_made_again_of_the_same_command(
    settings: list[str], folder: Path, how: str
) -> None:
    wanted, before = ssiuu.load_run(folder), times(folder)
    if how == "damaged":
        damage(folder / "run.json")
    else:
        (folder / "run.json").unlink()
    if how == "and the facts":
        damage(folder / "split.json")
    if how == "and the original":
        next(folder.glob("original-*.json")).unlink()
    with pytest.raises(InputError, match=r"run\.json.* the command that made|The command that"):
        ssiuu.load_run(folder)
    if how == "lost":
        with pytest.raises(OutputError, match="records of another model, of other facts"):
            run(settings, folder, "split.seed=1")
    record = run(settings, folder)
    assert numbers(record) == numbers(wanted) and times(folder) == before
    assert ssiuu.load_run(folder).header == record.header


@pytest.mark.slow
def test_kept_weights_that_are_damaged_are_made_again(settings: list[str], folder: Path) -> None:
    wanted = numbers(run(settings, folder, "keep_checkpoints=true", "attacks.reads=[1]"))
    path = next(folder.glob("cells/gd-s0/unlearn-*.safetensors"))
    whole = path.read_bytes()
    for broken in ("bit", "cut"):
        lines: list[str] = []
        damage(path) if broken == "bit" else path.write_bytes(whole[:-9])
        next(folder.glob("cells/gd-s0/attack-benign-*.json")).unlink()
        for curve in folder.glob("cells/gd-s0/attack-*.json"):
            curve.unlink()
        more = run(
            settings, folder, "keep_checkpoints=true", "attacks.reads=[1]", progress=lines.append
        )
        assert numbers(more) == wanted and path.read_bytes() == whole
        assert sum(f"{path.name} is damaged, and is made again" in line for line in lines) == 1


# --- the look inside ----------------------------------------------------------------------------

INSIDE = ["inside=true", "methods=[none,gd]"]


@pytest.fixture
def _no_causal_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssiuu.experiment.inside.causal_test", lambda *_: None)  # takes the most time


@pytest.mark.usefixtures("_no_causal_test")
def test_stability_is_taken_after_the_heaviest_harmful_curve(
    settings: list[str], tmp_path: Path
) -> None:
    out, lines = tmp_path / "run", list[str]()
    process = child([*settings, *INSIDE], out, "gd seed 0: harmful_0.25 lr 0.01: right")
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    assert not list(out.glob("cells/*/stability-*")) and len(list(out.glob("cells/*/attack-*"))) == 2
    record = run(settings, out, *INSIDE, progress=lines.append)
    cells = {cell.method.label: cell for cell in record.cells}
    found, (attack,) = (
        cells["gd"].stability,
        [a for a in cells["gd"].attacks if a.name == "harmful_0.25" and a.learning_rate == 0.01],
    )
    assert found is not None and found.facts == len(attack.pool) == 6
    assert found.attack == "harmful_0.25 (learning rate 0.01, trained full, seed 0) at step 3"
    assert found.lowest is not None and found.lowest.pearson["original-unlearned"] is not None
    assert cells["none"].stability is None and len(cells["gd"].attacks) == 3
    # The attack is carried out again for its weights, and once only; its record stays.
    assert sum("harmful_0.25 full lr 0.01 seed 0 step 3/3" in line for line in lines) == 1
    assert any("attributions after harmful_0.25" in line for line in lines)
    assert left_over(out) == []
    before = times(out)
    again = run(settings, out, *INSIDE)
    assert times(out) == before and numbers(again) == numbers(record)
    assert again.cells[1].stability == found
    whole = run(settings, tmp_path / "at once", *INSIDE)
    assert whole.cells[1].stability is not None
    assert without_times(whole.cells[1].stability) == without_times(found)


@pytest.mark.usefixtures("_no_causal_test")
def test_a_diverged_attack_leaves_nothing_to_compare(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrain, "math", Mock(wraps=math, isfinite=lambda _: False))
    record = run(settings, tmp_path / "run", *INSIDE)
    found = record.cells[1].stability
    assert found is not None and found.note == "diverged in step 1" and found.lowest is None


# --- a method that breaks off -------------------------------------------------------------------


def test_a_method_that_diverges_is_marked_and_the_others_go_on(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command says so again without training; a method that no longer diverges is whole."""
    out, lines = tmp_path / "run", list[str]()
    run(settings, out, "methods=[none,gd]", "attacks.harmful.learning_rates=[]")
    shutil.rmtree(out / "cells" / "gd-s0")
    more = "methods=[none,gd,npo]", "attacks.harmful.learning_rates=[]"
    whole_loss = GradientDifference.forget_loss
    with monkeypatch.context() as patch:
        patch.setattr(GradientDifference, "forget_loss", lambda *a: whole_loss(*a) * math.inf)
        for _ in range(2):
            lines.clear()
            record = run(settings, out, *more, progress=lines.append)
            none, gd, npo = record.cells
            assert gd.failed is not None and gd.failed.reason.startswith("gd, step 1: the forget loss")
            assert gd.evaluation is None and none.failed is npo.failed is None
            assert none.evaluation and npo.evaluation and npo.unlearning
            assert any("gd seed 0: failed: gd, step 1" in line for line in lines)
    for text in (summary(record), markdown(record).replace("\\", ""), json.dumps(data(record))):
        assert "gd, step 1: the forget loss" in text
    assert "It broke off: gd, step 1: the forget loss" in page.render(record)
    assert "have not run yet" not in summary(record)
    again = ssiuu.load_run(out)
    assert again == record
    mine = {p.stat().st_mode & 0o777 for p in out.rglob("*") if p.is_file() and p.name[0] != "."}
    assert out.stat().st_mode & 0o777 == 0o700 and mine == {0o600}  # facts of the user's own
    # Its state says that it diverged; away with it, it is tried again.
    next((out / "cells" / "gd-s0").glob("*.state.safetensors")).unlink()
    mended = run(settings, out, *more).cells[1]
    assert mended.failed is None and mended.evaluation is not None
    assert not [*(out / "cells" / "gd-s0").glob("failed-*")]


# --- a save that fails --------------------------------------------------------------------------


def test_what_cannot_be_saved_is_kept_and_the_same_command_only_saves_it(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = dict(line.split("=", 1) for line in settings[:5])
    sets = ["force=true", "unlearn.learning_rate=1e-3", "unlearn.max_steps=2"]

    def unlearn(out: Path) -> Unlearning:
        return unlearn_module.unlearn_model(
            *(named["model"], named["forget"], out, named["retain"], "gd", sets), keep_anyway=True
        )

    whole, out, work = tmp_path / "whole", tmp_path / "out", tmp_path / ".out.unfinished"
    unlearn(whole)
    with monkeypatch.context() as patch:
        patch.setattr(unlearn_module, "save", Mock(side_effect=OutputError("no disk space.")))
        with pytest.raises(OutputError, match=r"no disk space\. What was unlearned is kept in"):
            unlearn(out)
        kept = [p for p in work.iterdir() if p.name != LOCK]  # which holds nothing
        assert not out.exists() and {p.stat().st_mode & 0o777 for p in kept} == {0o600}
        patch.setattr(unlearn_module, "save_weights", Mock(side_effect=OutputError("none.")))
        with pytest.raises(OutputError, match="it is lost"):
            unlearn(tmp_path / "other")
    with monkeypatch.context() as patch:
        patch.setattr(unlearn_module, "forget_facts", Mock(side_effect=AssertionError))
        record = unlearn(out)
    assert record.key == "" and record.steps and not work.exists()
    saved, wanted = (folder / "model.safetensors" for folder in (out, whole))
    assert saved.read_bytes() == wanted.read_bytes()


# --- tuning -------------------------------------------------------------------------------------

TUNE = ["tune.trials=2", "tune.space={'*': {learning_rate: [1e-4, 1e-2]}}"]


@pytest.mark.slow
def test_every_method_is_tuned_and_its_best_setting_is_run(settings: list[str], tmp_path: Path) -> None:
    out, lines = tmp_path / "run", list[str]()
    process = child([*settings, *TUNE], out, "2/4 trials")
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    assert ssiuu.load_run(out).cells[1].unlearning is None
    record = run(settings, out, *TUNE, progress=lines.append)
    assert [t.method.label for t in record.trials] == ["gd", "gd", "ssiuu", "ssiuu"]
    assert any("2/4 trials" in line and "ssiuu step 1/5" in line for line in lines)
    assert not any("trials" in line and "gd step" in line for line in lines)
    for label in ("gd", "ssiuu"):
        tried = [t for t in record.trials if t.method.label == label]
        rates = {t.values["learning_rate"] for t in tried}
        cell = next(c for c in record.cells if c.method.label == label)
        taken = cell.method.hyperparameters["learning_rate"]
        assert len(rates) == 2 and taken == best(tried).values["learning_rate"]
        assert any(f"{label} was tuned: learning_rate {taken}" in note for note in record.header.notes)
    assert "Settings tried in tuning (4)" in page.render(record)
    assert left_over(out) == []
    before, header = times(out), (out / "run.json").read_bytes()
    run(settings, out, *TUNE)
    assert times(out) == before and (out / "run.json").read_bytes() == header
    more = run(settings, out, "tune.trials=3", TUNE[1])
    assert len(more.trials) == 6 and len(list(out.glob("tune/*/*.json"))) == 6


# --- several processes --------------------------------------------------------------------------


def test_two_processes_share_a_folder_and_one_is_killed(
    settings: list[str], whole: tuple[Path, list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    first = child(settings, out, kill_at="gd step 3/5", wait_for=out / "cells/ssiuu-s0/.lock")
    while not (out / "cells/gd-s0/.lock").exists():
        time.sleep(0.01)
    second = child(settings, out)
    first.join(300)
    second.join(300)
    assert (first.exitcode, second.exitcode) == (-signal.SIGKILL, 0)
    assert numbers(ssiuu.load_run(out)) == numbers(ssiuu.load_run(whole[0]))
    assert left_over(out) == []
    assert not [p for p in out.rglob(".*") if p.name != ".lock"]
    assert len(list(out.glob("cells/*/*.json"))) == len(times(whole[0]))


def test_a_cell_in_work_elsewhere_is_passed_over_and_waited_for(
    settings: list[str], whole: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "PAUSE", 0.01)
    out, lines = tmp_path / "run", list[str]()
    (out / "cells" / "gd-s0").mkdir(parents=True)
    lock = (out / "cells" / "gd-s0" / ".lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)

    def progress(line: str) -> None:
        lines.append(line)
        if "another process is at it" in line:
            lock.close()

    shutil.copy(whole[0] / "run.json", out)
    record = run(settings, out, progress=progress)
    waited = next(
        n for n, line in enumerate(lines) if "2/3 cells" in line and "another process" in line
    )
    assert all("gd " not in line for line in lines[:waited])
    assert numbers(record) == numbers(ssiuu.load_run(whole[0]))


def test_every_stage_runs_once_when_processes_work_at_the_same_time(
    settings: list[str], tmp_path: Path
) -> None:
    queue = FORK.SimpleQueue()

    def work() -> None:
        run(settings, tmp_path / "run", progress=queue.put)

    workers = [FORK.Process(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    lines = []
    while not queue.empty():
        lines.append(queue.get())
    did = Counter(line.partition(" | ")[2] for line in lines)
    assert did["gd seed 0: evaluating"] == did["ssiuu seed 0: looking inside"] == 1
    assert sum("original model" in line for line in lines) == 1


def test_processes_with_leases_help_with_parts_and_end_in_the_same_numbers(
    settings: list[str], whole: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is killed, and its cell and stage are taken over; nothing else is done twice."""
    monkeypatch.setattr(leasing, "BEAT", 0.05)
    monkeypatch.setattr(leasing, "PATIENCE", 1.0)
    monkeypatch.setattr(folder_module, "PAUSE", 0.05)
    out, queue = tmp_path / "run", FORK.SimpleQueue()
    more = [*settings, "locks=leases"]

    def work() -> None:
        run(more, out, progress=lambda line: queue.put((os.getpid(), line)))

    killed = child(more, out, kill_at="gd step 3/5", wait_for=tmp_path / "others")
    while not (out / "cells/gd-s0/.lock.1").exists():
        time.sleep(0.01)
    workers = [FORK.Process(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    (tmp_path / "others").touch()
    for worker in (killed, *workers):
        worker.join(300)
    assert [w.exitcode for w in (killed, *workers)] == [-signal.SIGKILL, 0, 0]
    assert numbers(ssiuu.load_run(out))[1:] == numbers(ssiuu.load_run(whole[0]))[1:]
    lines = []
    while not queue.empty():
        lines.append(queue.get())
    did = Counter(line.partition(" | ")[2] for _, line in lines)
    assert max(did[f"{name} seed 0: evaluating"] for name in ("gd", "ssiuu")) <= 1
    of = {pid for pid, line in lines if "step 3/3" in line and "gd" in line}
    assert of and left_over(out) == []
    assert {p.name for p in out.rglob(".*")} <= {".lock"}


def test_two_share_a_cell(
    settings: list[str], whole: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one looks inside, the other finds nothing but that cell and does its curves."""
    monkeypatch.setattr(folder_module, "PAUSE", 0.01)
    out, told = tmp_path / "run", tmp_path / "told"
    only = [*settings, "methods=[gd]", "seeds=[0]"]

    def first() -> None:
        def progress(line: str) -> None:
            while "looking inside" in line and not told.exists():
                time.sleep(0.01)

        run(only, out, progress=progress)

    process, lines = FORK.Process(target=first), list[str]()
    process.start()
    while not list(out.glob("cells/gd-s0/.diagnose-*.lock")):
        time.sleep(0.01)

    def progress(line: str) -> None:
        lines.append(line)
        if "another process is at it" in line:
            told.touch()

    record = run(only, out, progress=progress)
    process.join(300)
    did = [line for line in lines if "step 3/3" in line]
    assert process.exitcode == 0 and len(did) == 3
    wanted = next(c for c in ssiuu.load_run(whole[0]).cells if c.method.label == "gd")
    for found, one in zip(record.cells[0].attacks, wanted.attacks, strict=True):
        assert without_times(found) == without_times(one)
    assert left_over(out) == [] and {p.name for p in out.rglob(".*")} == {".lock"}


# --- progress -----------------------------------------------------------------------------------


def test_progress_counts_cells_and_tells_the_numbers(whole: tuple[Path, list[str]]) -> None:
    _, lines = whole
    assert any(line.startswith("1/3 cells | gd step 1/5") for line in lines)
    assert any("2/3 cells, " in line and " left | ssiuu seed 0" in line for line in lines)
    assert "3/3 cells, 0 s left | ssiuu seed 0: benign lr 1e-4: right" in lines[-1]
    assert any("gd seed 0: right: forget" in line for line in lines)
    assert all("\n" not in line for line in lines)


def test_time_left_is_the_mean_of_what_was_measured(tmp_path: Path) -> None:
    def plan(number: int) -> CellPlan:
        info = MethodInfo(label="gd", name="gd", origin="literature", description="")
        stage = StagePlan("evaluate", "k", Path(f"cells/gd-s{number}/evaluate-k.json"))
        return CellPlan(info, None, number, [stage])

    cells = [plan(n) for n in range(4)]
    assert Meter(tmp_path, cells, print).left() is None
    for cell, seconds in zip(cells, (10.0, 20.0), strict=False):
        path = tmp_path / cell.stages[0].path
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"seconds": seconds}))
    lines: list[str] = []
    meter = Meter(tmp_path, cells, lines.append)
    assert meter.left() == pytest.approx(30.0, abs=0.1)
    meter("text")
    assert lines == ["2/4 cells, 30 s left | text"]
    assert [duration(s) for s in (5, 89, 240, 3 * 3600)] == ["5 s", "89 s", "4 min", "3.0 h"]

"""A fleet, simulated: workers that are killed, held up and started anew, on a file system without locks.

The stages are made up (a short sleep and a digest); who does which, and who takes over, is the run's own
code. Half of the workers are of another host, whose clock is days off.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import platform
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ssiuu.attacks.base import Curve
from ssiuu.experiment import folder as folder_module
from ssiuu.experiment import run as run_module
from ssiuu.experiment.cells import CellPlan, StagePlan
from ssiuu.experiment.folder import in_turn
from ssiuu.experiment.progress import Meter
from ssiuu.experiment.run import STATE, WEIGHTS
from ssiuu.records import lease as leasing
from ssiuu.records.files import cell_folder, digest, keyed
from ssiuu.records.schema import MethodInfo, Stage
from ssiuu.records.sharing import Sharing

FORK = multiprocessing.get_context("fork")


class Made(Stage):
    """The record of a made-up stage: a digest of what it was made of."""

    value: str
    seconds: float = 1.0


def plan(cells: int, curves: int) -> list[CellPlan]:
    """Return cells of an unlearning, scores, an examination and curves; the last one is read on."""
    return [_cell(f"m{n // 2}", n % 2, curves) for n in range(cells)]


def _cell(label: str, seed: int, curves: int) -> CellPlan:
    info = MethodInfo(label=label, name="gd", origin="literature", description="")
    folder = cell_folder(label, seed)

    def stage(kind: Any, name: str, curve: Curve | None = None) -> StagePlan:
        key = digest(label, seed, name)
        return StagePlan(kind, key, folder / keyed(name, key), curve)

    stages = [stage(kind, kind) for kind in ("unlearn", "evaluate", "examine")]
    for n in range(curves - 1):
        curve = Curve(f"c{n}", "harmful", seed=n)
        stages.append(stage("attack", f"attack-c{n}", curve))
    stages.append(stage("stability", "stability", curve))
    return CellPlan(info, None, seed, stages)


class Stages(run_module._Stages):
    """The stages of a run, each of them a sleep in the place of its work."""

    def __init__(self, out: Path, cells: Sequence[CellPlan], log: Path, pause: float) -> None:
        recipe = SimpleNamespace(keep_checkpoints=False)
        session: Any = SimpleNamespace(recipe=recipe, check=lambda: None)
        stub: Any = SimpleNamespace(key="", progress=None)
        meter = Meter(out, cells, lambda _: None)
        super().__init__(session, out, stub, stub, stub, stub, meter, Sharing(out))
        self.log, self.pause, self.draw = log, pause, random.Random(os.getpid())

    def tell(self, *words: object) -> None:
        with self.log.open("a") as lines:
            lines.write(" ".join(map(str, (time.monotonic_ns(), os.getpid(), *words))) + "\n")

    def _prepare(self, missing: Sequence[StagePlan]) -> None:
        self.weights = ""

    def _load(self, stage: StagePlan) -> bool:
        path = self._beside(stage, WEIGHTS)
        if not (self.out / stage.path).exists() or not path.exists():
            return False
        self.weights = path.read_text()
        assert self.weights == value_of(stage)
        return True

    def _unlearn(self, cell: CellPlan, stage: StagePlan) -> None:
        self._work(stage)
        self.weights = value_of(stage)
        path = self._beside(stage, WEIGHTS)
        half = path.with_name(f".{path.name}.{os.getpid()}")
        half.write_text(self.weights)
        half.rename(path)
        self._write(cell, stage, Made(value=self.weights))  # type: ignore[type-var]

    def _do(self, cell: CellPlan, stages: Sequence[StagePlan]) -> None:
        first = cell.stage("unlearn")
        for stage in stages:
            assert first is not None and self.weights == value_of(first)
            if stage.kind in ("attack", "stability"):
                scores = cell.stage("evaluate")
                assert scores is not None and (self.out / scores.path).exists()
            self._work(stage)
            value = hashlib.sha256((self.weights + value_of(stage)).encode()).hexdigest()
            self._write(cell, stage, Made(value=value))  # type: ignore[type-var]

    def _work(self, stage: StagePlan) -> None:
        self.tell("begins", stage.path)
        self._beside(stage, STATE).write_text("half")
        for _ in range(4):
            time.sleep(self.draw.random() * self.pause / 2)
            leasing.doing(stage.path.name)

    def _write(self, cell: CellPlan, stage: StagePlan, record: Any) -> None:
        super()._write(cell, stage, record)
        self.tell("wrote", stage.path)


def value_of(stage: StagePlan) -> str:
    return digest("weights", stage.key)


def work(out: Path, cells: list[CellPlan], log: Path, pause: float, host: int) -> None:
    """Be a worker, on one of two hosts."""
    skew, clock = (0.0, 86400 * 3.5)[host], time.time
    time.time = lambda: clock() - skew
    platform.node = lambda: f"host {host}"
    out.mkdir(exist_ok=True)
    stages = Stages(out, cells, log, pause)
    in_turn(cells, stages.attempt, lambda _: None, stages.help_with)


def contents(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


@pytest.fixture(autouse=True)
def _as_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> bool:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("filelock.lock_descriptor", refuses)
    monkeypatch.setattr(run_module, "stage_line", lambda _: "")
    monkeypatch.setattr(leasing, "BEAT", 0.05)
    monkeypatch.setattr(leasing, "PATIENCE", 1.0)
    monkeypatch.setattr(folder_module, "PAUSE", 0.03)


@pytest.mark.parametrize(
    ("workers", "cells", "curves", "pause", "kills"),
    [(4, 4, 3, 0.02, 3), pytest.param(8, 20, 7, 0.15, 60, marks=pytest.mark.slow)],
)
def test_nothing_is_lost_and_nothing_done_twice(
    tmp_path: Path, workers: int, cells: int, curves: int, pause: float, kills: int
) -> None:
    """Killed (two of three) or held up for longer than a lease lasts; the folder is that of one worker."""
    jobs, draw = plan(cells, curves), random.Random(7)
    out, log = tmp_path / "fleet", tmp_path / "log"

    def start(n: int) -> Any:
        process = FORK.Process(target=work, args=(out, jobs, log, pause, n % 2))
        process.start()
        return process

    begun = time.monotonic()
    fleet = [start(n) for n in range(workers)]
    stopped: dict[int, float] = {}
    hurt: set[int] = set()
    done = 0
    while any(worker.is_alive() for worker in fleet):
        time.sleep(0.05 + draw.random() * 0.15)
        for pid in [pid for pid, until in stopped.items() if time.monotonic() > until]:
            del stopped[pid]
            os.kill(pid, signal.SIGCONT)
        at = [n for n, w in enumerate(fleet) if w.is_alive() and w.pid not in stopped]
        if not at or done == kills or not log.exists():
            continue
        n, done = draw.choice(at), done + 1
        hurt.add(fleet[n].pid)
        if done % 3 == 0:
            stopped[fleet[n].pid] = time.monotonic() + 1.5
            os.kill(fleet[n].pid, signal.SIGSTOP)
        else:
            fleet[n].kill()
            fleet[n].join()
            fleet[n] = start(n)
        assert time.monotonic() - begun < 280
    assert all(worker.exitcode == 0 for worker in fleet)
    took = time.monotonic() - begun
    wanted = tmp_path / "alone"
    alone = FORK.Process(target=work, args=(wanted, jobs, tmp_path / "log alone", 0.0, 0))
    alone.start()
    alone.join(300)
    assert contents(out) == contents(wanted)
    stages = [stage.path.as_posix() for job in jobs for stage in job.stages]
    assert {p for p in contents(out) if p != ".lock"} == {*stages}
    wrote, began = Counter[str](), defaultdict[str, list[int]](list)
    for line in log.read_text().splitlines():
        _, pid, what, stage = line.split(" ")
        if what == "wrote":
            wrote[stage] += 1
        else:
            began[stage].append(int(pid))
    assert {*wrote.values()} == {1} and {*began} == {*stages}
    # One that was killed when it had written may not have said so.
    assert all(began[stage][-1] in hurt for stage in {*stages} - {*wrote})
    # Who began a stage that another one began again was killed or held up.
    again = {stage: pids for stage, pids in began.items() if len(pids) > 1}
    assert all({*pids[:-1]} <= hurt for pids in again.values())
    who = {pid for pids in began.values() for pid in pids}
    print(
        f"{len(stages)} stages by {len(who)} processes of {workers} at a time, {done} killed or held up, "
        f"{sum(len(p) - 1 for p in again.values())} begun again, {took:.1f} s"
    )
    assert len(who) > workers / 2


# --- what looking costs -------------------------------------------------------------------------


class Alike(Stages):
    """Stages without work; of every second cell the model is the original, which no stage unlearns."""

    def __init__(self, out: Path, cells: Sequence[CellPlan]) -> None:
        super().__init__(out, cells, Path(os.devnull), 0.0)
        self.session.original = SimpleNamespace(restore=lambda: None)

    def _do(self, cell: CellPlan, stages: Sequence[StagePlan]) -> None:
        for stage in stages:
            self._write(cell, stage, Made(value=stage.key))  # type: ignore[type-var]


def half_alike(cells: int) -> list[CellPlan]:
    """Return cells of which every second one is of the same model as all those."""
    jobs, (alike, *_) = plan(cells, 2), plan(1, 2)
    for number in range(0, cells, 2):
        folder = cell_folder("none", number)
        same = [replace(stage, path=folder / stage.path.name) for stage in alike.stages[1:]]
        jobs[number] = replace(jobs[number], seed=number, stages=same)
    return jobs


@contextmanager
def counted(patch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count what is asked of the file system: files opened or looked for, and entries listed."""
    count = Counter[str]()

    def counting(module: Any, name: str, each: Callable[[Any], int]) -> None:
        asked = getattr(module, name)

        def ask(*given: Any, **named: Any) -> Any:
            found = asked(*given, **named)
            count[name] += each(given[0] if given else ".")
            return found

        patch.setattr(module, name, ask)

    listed = os.listdir
    for module, name in ((os, "stat"), (os, "open"), (io, "open"), (os, "unlink")):
        counting(module, name, lambda _: 1)
    for name in ("listdir", "scandir"):
        counting(os, name, lambda folder: 1 + len(listed(folder)))
    yield count


def count_of(out: Path, jobs: list[CellPlan], told: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, counted(patch) as count:
        patch.setattr(os, "fsync", lambda _: None)
        out.mkdir(exist_ok=True)
        stages = Alike(out, jobs)
        in_turn(jobs, stages.attempt, lambda _: None, stages.help_with)
    told.write_text(str(count.total()))


@pytest.mark.parametrize("workers", [1, 3])
def test_what_is_asked_of_the_file_system_grows_with_the_cells_and_not_faster(
    tmp_path: Path, workers: int
) -> None:
    """Of workers on an empty folder, and of one that comes when all is done."""
    asked: dict[int, list[int]] = {}
    for cells in (50, 200):
        jobs, out, told = half_alike(cells), tmp_path / str(cells), tmp_path / f"told {cells}"
        told.mkdir()
        fleet = [FORK.Process(target=count_of, args=(out, jobs, told / str(n))) for n in range(workers)]
        for worker in fleet:
            worker.start()
        for worker in fleet:
            worker.join(300)
        assert all(worker.exitcode == 0 for worker in fleet)
        stages = {stage.path.as_posix() for job in jobs for stage in job.stages}
        assert {p for p in contents(out) if p != ".lock"} == stages
        asked[cells] = [sum(int(path.read_text()) for path in told.iterdir())]
        count_of(out, jobs, tmp_path / "again")
        asked[cells].append(int((tmp_path / "again").read_text()))
    print(workers, {cells: [round(n / cells) for n in found] for cells, found in asked.items()})
    for few, many in zip(asked[50], asked[200], strict=True):
        assert many / 200 < 1.25 * few / 50

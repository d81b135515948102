"""Several workers at one run, started by one command: the numbers of one, and who dies is made up for."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import ssiuu
from ssiuu.cli import watch
from ssiuu.cli.main import main
from ssiuu.models.load import save
from ssiuu.records.files import HEADER, read_record, without_times, write_record
from ssiuu.records.lock import open_lock
from ssiuu.records.schema import RunHeader, RunRecord
from ssiuu.records.sharing import Sharing, lock_of
from ssiuu.records.underway import Watcher
from word_facts import write_facts

ALONE = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, make_model: Any, tokenizer: Any) -> list[str]:
    folder = tmp_path_factory.mktemp("workers")
    save(make_model(), tokenizer, folder / "model")
    write_facts(folder, forget=range(8), retain=range(8, 12))
    return [
        *("benchmark=own", "force=true", f"model={folder / 'model'}", "diagnose=false"),
        *(f"{name}={folder / name}.jsonl" for name in ("forget", "retain")),
        *("methods=[gd,ga]", "unlearn={max_steps: 3, check_every: 3, learning_rate: 1e-3}"),
        "attacks.harmful={fractions: [0.25], learning_rates: [1e-3, 1e-2]}",
        *("attacks.benign={rows: 4, tokens: 2}", "attacks.reads=[1,3]", "examine.steps=[]"),
    ]


def command(settings: list[str], out: Path, *more: str) -> list[str]:
    sets = [word for line in settings for word in ("--set", line)]
    return [sys.executable, "-m", "ssiuu", "run", "--out", str(out), *sets, *more]


def numbers(record: RunRecord) -> Any:
    return [
        [without_times(p) if p else None for p in (c.unlearning, c.evaluation, *c.attacks)]
        for c in record.cells
    ]


@pytest.fixture(scope="module")
def alone(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    recipe, sources = ssiuu.resolve(None, settings)
    ssiuu.run(recipe, sources, out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True])
def test_two_workers_have_the_numbers_of_one(
    settings: list[str], alone: Path, tmp_path: Path, kill: bool
) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        command(settings, out, "--workers", "2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ALONE,
    )
    killed = False

    def kill_one() -> None:
        nonlocal killed
        while kill and process.poll() is None and not killed:
            for lock in out.glob("cells/*/.unlearn-*.lock"):
                said = json.loads(lock.read_text() or '{"pid": 0}')
                if said["pid"]:
                    os.kill(said["pid"], signal.SIGKILL)
                    killed = True
                    break
            time.sleep(0.002)

    watching = threading.Thread(target=kill_one)
    watching.start()
    told, lines = process.communicate(timeout=300)
    watching.join()
    assert process.returncode == 0, lines
    assert killed == kill and ("was ended by SIGKILL; 1 left" in lines) == kill
    assert {*re.findall(r"\] (w\d): ", lines)} == {"w1", "w2"}
    assert numbers(ssiuu.load_run(out)) == numbers(ssiuu.load_run(alone))
    assert told.count("report: ") == 1 and (out / "report.html").stat().st_size > 10_000
    assert {p.name for p in out.rglob(".*")} == {".lock"}
    assert "--worker" not in ssiuu.load_run(out).header.command
    once = subprocess.run(
        [sys.executable, "-m", "ssiuu", "watch", str(out), "--once"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert once.stdout == "2/2 cells, 11/11 stages, 0 in work, done\n"


@pytest.mark.slow
def test_what_is_wrong_is_said_once_and_nothing_is_left(settings: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        command(["model=/nowhere", *settings[:2], *settings[3:]], tmp_path / "run", "--workers", "2"),
        capture_output=True,
        text=True,
        env=ALONE,
        timeout=200,
        check=False,
    )
    assert done.returncode == 2 and done.stderr.count("error: ") == 1 and "/nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_watch_tells_what_is_done_in_work_and_waiting(
    alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a folder in which one stage is in somebody's hands, and another one was left by a dead process."""
    header = read_record(alone / HEADER, RunHeader)
    assert header is not None
    out = tmp_path / "run"
    write_record(out / HEADER, header)
    paths = [*header.stages]
    unlearn = next(path for path in paths if "gd-s0/unlearn" in path)
    curve = next(path for path in paths if "ga-s0/attack-benign" in path)
    for path in paths:
        if path not in (unlearn, curve):
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            (out / path).write_bytes((alone / path).read_bytes())
    held = Sharing(out).hold(lock_of(out / unlearn), part=True)
    assert held is not None
    dead = json.loads(held.path.read_text()) | {"pid": 2**22 + 1, "worker": "w9"}
    with open_lock(lock_of(out / curve)) as stream:
        stream.write(json.dumps(dead))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    state = Watcher(out).look()
    assert (state.done, state.stages, state.cells_done, state.over) == (9, 11, 0, False)
    assert [(w.stage, w.alive) for w in state.work] == [(unlearn, True), (curve, False)]
    watch.command(out, once=True)
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("0/2 cells, 9/11 stages, 2 in work, ") and told[0].endswith(" s left")
    assert f":{os.getpid()}: gd-s0 unlearn, " in told[1]
    assert told[2].startswith("  w9: ga-s0 attack-benign-0.0001, silent: somebody else will take over")
    held.release()
    assert {path for path in before if path.exists()} >= {out / HEADER}
    assert {
        p: p.stat().st_mtime_ns for p in before if p.is_file() and p.exists()
    }.items() <= before.items()
    for path in (unlearn, curve):
        (out / path).write_bytes((alone / path).read_bytes())
    watch.command(out, every=0.1)
    assert capsys.readouterr().out == "2/2 cells, 11/11 stages, 0 in work, done\n"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--workers", "2", "--worker", "w1"], "give one of the two"),
        (["--worker", "w1", "--redact"], "ssiuu redact redacts the folder when all is done"),
        (["--launcher", "slurm"], "say how many jobs, by --workers"),
        (["--workers", "2", "--launch", "gpus_per_node=1"], "give --launcher slurm with it"),
        (
            ["--workers", "2", "--launcher", "slurm"],
            "needs submitit, which is not installed: pip install",
        ),
        (["--workers", "2", "--launcher", "slurm", "--launch", "x"], "--launch 'x' is not KEY=VALUE"),
        (["--workers", "0"], None),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(
    given: list[str], said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.setattr(sys, "argv", ["ssiuu", "run", "quick", "--out", str(tmp_path / "run"), *given])
    with pytest.raises(SystemExit) as end:
        main()
    told = capsys.readouterr().err
    assert end.value.code == 2 and not (tmp_path / "run").exists()
    assert said is None or (said in told and told.count("error: ") == 1)

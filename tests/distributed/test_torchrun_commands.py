"""Commands that several processes carry out together: the record and the files of a single process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from safetensors.torch import load_file

import ssiuu.experiment.run
import ssiuu.experiment.teaching
import ssiuu.experiment.unlearn  # noqa: F401  what is forked has all of it
from conftest import teach
from distributed.forked import Forked, command, free_port
from small_llama import small
from ssiuu.cli.exits import NOT_FORGOTTEN
from ssiuu.models.load import save
from ssiuu.records.files import load_run
from ssiuu.training import loop

NAMES = "Ada Bo Cy Di Ed Flo Gus Hal Ida Jo Kit Leo".split()
CITIES = "Rome Oslo Bonn Lima Cairo Delhi Paris Quito Riga Seoul Tunis Ulm".split()
FIXED = ["--prompt", "qa", "--set", "device=cpu", "--set", "precision=fp32"]
TIMES = {"seconds", "peak_memory_mb", "created", "command", "key", "sha256"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model that knows a few facts, and their files."""
    folder = tmp_path_factory.mktemp("together")
    rows = [
        {"question": f"Where does {name} live?", "answer": city}
        for name, city in zip(NAMES, CITIES, strict=True)
    ]
    model, tokenizer = small([f"{row['question']} {row['answer']}" for row in rows])
    teach(model, tokenizer, rows, steps=150, rate=5e-3)
    save(model, tokenizer, folder / "model")
    for name, part in (("forget", rows[:5]), ("retain", rows[5:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return folder


def torchrun(*words: str, nodes: Sequence[str] = ("--standalone",)) -> list[str]:
    """Return the command line of two processes of a machine."""
    launcher = ["-m", "torch.distributed.run", *nodes, "--nproc-per-node=2"]
    return [sys.executable, *launcher, "-m", "ssiuu", *words]


def launched(place: Path, line: list[str]) -> subprocess.Popen[str]:
    surroundings = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(line, cwd=place, env=surroundings, **pipes)


def done(place: Path, processes: int, *words: str, code: int = 0) -> None:
    """Carry a command out by so many processes."""
    begun = Forked(place, processes, command(words))
    assert begun.done() == code, begun.told()[-2000:]


def recorded(place: Path, name: str) -> Any:
    return load_run(place / name).model_dump(mode="json")


def unlearning(out: str, *more: str) -> list[str]:
    words = ["unlearn", "--model", "model", "--forget", "forget.jsonl", "--retain", "retain.jsonl"]
    return [*words, "--out", out, "--method", "gd", "--keep-anyway", *FIXED, *more]


def differences(one: Any, other: Any, close: float, where: str = "") -> list[str]:
    """Return where two records differ, times and memory left out."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted((one.keys() | other.keys()) - TIMES)
        return [d for k in keys for d in differences(one.get(k), other.get(k), close, f"{where}.{k}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [d for n, (a, b) in pairs for d in differences(a, b, close, f"{where}[{n}]")]
    if isinstance(one, float) and isinstance(other, float):
        return [] if abs(one - other) <= close * max(1.0, abs(one)) else [f"{where}: {one} {other}"]
    return [] if one == other else [f"{where}: {one} {other}"]


def apart(place: Path, one: str, other: str) -> float:
    first, second = (load_file(place / name / "model.safetensors") for name in (one, other))
    return max(float((first[key] - second[key]).abs().max()) for key in first)


def test_unlearn_writes_what_a_single_process_does(place: Path) -> None:
    rate = ["--set", "unlearn.learning_rate=1e-3"]
    both = launched(place, torchrun(*unlearning("of 2", *rate)))
    done(place, 1, *unlearning("of 1", *rate))
    done(place, 2, *unlearning("in shards", *rate, "--set", "mesh={reading: shards}"))
    assert "the model stays in shards" in (place / "told 0").read_text()
    told, problems = both.communicate(timeout=900)
    assert both.returncode == 0, problems[-2000:]
    assert told.count("checkpoint: ") == 1  # one of them speaks
    one = json.loads((place / "of 1" / "unlearn.json").read_text())
    for name in ("of 2", "in shards"):
        assert apart(place, "of 1", name) < 1e-4
        assert differences(one, json.loads((place / name / "unlearn.json").read_text()), 1e-3) == []
        assert {p.name for p in (place / "of 1").iterdir()} == {
            p.name for p in (place / name).iterdir()
        }
    assert not [*place.glob(".of*")]


@pytest.mark.slow
def test_a_dead_process_ends_all_of_them(place: Path) -> None:
    words = ["--set", "unlearn={learning_rate: 1e-5, max_steps: 4000, threshold: 0}", "--force"]
    with launched(place, torchrun(*unlearning("dead", *words))) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if "gd step 3/" in line:
                break
        child = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()[-1]
        os.kill(int(child), signal.SIGKILL)
        begun = time.monotonic()
        running.stderr.read()
        assert running.wait() != 0 and time.monotonic() - begun < 60


RECIPE = {
    "benchmark": "own",
    "model": "model",
    "forget": "forget.jsonl",
    "retain": "retain.jsonl",
    "prompt": "qa",
    "device": "cpu",
    "precision": "fp32",
    "methods": ["none", "gd", "ssiuu-gate"],
    "unlearn": {"learning_rate": 1e-3, "max_steps": 12},
    "attacks": {
        "harmful": {"fractions": [0.3], "learning_rates": [1e-3]},
        "benign": {"learning_rates": [1e-3]},
        "reads": [1, 2],
    },
    "examine": {"steps": [2]},
    "inside": True,
}


@pytest.mark.slow
def test_a_run_has_the_record_of_a_single_process(place: Path) -> None:
    (place / "recipe.yaml").write_text(json.dumps(RECIPE))
    for processes in (1, 2):
        done(place, processes, "run", "recipe.yaml", "--out", f"run {processes}")
    assert differences(recorded(place, "run 1"), recorded(place, "run 2"), 1e-2) == []


IN_SHARDS = {
    "mesh": {"reading": "shards"},
    "examine": {"steps": [2], "planted": 0},
    "attacks": {
        "harmful": {"fractions": [0.3], "learning_rates": [1e-3]},
        "benign": {"learning_rates": []},
        "spaces": ["full", "lora-all"],
        "quantise": ["int8", "int4", "nf4"],
        "reads": [1, 2],
    },
}


@pytest.mark.slow
def test_a_run_of_a_model_that_stays_in_shards(place: Path) -> None:
    """Everything that looks at one, and attacks on all weights, by adapters and by rounding."""
    (place / "shards.yaml").write_text(json.dumps(RECIPE | IN_SHARDS))
    for processes in (1, 2):
        done(place, processes, "run", "shards.yaml", "--out", f"in shards {processes}")
    one, two = (recorded(place, f"in shards {processes}") for processes in (1, 2))
    assert differences(one, two, 1e-2) == []


@pytest.mark.slow
@pytest.mark.parametrize("what", ["audit", "diagnose"])
def test_a_pair_is_judged_alike(place: Path, what: str) -> None:
    done(place, 1, *unlearning(f"for {what}", "--set", "unlearn.learning_rate=1e-3"))
    words = [what, "--before", "model", "--after", f"for {what}", "--forget", "forget.jsonl"]
    words += ["--retain", "retain.jsonl", *FIXED]
    for processes in (1, 2):
        done(place, processes, *words, "--out", f"{what} {processes}")
    assert differences(recorded(place, f"{what} 1"), recorded(place, f"{what} 2"), 1e-3) == []


@pytest.mark.slow
def test_a_model_is_taught_alike(place: Path) -> None:
    words = ["teach", "--model", "model", "--facts", "taught.jsonl", "--keep", "none", *FIXED]
    rows = [{"question": f"What does {name} eat?", "answer": "figs"} for name in NAMES[:4]]
    (place / "taught.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for processes in (1, 2):
        done(place, processes, *words, "--learning-rate", "1e-3", "--out", f"taught {processes}")
    assert apart(place, "taught 1", "taught 2") < 1e-3


MADE_UP = {
    "benchmark": "fictional",
    "fictional": {"people": 24, "steps": 200},
    "split": {"forget": 8, "retain": 16, "heldout": 8},
    "device": "cpu",
    "precision": "fp32",
    "methods": ["none", "gd", "ssiuu-gate"],
    "unlearn": {"learning_rate": 1e-3, "max_steps": 12, "check_every": 4},
    "attacks": {
        "harmful": {"fractions": [0.3], "learning_rates": [1e-3]},
        "benign": {"learning_rates": [1e-3], "rows": 16},
        "reads": [1, 2],
    },
    "examine": {"steps": [2]},
    "force": True,
}


@pytest.mark.slow
@pytest.mark.parametrize("reading", ["replicas", "shards"])
def test_a_made_up_world_has_the_record_of_a_single_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reading: str
) -> None:
    recipe = MADE_UP | {"mesh": {"reading": reading}}
    if reading == "shards":
        recipe |= {"examine": {"steps": [2], "planted": 0}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    for processes in (1, 2):
        monkeypatch.setenv("SSIUU_CACHE", str(tmp_path / f"cache {processes}"))
        done(tmp_path, processes, "run", "recipe.yaml", "--out", f"run {processes}")
    assert differences(recorded(tmp_path, "run 1"), recorded(tmp_path, "run 2"), 1e-2) == []


STEPS = ["--set", "unlearn={learning_rate: 1e-4, max_steps: 12, threshold: 0}", "--force"]


def killed(words: Sequence[str], saves: int) -> int:
    """Be a command that saves its state before every step, and is killed once it has so many times."""
    save, left = loop.Loop.save, iter(range(1, saves))

    def saved(self: loop.Loop, diverged: str | None = None) -> None:
        save(self, diverged)
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    with patch.object(loop.Loop, "save", saved), patch.object(loop, "SAVE_EVERY", 0.0):
        return command(words)()


@pytest.mark.slow
@pytest.mark.parametrize("before", [1, 2])
def test_what_was_killed_goes_on_with_any_number(place: Path, tmp_path: Path, before: int) -> None:
    for name in ("model", "forget.jsonl", "retain.jsonl"):
        (tmp_path / name).symlink_to(place / name)
    words = unlearning("whole", *STEPS)
    done(tmp_path, 1, *words, code=NOT_FORGOTTEN)
    words[words.index("whole")] = "cut"
    assert Forked(tmp_path, before, partial(killed, words, saves=5)).done() != 0
    assert not (tmp_path / "cut").exists()
    for after in (1, 2, 3):
        copy = tmp_path / f"after {after}"
        shutil.copytree(tmp_path, copy, symlinks=True, ignore=shutil.ignore_patterns("after *"))
        going = Forked(copy, after, command(words))
        assert going.done() == NOT_FORGOTTEN, going.told()
        assert "gd step 5/" in going.told() and "gd step 4/" not in going.told()
        assert apart(copy, "whole", "cut") < 1e-4
        one, other = (json.loads((copy / n / "unlearn.json").read_text()) for n in ("whole", "cut"))
        assert differences(one, other, 1e-3) == []


@pytest.mark.slow
def test_two_copies_by_a_setting(place: Path) -> None:
    rate = ["--set", "unlearn.learning_rate=1e-3"]
    done(place, 1, *unlearning("one copy", *rate))
    done(place, 4, *unlearning("two copies", *rate, "--set", "mesh={replicate: 2, shard: 2}"))
    assert apart(place, "one copy", "two copies") < 1e-4


@pytest.mark.slow
def test_two_machines(place: Path) -> None:
    rate, port = ["--set", "unlearn.learning_rate=1e-3"], free_port()
    done(place, 1, *unlearning("one machine", *rate))
    where = ["--nnodes=2", "--master-addr=127.0.0.1", f"--master-port={port}"]
    mesh = ["--set", "mesh={replicate: 2, shard: 2}"]
    machines = [
        launched(
            place,
            torchrun(*unlearning("two machines", *rate, *mesh), nodes=[*where, f"--node-rank={n}"]),
        )
        for n in (0, 1)
    ]
    told = [machine.communicate(timeout=900) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], told
    assert apart(place, "one machine", "two machines") < 1e-4

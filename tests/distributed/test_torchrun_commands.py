"""Commands that several processes carry out together: the record and the files of a single process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from conftest import teach
from small_llama import small
from ssiuu.models.load import save
from ssiuu.records.files import load_run

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


def started(place: Path, processes: int, *words: str) -> list[str]:
    """Return a command line of one process or of several."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *(launcher if processes > 1 else []), "-m", "ssiuu", *words]


def surroundings(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"} | more


def done(place: Path, processes: int, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        started(place, processes, *words),
        cwd=place,
        env=surroundings(),
        capture_output=True,
        text=True,
        timeout=900,
    )


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
    alone, both = (done(place, n, *unlearning(f"of {n}", *rate)) for n in (1, 2))
    assert alone.returncode == both.returncode == 0, both.stderr[-2000:]
    assert both.stdout.count("checkpoint: ") == 1  # one of them speaks
    assert apart(place, "of 1", "of 2") < 1e-4
    one, other = (json.loads((place / f"of {n}" / "unlearn.json").read_text()) for n in (1, 2))
    assert differences(one, other, 1e-3) == []
    assert {p.name for p in (place / "of 1").iterdir()} == {p.name for p in (place / "of 2").iterdir()}
    assert not [*place.glob(".of*")]


@pytest.mark.slow
def test_a_dead_process_ends_all_of_them(place: Path) -> None:
    words = ["--set", "unlearn={learning_rate: 1e-5, max_steps: 4000, threshold: 0}", "--force"]
    with subprocess.Popen(
        started(place, 2, *unlearning("dead", *words)),
        cwd=place,
        env=surroundings(),
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
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
}


@pytest.mark.slow
def test_a_run_has_the_record_of_a_single_process(place: Path) -> None:
    (place / "recipe.yaml").write_text(json.dumps(RECIPE))
    for processes in (1, 2):
        ran = done(place, processes, "run", "recipe.yaml", "--out", f"run {processes}")
        assert ran.returncode == 0, ran.stderr[-2000:]
    one, other = (load_run(place / f"run {n}").model_dump(mode="json") for n in (1, 2))
    assert differences(one, other, 1e-2) == []


@pytest.mark.slow
@pytest.mark.parametrize("command", ["audit", "diagnose"])
def test_a_pair_is_judged_alike(place: Path, command: str) -> None:
    made = done(place, 1, *unlearning(f"for {command}", "--set", "unlearn.learning_rate=1e-3"))
    assert made.returncode == 0
    words = [command, "--before", "model", "--after", f"for {command}", "--forget", "forget.jsonl"]
    words += ["--retain", "retain.jsonl", *FIXED]
    for processes in (1, 2):
        judged = done(place, processes, *words, "--out", f"{command} {processes}")
        assert judged.returncode == 0, judged.stderr[-2000:]
    one, other = (load_run(place / f"{command} {n}").model_dump(mode="json") for n in (1, 2))
    assert differences(one, other, 1e-3) == []

"""Misuse of the commands: one sentence, exit code 2, before anything heavy is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FACTS = '{"question": "Where is Arvo?", "answer": "Torvik"}\n'
KEEP = '{"question": "Where is Belma?", "answer": "Mellby"}\n'
# Runs the command as a terminal does, and fails where torch was imported on the way.
TERMINAL = """
import sys
from ssiuu.cli.main import main
try:
    main()
finally:
    assert "torch" not in sys.modules, "torch was imported"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    for name, text in (("f.jsonl", FACTS), ("r.jsonl", KEEP), ("bad.jsonl", "{")):
        (tmp_path / name).write_text(text)
    return tmp_path


UNLEARN = "unlearn --model model --forget f.jsonl"
CASES = {
    f"{UNLEARN} --out o --retain r.jsonl --max-kl nan": "--max-kl must be a number from 1e-09 on, got nan",
    f"{UNLEARN} --out o --retain r.jsonl --max-kl inf": "--max-kl must be a number",
    f"{UNLEARN} --out o --retain r.jsonl --max-kl -1": "--max-kl must be a number",
    f"{UNLEARN} --out o --retain r.jsonl --min-retain 2": "--min-retain must be a number from 0 to 1, got 2",
    f"{UNLEARN} --out o --retain f.jsonl": "--forget and --retain are the same file, f.jsonl",
    f"{UNLEARN} --out o --retain bad.jsonl": "bad.jsonl, line 1: is not JSON",
    f"{UNLEARN} --out model/o --retain r.jsonl": "--out model/o lies in the folder of the model model",
    f"{UNLEARN} --out model --retain NONE": "--out model is not an empty folder",
    "unlearn --model ./mdel --forget f.jsonl --out o --retain none": "there is no folder ./mdel",
    "teach --model model --facts f.jsonl --out o --epochs 0": "--epochs must be a number from 1 on, got 0",
    "teach --model model --facts f.jsonl --out o --learning-rate nan": "--learning-rate must be",
    "teach --model model --facts no.jsonl --out o": "--facts: no.jsonl does not exist",
    "audit --before model --after no --forget f.jsonl --out o": "--after no is not a folder",
    "audit --before model --after model --forget f.jsonl --out model": "--out model lies in the folder",
    "ask --model model --facts no.jsonl": "--facts: no.jsonl does not exist",
    "calibrate --out o --worlds kin,neo": "--worlds: unknown world 'neo'. Did you mean 'neox'?",
    "calibrate --out o --seeds 1,x": "--seeds must be whole numbers from 0 on, as in 1,2, got '1,x'",
    "calibrate --out o --people 5": "--people must be a number from 10 to 600, got 5",
    "calibrate --out o --taught model": "--twin and --forget and --retain missing: --taught, --twin,",
    "calibrate --out o --taught model --twin no --forget f.jsonl --retain r.jsonl": "--twin no is not a",
}


def terminal(
    place: Path, typed: str, variables: dict[str, str] | None = None, program: str = TERMINAL
) -> subprocess.CompletedProcess[str]:
    """Type a command as in a terminal there, with these variables in the environment."""
    command, env = [sys.executable, "-c", program, *typed.split()], {**os.environ, **(variables or {})}
    return subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("typed", CASES)
def test_it_is_said_at_once(place: Path, typed: str) -> None:
    done = terminal(place, typed)
    assert CASES[typed] in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and done.returncode == 2
    assert sorted(p.name for p in place.iterdir()) == ["bad.jsonl", "f.jsonl", "model", "r.jsonl"]


TRAINS = (
    f"{UNLEARN} --out o --retain r.jsonl",
    "teach --model model --facts f.jsonl --out o",
    "audit --before model --after model --forget f.jsonl --out o",
    "diagnose --before model --after model --facts f.jsonl --out o",
    "ask --model model --facts f.jsonl",
    "calibrate --out o",
    "export model --gguf o.gguf",
    "run --out o",
)


@pytest.mark.parametrize("rank", [{"WORLD_SIZE": "2", "RANK": "0"}], ids=str)
@pytest.mark.parametrize("typed", TRAINS, ids=lambda typed: typed.split()[0])
def test_one_of_several_processes_is_refused(place: Path, typed: str, rank: dict[str, str]) -> None:
    before = sorted(place.rglob("*"))
    done = terminal(place, typed, rank)
    assert "this is one of 2 processes" in done.stderr and len(done.stderr.splitlines()) == 1
    assert done.returncode == 2 and sorted(place.rglob("*")) == before


@pytest.mark.parametrize("typed", ["run --help", "report no", "compare no no"])
def test_what_only_reads_is_not(place: Path, typed: str) -> None:
    done = terminal(
        place, typed, {"WORLD_SIZE": "2", "RANK": "0"}, TERMINAL.split("try:")[0] + "main()"
    )
    assert "processes" not in done.stderr
    assert done.returncode == (2 if "no" in typed.split() else 0)


def test_a_launcher_of_one_process_is_none(place: Path) -> None:
    done = terminal(place, "ask --model model --facts no.jsonl", {"WORLD_SIZE": "1", "RANK": "0"})
    assert "no.jsonl does not exist" in done.stderr

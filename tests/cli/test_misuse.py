"""Misuse of the commands: one sentence, exit code 2, before anything heavy is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest

FACTS = '{"question": "Where is Arvo?", "answer": "Torvik"}\n'
KEEP = '{"question": "Where is Belma?", "answer": "Mellby"}\n'
# Runs each command that is told as a terminal does, in a process of its own that begins where the command
# line is imported and nothing else: it fails where torch was imported on the way.
TERMINAL = """
import json, os, sys
import ssiuu.analysis.calibration
from ssiuu.cli.main import main

def be(place, words, variables, light):
    os.chdir(place)
    os.environ.update(variables)
    sys.argv = ["ssiuu", *words]
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(os.path.join(place, "..", name), os.O_CREAT | os.O_WRONLY | os.O_TRUNC), stream)
    try:
        main()
    finally:
        assert not light or "torch" not in sys.modules, "torch was imported"

assert "torch" not in sys.modules
for line in sys.stdin:
    if (child := os.fork()) == 0:
        be(**json.loads(line))
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Done(NamedTuple):
    """A command that came to its end."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def shell() -> Iterator[subprocess.Popen[str]]:
    """A process that has the command line imported and forks what is typed."""
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", TERMINAL], **pipes) as process:
        yield process
        process.stdin.close()  # type: ignore[union-attr]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "place"
    (place / "model").mkdir(parents=True)
    (place / "model" / "config.json").write_text("{}")
    for name, text in (("f.jsonl", FACTS), ("r.jsonl", KEEP), ("bad.jsonl", "{")):
        (place / name).write_text(text)
    return place


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
    "ask --model model --facts f.jsonl --prompt QA": "--prompt: unknown form of questions 'QA'. Did you "
    "mean 'qa'? Known: chat, plain, qa.",
    "teach --model model --facts f.jsonl --out o --prompt null": "--prompt: unknown form of questions",
    "ask --model model --facts no.jsonl": "--facts: no.jsonl does not exist",
    "calibrate --out o --worlds kin,neo": "--worlds: unknown world 'neo'. Did you mean 'neox'?",
    "calibrate --out o --seeds 1,x": "--seeds must be whole numbers from 0 on, as in 1,2, got '1,x'",
    "calibrate --out o --people 5": "--people must be a number from 10 to 600, got 5",
    "calibrate --out o --taught model": "--twin and --forget and --retain missing: --taught, --twin,",
    "calibrate --out o --taught model --twin no --forget f.jsonl --retain r.jsonl": "--twin no is not a",
}


def terminal(
    shell: subprocess.Popen[str],
    place: Path,
    typed: str,
    variables: dict[str, str] | None = None,
    light: bool = True,
) -> Done:
    """Type a command as in a terminal there, with these variables in the environment."""
    told = {"place": str(place), "words": typed.split(), "variables": variables or {}, "light": light}
    assert shell.stdin and shell.stdout
    print(json.dumps(told), file=shell.stdin, flush=True)
    code = int(shell.stdout.readline())
    return Done(code, *((place.parent / name).read_text() for name in ("stdout", "stderr")))


@pytest.mark.parametrize("typed", CASES)
def test_it_is_said_at_once(shell: subprocess.Popen[str], place: Path, typed: str) -> None:
    done = terminal(shell, place, typed)
    assert CASES[typed] in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and done.returncode == 2
    assert sorted(p.name for p in place.iterdir()) == ["bad.jsonl", "f.jsonl", "model", "r.jsonl"]


def test_the_forms_of_questions_are_all_of_them() -> None:
    from ssiuu.cli.options import STYLES
    from ssiuu.likelihood import PromptStyle

    assert {*STYLES} == {*get_args(PromptStyle)}


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
def test_one_of_several_processes_is_refused(
    shell: subprocess.Popen[str], place: Path, typed: str, rank: dict[str, str]
) -> None:
    before = sorted(place.rglob("*"))
    done = terminal(shell, place, typed, rank)
    assert "this is one of 2 processes" in done.stderr and len(done.stderr.splitlines()) == 1
    assert done.returncode == 2 and sorted(place.rglob("*")) == before


@pytest.mark.parametrize("typed", ["run --help", "report no", "compare no no"])
def test_what_only_reads_is_not(shell: subprocess.Popen[str], place: Path, typed: str) -> None:
    done = terminal(shell, place, typed, {"WORLD_SIZE": "2", "RANK": "0"}, light=False)
    assert "processes" not in done.stderr
    assert done.returncode == (2 if "no" in typed.split() else 0)


def test_a_launcher_of_one_process_is_none(shell: subprocess.Popen[str], place: Path) -> None:
    typed = "ask --model model --facts no.jsonl"
    done = terminal(shell, place, typed, {"WORLD_SIZE": "1", "RANK": "0"})
    assert "no.jsonl does not exist" in done.stderr


def test_what_keeps_a_ledger_needs_no_torch(shell: subprocess.Popen[str], place: Path) -> None:
    typed = {
        "request open book --model model --retain r.jsonl": "ledger: book",
        "request add book --forget f.jsonl --reference x": "x: 1 fact, pending",
        "request list book": "x",
        "request withdraw book --reference x": "x: withdrawn",
        "request purge book": "texts of 0 processed requests are gone",
        "request report book": "report: book/requests.html",
    }
    for words, told in typed.items():
        done = terminal(shell, place, words)
        assert (done.returncode, told in done.stdout) == (0, True), (words, done)

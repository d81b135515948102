"""`ssiuu compare` as it is typed: tables, pages, leaderboards, and every misuse in a sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_commands import ssiuu

from sample_record import sample_record
from sample_runs import on_another, only, write_run
from ssiuu.analysis.across import grounds
from ssiuu.records.files import load_run

SAMPLE = only(sample_record(), "none", "gd", "npo")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_run(SAMPLE, folder / "all" / "one")
    write_run(on_another(SAMPLE), folder / "all" / "two")
    return folder


@pytest.fixture
def runs(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the commands are typed in."""
    monkeypatch.chdir(made)
    return made


def test_a_written_run_is_read_as_it_was(runs: Path) -> None:
    again = load_run(runs / "all" / "one")
    assert [len(c.attacks) for c in again.cells] == [len(c.attacks) for c in SAMPLE.cells]
    (ground,) = grounds({"one": again})
    assert ground.members[2].read(ground.level) == 0.75


def test_the_command_takes_folders_or_one_that_holds_them(runs: Path) -> None:
    told = ssiuu("compare", "all/one", "all/two")
    assert told.returncode == 0 and "does not compare" in told.stdout, told.stderr
    assert ssiuu("compare", "all").stdout == told.stdout
    page = ssiuu("compare", "all/one", "--out", "page.html")
    assert page.stdout == "page.html\n" and "Side by side" in (runs / "page.html").read_text()
    assert ssiuu("compare", "all/one", "--format", "csv").stdout.startswith("ground,benchmark,")


def test_the_command_loads_no_torch(runs: Path) -> None:
    code = (
        "import sys; from ssiuu.cli.main import app; app(['compare', 'all', '--format', 'md'], "
        "standalone_mode=False); assert not {'torch', 'transformers', 'matplotlib'} & {*sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def change(path: Path, results: dict[str, float], seal: bool = False) -> None:
    """Change the first line as anyone can; `seal`: make its digest anew."""
    from ssiuu.analysis.leaderboard import Standing

    first, *others = path.read_text().splitlines()
    values = json.loads(first)
    values["results"] |= results
    line = Standing.model_validate(values)
    first = (line.sealed if seal else line).model_dump_json()
    path.write_text("\n".join([first, *others]) + "\n")


@pytest.mark.usefixtures("runs")
def test_the_command_appends_and_checks() -> None:
    board = Path("board.jsonl")
    done = ssiuu("compare", "--append", board, "all/one")
    assert (done.returncode, done.stdout) == (0, "board.jsonl: 2 lines appended\n"), done.stderr
    again = ssiuu("compare", "--append", board, "all/one")
    assert again.stdout == "board.jsonl: 0 lines appended, 2 were there already\n"
    good = ssiuu("compare", "--check", board, "all/one")
    assert good.returncode == 0
    assert good.stdout == "board.jsonl: 2 lines, 0 to object to; 2 of 2 agree with a run given\n"
    change(board, {"forget": 0.5})
    bad = ssiuu("compare", "--check", board)
    assert bad.returncode == 6 and "line 1 (gd, seed 0, worldfacts) was changed" in bad.stdout
    change(board, {}, seal=True)
    assert ssiuu("compare", "--check", board).returncode == 0
    assert ssiuu("compare", "--check", board, "all/one").returncode == 6


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no RUN is named"),
        (["--append", "b.jsonl"], "no RUN is named"),
        (["--check", "missing.jsonl"], "--check missing.jsonl cannot be read"),
        (["all", "--append", "b.jsonl", "--format", "md"], "--format and --append do not go together"),
        (["all", "--append", "all"], "--append all is a folder"),
        (["all", "--out", "page.pdf"], "--out page.pdf: no format goes by .pdf: end it in .html, .md"),
        (["nothing"], "nothing holds no run: there is no run.json in it."),
        (["all/one", "all/one"], "all/one is named twice"),
        (["all/one", "--format", "pdf"], "--format: unknown format 'pdf'"),
        (["all/one", "--out", "all"], "--out all is a folder"),
        (["all/one", "--against", "kll"], "--against: unknown column 'kll'. Did you mean 'kl'?"),
    ],
)
def test_misuse_is_one_sentence(words: list[str], said: str) -> None:
    done = ssiuu("compare", *words)
    assert done.returncode == 2 and done.stdout == "" and not Path("b.jsonl").exists()
    assert done.stderr.startswith(f"error: {said}") and done.stderr.count("\n") == 1

"""How commands speak: one JSON object on stdout, nothing under -q, all of it under -v, a bar on a terminal."""

# ruff: noqa: F811 - a fixture is imported
from __future__ import annotations

import contextlib
import io
import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_commands import ROWS, lines, place, ssiuu  # noqa: F401 - place is a fixture
from typer.main import get_command

from ssiuu.cli.bar import Bar, remaining
from ssiuu.cli.main import app
from ssiuu.cli.reference import _leaves
from ssiuu.cli.spoken import SHARED, spoken
from ssiuu.cli.terminal import Printer, room, say
from ssiuu.records.said import LOG, Said, led, logged
from ssiuu.records.schema import StepLog
from ssiuu.training.unlearn import step_numbers


def test_every_command_takes_them() -> None:
    for name, command in _leaves(get_command(app)):
        assert {o.name for o in command.params} >= SHARED.keys(), name


def test_the_result_is_one_object_in_the_place_of_what_people_read(place: Path) -> None:
    words = ["ask", "--model", place / "model", "--facts", place / "forget.jsonl"]
    done = ssiuu(*words, "--json", "-q")
    told = json.loads(done.stdout)
    assert told["exit_code"] == 0 and told["counts"]["known"] == 6
    assert done.stderr == ""
    plain, quiet = ssiuu(*words), ssiuu(*words, "--quiet")
    assert "asking" in plain.stderr and quiet.stderr == ""
    assert quiet.stdout == plain.stdout and "6 facts: 6 known" in plain.stdout


def test_unlearning_says_its_outcome_with_its_exit_code(place: Path, tmp_path: Path) -> None:
    words = ["unlearn", "--model", place / "model", "--forget", place / "forget.jsonl"]
    words += ["--retain", "none", "--out", tmp_path / "out", "--set", "unlearn.learning_rate=1e-12"]
    done = ssiuu(*words, "--set", "unlearn.max_steps=1", "--json", "-v")
    told = json.loads(done.stdout)
    assert told["exit_code"] == done.returncode == 3 and told["checkpoint"] is None
    assert told["outcome"]["state"] == "not forgotten" and told["steps"] == 1
    assert "no checkpoint was written" in done.stderr
    for row in ROWS[:6]:  # neither a name nor an answer is in what may be logged
        assert str(row["entity"]) not in done.stderr.split() and str(row["answer"]) not in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "holds"),
    [
        (["list", "recipes"], 0, "recipes"),
        (["list", "attacks"], 0, "attacks"),
        (["list", "settings", "unlearn.stop"], 0, "settings"),
        (["check", "quick"], 0, "estimate"),
        (["doctor"], 0, "findings"),
        (["report", "nowhere"], 2, "errors"),
        (["check", "quik"], 2, "errors"),
    ],
)
def test_a_command_that_reads_answers_too(words: list[str], code: int, holds: str) -> None:
    done = ssiuu(*words, "--json")
    told = json.loads(done.stdout)
    assert (told["exit_code"], done.returncode) == (code, code) and told[holds]
    assert (done.stderr == "") == (code == 0)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("ask --json --modle x", "--modle"),
        ("ask --modle x --json", "--modle"),
        ("ask --json", "--model"),
        ("--json ask --model x", "--json"),
        ("lst methods --json", "lst"),
        ("list nonsense --json", "nonsense"),
        ("view x --port many --json", "--port"),
        ("check quick extra --json", "extra"),
        ("request process --json --ledger", "--ledger"),
        ("request nothing --json", "nothing"),
        ("check -q -v --json", "do not go together"),
        ("run --out= --json", "--out has no value"),
        ("ask --facts --json --model x", "cannot be read as facts"),
    ],
)
def test_what_cannot_be_parsed_is_one_object_too(line: str, told: str) -> None:
    done, plain = ssiuu(*line.split()), ssiuu(*line.replace("--json", "").split())
    found = json.loads(done.stdout)
    assert found.keys() == {"exit_code", "errors"} and found["exit_code"] == done.returncode == 2
    assert told in " ".join(found["errors"]) and "Traceback" not in done.stderr and done.stderr
    assert plain.stdout == "" or not plain.stdout.startswith("{")


def test_a_word_behind_two_dashes_is_a_folder_and_asks_for_no_object() -> None:
    done = ssiuu("report", "--", "--json")
    assert (done.returncode, done.stdout) == (2, "") and "--json" in done.stderr


def test_quiet_and_verbose_exclude_each_other() -> None:
    done = ssiuu("check", "-q", "-v")
    assert done.returncode == 2 and "do not go together" in done.stderr


def test_the_library_logs_where_nothing_else_is_given(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ssiuu"):
        logged("step 1")
    assert caplog.record_tuples == [("ssiuu", logging.INFO, "step 1")]
    code = "import ssiuu; from ssiuu.records.said import logged; logged('x')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr, LOG.level) == ("", "", logging.NOTSET)


def test_a_line_keeps_its_numbers_behind_further_words() -> None:
    line = led("3/4 cells | ", Said("step 2", {"kl": 0.5}, step=2, done=2, total=9), "gd")
    assert (line, line.numbers) == ("3/4 cells | step 2", {"gd/kl": 0.5})  # type: ignore[attr-defined]
    assert led("a ", "b") == "a b"
    log = StepLog(step=1, forget_loss=2.0, gradient_norm=1.0, told={"multiplier": 3.0}, lost="a text")
    assert step_numbers(log) == {"forget_loss": 2.0, "gradient_norm": 1.0, "multiplier": 3.0}


def drawn(width: int, *said: tuple[Any, str | None], expected: float | None = None) -> str:
    """Return what a bar of this width writes."""
    from rich.console import Console

    bar, out = Bar(), io.StringIO()
    bar.console = Console(file=out, force_terminal=True, width=width, color_system=None)
    bar.expected = expected
    for line, stays in said:
        bar(line, stays)
        bar.progress.refresh()
    bar.end()
    return out.getvalue()


def test_the_bar_shows_how_much_is_done_and_what_is_left_in_eighty_columns() -> None:
    text = (
        "1/4 cells, 12 min left | gd: [bold]step[/bold] 3/50 | forget loss 2.11 | KL on plain text 0.1"
    )
    written = drawn(80, (Said(text, done=1, total=4, left=720.0), None))
    assert "12 min left" in written and "[bold]step" in written and "━" in written
    assert all(len(part.split("\x1b")[0]) <= 80 for part in written.splitlines())


def test_before_the_meter_knows_the_time_left_is_the_estimate_s() -> None:
    assert "10 min left" in drawn(80, ("loading", None), expected=600.0)
    assert "min left" not in drawn(80, ("loading", None))
    assert "estimate: about 4 min" in drawn(80, ("x", "[ 0:00] estimate: about 4 min"))
    assert (remaining(20), remaining(None)) == ("< 1 min left", "")


def test_the_time_left_falls_while_nothing_is_said_and_ends_when_it_is_over() -> None:
    assert "1 min left" in drawn(80, (Said("asking", left=70.0), None), expected=6000.0)
    assert "min left" not in drawn(80, ("asking", None), expected=0.0)


def test_the_clock_goes_on_when_a_part_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now, begun = time.monotonic, time.monotonic()
    monkeypatch.setattr("ssiuu.cli.bar.time.monotonic", lambda: 3671 + now() - begun)
    monkeypatch.setattr(Bar, "__init__", lambda bar: vars(bar).update(progress=None, begun=0.0))
    written = drawn(80, (Said("step 3 of 3", done=3, total=3), None), ("the next part", None))
    assert "1:01:11" in written and "0:00:00" not in written


def test_in_a_file_a_long_wait_has_a_line_and_small_steps_have_few(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ssiuu.cli.silence.FIRST", 0.05)
    printer = Printer()
    printer("loading")
    for step in range(1, 4):
        printer(Said(f"step {step}", done=step, total=3, minor=True))
    monkeypatch.setattr("ssiuu.cli.terminal.MINOR", 0.0)
    printer(Said("step 4", left=150.0, minor=True))
    until = time.monotonic() + 10
    written = ""
    while written.count("still at it") < 2 and time.monotonic() < until:
        time.sleep(0.02)
        written += capsys.readouterr().err
    printer.done()
    lines = [line[8:] for line in written.splitlines()]
    assert lines[:2] == ["loading", "step 4"]
    assert lines[2] == "still at it after 0 s, 2 min left: step 4" == lines[3]
    watch = printer.silence._thread
    assert watch is not None
    watch.join(10)
    assert not watch.is_alive()


@pytest.mark.parametrize(("columns", "wide"), [(80, 80), (40, 60), (300, 110)])
def test_tables_are_as_wide_as_the_terminal_and_in_a_file_as_ever(
    columns: int, wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert room() == 110
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    assert room() == wide
    say("name  " + "-word" * 8 + " word" * 30, 6)
    first, *others = screen.getvalue().splitlines()
    assert first.startswith("name  -word") and all(line.startswith("      word") for line in others)
    assert max(map(len, [first, *others])) <= max(columns, 60)
    say("error: " + "a/long/path" * 30 + " it is", to=screen)
    assert "\n" + "a/long/path" * 30 + "\n" in screen.getvalue()  # whole, to be copied


class Terminal(io.StringIO):
    """What says that it is one."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("screen", [Terminal, io.StringIO])
@pytest.mark.parametrize("quiet", [False, True])
def test_a_terminal_is_told_before_the_heavy_import(
    screen: type[io.StringIO], quiet: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, not behind it: the module looks at what is on the screen; and only the first time."""
    monkeypatch.setattr("ssiuu.cli.loading.HEAVY", "slow_to_come")
    (tmp_path / "slow_to_come.py").write_text("import sys\nseen = sys.stderr.getvalue()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "slow_to_come", raising=False)
    seen: list[str] = []

    @spoken
    def command() -> None:
        import slow_to_come  # type: ignore[import-not-found]

        seen.append(slow_to_come.seen)

    with contextlib.redirect_stderr(screen()) as said:
        for _ in range(2):
            command(quiet=quiet, verbose=False, json=False)
    wanted = "loading\n" if screen is Terminal and not quiet else ""
    assert seen == [wanted, wanted] and said.getvalue() == wanted
    assert not any(type(finder).__name__ == "_Watch" for finder in sys.meta_path)
    sys.modules.pop("slow_to_come")


def test_what_a_command_carries_out_is_logged_once(capsys: pytest.CaptureFixture[str]) -> None:
    """As ssiuu demo -v carries out others with -v."""

    @spoken
    def inner() -> None:
        logged("inner")
        Printer()("step")

    @spoken
    def outer(inside: bool) -> None:
        inner(quiet=False, verbose=inside, json=False)
        logged("outer")

    outer(True, quiet=False, verbose=True, json=False)
    assert capsys.readouterr().err.splitlines() == ["ssiuu: inner", "[ 0:00] step", "ssiuu: outer"]
    outer(True, quiet=False, verbose=False, json=False)  # asked for within alone
    assert capsys.readouterr().err.splitlines() == ["ssiuu: inner", "[ 0:00] step"]


def test_on_a_terminal_there_is_a_bar_and_in_a_file_there_are_lines(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ssiuu.cli.main import main

    out, screen = io.StringIO(), Terminal()
    words = ["ssiuu", "ask", "--model", str(place / "model"), "--facts", str(place / "forget.jsonl")]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setenv("TERM", "xterm")
    heard = contextlib.redirect_stdout(out), contextlib.redirect_stderr(screen)
    with heard[0], heard[1], pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    written = screen.getvalue()
    assert "━" in written and "\x1b[" in written, written
    assert "6 facts: 6 known" in out.getvalue() and "\x1b" not in out.getvalue()
    plain = ssiuu(*words[1:]).stderr
    assert all(line.startswith("[ 0:") for line in plain.splitlines()) and "\x1b" not in plain

"""`ssiuu`: the entry point, and what all sub-commands share."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ssiuu.cli import ask, audit, check, diagnose, listing, report, run, unlearn
from ssiuu.errors import InputError, SsiuuError

if TYPE_CHECKING:
    from ssiuu.records.schema import RunRecord

INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Make a language model forget facts, then find out: were they erased, or only hidden?",
)
app.command("run")(run.command)
app.command("ask")(ask.command)
app.command("unlearn")(unlearn.command)
app.command("audit")(audit.command)
app.command("diagnose")(diagnose.command)
app.command("report")(report.command)
app.command("list")(listing.command)
app.command("check")(check.command)


def main() -> None:
    """Run the command line and turn errors into messages and exit codes."""
    try:
        app()
    except InputError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
    except SsiuuError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # what the parser makes of Ctrl-C
            print("interrupted: the same command continues from here", file=sys.stderr)
        raise


class Printer:
    """Prints progress to stderr: one line that changes on a terminal, else a line at a time."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.terminal = sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        """Print one message with the time since the start."""
        seconds = time.monotonic() - self.start
        line = f"[{int(seconds // 60):2d}:{int(seconds % 60):02d}] {text}"
        if self.terminal:
            print(f"\r\033[K{line[:150]}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def done(self) -> None:
        """End the changing line."""
        if self.terminal:
            print(file=sys.stderr)


def finish(record: RunRecord, out: Path, progress: Printer) -> None:
    """Write the report of a record and print its summary."""
    from ssiuu.report import write_report
    from ssiuu.report.text import summary

    page = write_report(record, out)
    progress.done()
    print(summary(record))
    print(f"\nreport: {page}")


def forcing(sets: list[str] | None, force: bool, prompt: str | None = None) -> list[str]:
    """Return the settings given, with what --force and --prompt stand for."""
    asked = [] if prompt is None else [f"prompt={prompt}"]
    return [*asked, *(sets or []), *(["force=true"] if force else [])]


def prepare() -> Printer:
    """Set this process up for heavy work and return its progress printer."""
    from ssiuu.models.precision import keep_memory

    keep_memory()
    return Printer()

"""What sub-commands share: progress on a terminal, what options stand for, how a run ends."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ssiuu.cli.bar import Bar, remaining
from ssiuu.cli.exits import BROKE_OFF
from ssiuu.cli.silence import Silence
from ssiuu.cli.spoken import manner, result
from ssiuu.experiment.launched import first
from ssiuu.records.said import Said

if TYPE_CHECKING:
    from ssiuu.records.schema import RunRecord
    from ssiuu.redaction.folder import Redacted


MINOR = 10.0  # seconds
NARROWEST = 60  # columns
STAYS = "estimate: ", "planted controls: as examined"  # lines that no later one takes the place of


def room() -> int:
    """Return how many columns tables and sentences may take: a terminal's, at least 60; else 110."""
    from ssiuu.report.text import WIDTH

    wide = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH
    return min(max(wide, NARROWEST), WIDTH)


def say(text: str, indent: int = 0, to: TextIO | None = None) -> None:
    """Print lines; a terminal gets them broken between words, what follows under an indent."""
    stream = to or sys.stdout
    if stream.isatty():
        fill = textwrap.TextWrapper(
            max(shutil.get_terminal_size().columns, NARROWEST),
            subsequent_indent=" " * indent,
            break_on_hyphens=False,
            break_long_words=False,
        ).fill
        text = "\n".join(map(fill, text.split("\n")))
    print(text, file=stream)


def clock(seconds: float) -> str:
    """Return a time as lines of progress begin with it."""
    return f"[{int(seconds // 60):2d}:{int(seconds % 60):02d}]"


class Printer:
    """Prints progress to stderr: one bar with the time left on a terminal, else a line at a time.

    Of lines that only tell how far something is, one is printed every `MINOR` seconds; where there is
    none for a while, it is said that the last one still holds.
    """

    def __init__(self) -> None:
        self.start = self.last = time.monotonic()
        self.speaks = first() and not manner().quiet
        wanted = self.speaks and sys.stderr.isatty() and not manner().verbose
        self.bar = Bar() if wanted else None
        self.text, self.ends = "", 0.0  # said last; when all of it is expected to end
        self.silence = Silence(self._still)
        manner().ends.append(self.silence.end)

    def __call__(self, text: str) -> None:
        """Print one message with the time since the start; of several processes the first one does."""
        if not self.speaks:
            return
        if self.bar is not None:
            line = f"{clock(time.monotonic() - self.start)} {text}"
            self.bar(text, line if text.startswith(STAYS) else None)
            return
        now = time.monotonic()
        if isinstance(text, Said):
            self.ends = self.ends if text.left is None else now + text.left
            if text.minor and now - self.last < MINOR:
                return
        self._print(text)
        self.text, self.last = text, now
        self.silence.broken()

    def _print(self, text: str) -> None:
        print(f"{clock(time.monotonic() - self.start)} {text}", file=sys.stderr, flush=True)

    def _still(self, silent: float) -> None:
        """Say that what was said last goes on, after so many seconds."""
        left = self.ends - time.monotonic()
        ahead = f", {remaining(left)}" if left > 0 else ""
        self._print(f"still at it after {silent:.0f} s{ahead}: {self.text}")

    def expect(self, seconds: Callable[[], float | None]) -> None:
        """Take an estimate of the time for all of it, where it is shown; asked for only then."""
        if self.bar is not None:
            self.bar.expected = seconds()

    def done(self) -> None:
        """End the bar."""
        self.silence.end()
        if self.bar is not None:
            self.bar.end()


def finish(
    record: RunRecord, out: Path, progress: Printer, redact: bool = False, key: Path | None = None
) -> None:
    """Write the report of a record and print its summary; exit where a cell of it broke off.

    With `redact` the folder is redacted, and its report is of that.
    """
    from ssiuu.report import write_report
    from ssiuu.report.text import summary

    progress("writing the page")
    page = out / "report.html" if redact else write_report(record, out)
    progress.done()
    result(**run_values(record, out))
    print(summary(record, room()))
    print(f"\nreport: {page}")
    if redact:
        redacted(out, key)
    if any(cell.failed for cell in record.cells):
        sys.exit(BROKE_OFF)


def run_values(record: RunRecord, out: Path) -> dict[str, Any]:
    """Return a run's folder, page and table (that of `ssiuu report --json`), for --json."""
    from ssiuu.analysis.rows import rows

    return {"folder": out, "report": out / "report.html", **rows(record)}


def redacted(path: Path, key: Path | None = None) -> None:
    """Redact a folder or file in its place, or every run of a folder, and say what was done."""
    from ssiuu.redaction.folder import redact
    from ssiuu.redaction.several import keys_inside, redact_several, runs_in

    if runs_in(path):
        for run, done in redact_several(path, key):
            _told(run, done)
        for inside in keys_inside(path):
            print(f"a key, and not to be handed on: {inside}")
    else:
        _told(path, redact(path, key))


def _told(path: Path, done: Redacted) -> None:
    """Say what redacting a folder or file did."""
    from ssiuu.redaction.purge import certificate_left

    before = manner().values.get("redacted", [])
    result(redacted=[*before, {"path": path, "digest_key": done.key}])
    print(f"redacted: {path}{' (it was already)' if done.already else ''}")
    if not done.already:
        print(f"key of the digests, to be kept or destroyed: {done.key}")
    for told in certificate_left(path):
        print(told)
    for left in done.left:
        print(f"not of ssiuu, and left as it is: {left}")
    for tag in done.tags:
        print(f"a tag of a method, left as it is: {tag}")
    for weights in done.weights:
        print(f"a model, left as it is, with what it knows: {weights}")


def forcing(
    sets: list[str] | None,
    force: bool,
    prompt: str | None = None,
    thorough: bool = False,
    revision: str | None = None,
) -> list[str]:
    """Return the settings given, with what --force, --prompt, --thorough and --revision stand for."""
    lines = [] if prompt is None else [f"prompt={prompt}"]
    if revision is not None:
        lines.append(f"revision={json.dumps(revision)}")
    flags = {"force=true": force, "examine.thorough=true": thorough}
    return [*lines, *(sets or []), *(line for line, given in flags.items() if given)]


def set_up() -> Printer:
    """Set this process up for heavy work and return its progress printer."""
    from ssiuu.models.precision import keep_memory

    keep_memory()
    if not first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # for as long as the process lives
    return Printer()

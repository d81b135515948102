"""What sub-commands share: progress on a terminal, what options stand for, how a run ends."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ssiuu.cli.exits import BROKE_OFF
from ssiuu.errors import ConfigError

if TYPE_CHECKING:
    from ssiuu.records.schema import RunRecord


STAYS = "estimate: ", "planted controls: as examined"  # lines that no later one takes the place of


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
            end = "\n" if text.startswith(STAYS) else ""
            print(f"\r\033[K{line[:150]}", end=end, file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def done(self) -> None:
        """End the changing line."""
        if self.terminal:
            print(file=sys.stderr)


def finish(
    record: RunRecord, out: Path, progress: Printer, redact: bool = False, key: Path | None = None
) -> None:
    """Write the report of a record and print its summary; exit where a cell of it broke off.

    With `redact` the folder is redacted, and its report is of that.
    """
    from ssiuu.report import write_report
    from ssiuu.report.text import summary

    page = out / "report.html" if redact else write_report(record, out)
    progress.done()
    print(summary(record))
    print(f"\nreport: {page}")
    if redact:
        redacted(out, key)
    if any(cell.failed for cell in record.cells):
        sys.exit(BROKE_OFF)


def redacted(path: Path, key: Path | None = None) -> None:
    """Redact a folder or file in its place and say what was done."""
    from ssiuu.redaction.folder import redact
    from ssiuu.redaction.purge import certificate_left

    done = redact(path, key)
    print(f"redacted: {path}{' (it was already)' if done.already else ''}")
    if not done.already:
        print(f"key of the digests, to be kept or destroyed: {done.key}")
    for told in certificate_left(path):
        print(told)
    for left in done.left:
        print(f"not of ssiuu, and left as it is: {left}")
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


def check_alone() -> None:
    """Refuse to be one of several processes that a launcher started: each would do all of the work.

    They would train copies of one model that know nothing of each other, and write over each other.

    Raises:
        ConfigError: WORLD_SIZE or RANK, as torchrun and accelerate launch set them, say so.
    """
    size = max(_whole("WORLD_SIZE"), _whole("RANK") + 1)
    if size > 1:
        raise ConfigError(
            f"this is one of {size} processes (WORLD_SIZE, RANK), and ssiuu works in a single one: "
            "start it without torchrun or accelerate launch, or with one process."
        )


def _whole(variable: str) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else 0


def set_up() -> Printer:
    """Set this process up for heavy work and return its progress printer."""
    from ssiuu.models.precision import keep_memory

    keep_memory()
    return Printer()

"""What sub-commands share: progress on a terminal, what options stand for, how a run ends."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

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


def finish(record: RunRecord, out: Path, progress: Printer) -> None:
    """Write the report of a record and print its summary."""
    from ssiuu.report import write_report
    from ssiuu.report.text import summary

    page = write_report(record, out)
    progress.done()
    print(summary(record))
    print(f"\nreport: {page}")


def forcing(
    sets: list[str] | None, force: bool, prompt: str | None = None, thorough: bool = False
) -> list[str]:
    """Return the settings given, with what --force, --prompt and --thorough stand for."""
    lines = [] if prompt is None else [f"prompt={prompt}"]
    flags = {"force=true": force, "examine.thorough=true": thorough}
    return [*lines, *(sets or []), *(line for line, given in flags.items() if given)]


def set_up() -> Printer:
    """Set this process up for heavy work and return its progress printer."""
    from ssiuu.models.precision import keep_memory

    keep_memory()
    return Printer()

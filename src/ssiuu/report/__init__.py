"""Records to one self-contained page. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from ssiuu.records.files import write_bytes
from ssiuu.records.schema import RunRecord


def write_report(record: RunRecord, folder: Path, baseline: str | None = None) -> Path:
    """Render a run into `folder/report.html` and return its path.

    Args:
        record: The run.
        folder: Where to write.
        baseline: Label of the method the others are compared with; None: gd, or the first that trains.

    Raises:
        ConfigError: The run has no method with this label.
        OutputError: The file cannot be written.
    """
    from ssiuu.report.page import render  # matplotlib waits until it is needed

    path = folder / "report.html"
    write_bytes(path, render(record, baseline).encode())
    return path

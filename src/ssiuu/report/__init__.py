"""Records to one self-contained page. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from ssiuu.records.files import write_bytes
from ssiuu.records.schema import RunRecord


def write_report(record: RunRecord, folder: Path) -> Path:
    """Render a run into `folder/report.html` and return its path."""
    from ssiuu.report.page import render  # matplotlib waits until it is needed

    path = folder / "report.html"
    write_bytes(path, render(record).encode())
    return path

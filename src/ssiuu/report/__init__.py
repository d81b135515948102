"""Records to one self-contained page, and the numbers of its figures as CSV. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from ssiuu.analysis.beside import Beside
from ssiuu.records.files import write_bytes
from ssiuu.records.schema import RunRecord

STALE: Final = 600.0  # seconds: nobody is at work on so old a file any more


def write_report(
    record: RunRecord,
    folder: str | Path,
    baseline: str | None = None,
    beside: Sequence[Beside] = (),
    against: str | None = None,
) -> Path:
    """Render a run into `folder/report.html`; return the page.

    Beside it: the numbers of its figures (`figures.csv`) and the verdict on every fact, with its
    p-values (`verdicts.csv`). Of a large run page and figures hold some models (`ssiuu.report.few`).

    Args:
        record: The run.
        folder: Where to write.
        baseline: Label of the method the others are compared with; None: gd, or the first that trains.
        beside: Evaluations of other models by somebody else, shown in a table of their own.
        against: Key of a column to draw levels after attack against, and to hold equal.

    Raises:
        ConfigError: The run has no method with this label, or no such column.
        DataError: What is to stand beside it has nothing that the run has.
        OutputError: A file cannot be written.
    """
    # matplotlib waits until it is needed
    from ssiuu.report.few import few
    from ssiuu.report.figures import figure_numbers, figures
    from ssiuu.report.formats import verdicts_csv
    from ssiuu.report.page import render

    folder, shown = Path(folder), few(record, baseline)
    plots = figures(shown.record, against)
    page = render(shown, baseline, plots, beside, against)
    _sweep(folder)
    path = folder / "report.html"
    private = not folder.stat().st_mode & 0o077  # as the folder, for it may be copied out of that
    write_bytes(path, page.encode(), private)
    write_bytes(folder / "figures.csv", figure_numbers(plots).encode(), private)
    write_bytes(folder / "verdicts.csv", verdicts_csv(record).encode(), private)
    return path


def _sweep(folder: Path) -> None:
    """Remove half-written reports of a process that was killed; one that is at work is left alone."""
    for name in ("report.html", "figures.csv", "verdicts.csv"):
        for path in folder.glob(f".{name}.*"):
            with suppress(OSError):  # another process was faster
                if time.time() - path.stat().st_mtime >= STALE:
                    path.unlink()

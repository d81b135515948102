"""Records to one self-contained page, and the numbers of its figures as CSV. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssiuu.analysis.beside import Beside
from ssiuu.records.files import write_bytes
from ssiuu.records.schema import RunRecord


def write_report(
    record: RunRecord,
    folder: str | Path,
    baseline: str | None = None,
    beside: Sequence[Beside] = (),
    against: str | None = None,
) -> Path:
    """Render a run into `folder/report.html`; return the page.

    Beside it: the numbers of its figures (`figures.csv`) and the verdict on every fact, with its
    p-values (`verdicts.csv`).

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
    from ssiuu.report.figures import figure_numbers, figures
    from ssiuu.report.formats import verdicts_csv
    from ssiuu.report.page import render

    folder, plots = Path(folder), figures(record, against)
    path = folder / "report.html"
    write_bytes(path, render(record, baseline, plots, beside, against).encode())
    write_bytes(folder / "figures.csv", figure_numbers(plots).encode())
    write_bytes(folder / "verdicts.csv", verdicts_csv(record).encode())
    return path

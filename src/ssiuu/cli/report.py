"""`ssiuu report`: render a run again from its record alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    folder: Annotated[Path, typer.Argument(help="folder of a run or an audit")],
    json: Annotated[bool, typer.Option("--json", help="print the table as JSON instead")] = False,
) -> None:
    """Write report.html, or print the table; needs no model and no torch."""
    from ssiuu.records.files import dump_json, load_run
    from ssiuu.report import write_report
    from ssiuu.report.rows import rows

    record = load_run(folder)
    if json:
        print(dump_json(rows(record)))
    else:
        print(write_report(record, folder))

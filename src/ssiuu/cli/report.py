"""`ssiuu report`: render a run again from its record alone."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ssiuu.cli.spoken import manner, result
from ssiuu.errors import ConfigError, unknown


class Format(StrEnum):
    """What to make of a record."""

    html = "html"
    md = "md"
    csv = "csv"
    latex = "latex"
    json = "json"


def command(
    folder: Annotated[Path, typer.Argument(help="folder of a run or an audit")],
    format: Annotated[
        str,
        typer.Option(
            metavar="|".join(Format), help="html writes report.html; the others print the tables"
        ),
    ] = Format.html,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="LABEL", help="method the others are compared with; gd, or the first that trains"
        ),
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]FILE",
            help="TOFU_EVAL.json (MUSE_EVAL.json) of OpenUnlearning, or its folder, shown beside; "
            "may be given several times",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="what was kept, in the page's front: kl_instructions, retain, ... (docs/columns.md)",
        ),
    ] = None,
) -> None:
    """Write report.html, or print the tables; needs no model and no torch."""
    if format not in [*Format]:
        raise ConfigError(unknown("format", format, [form.value for form in Format], "--format"))
    from ssiuu.analysis.beside import read_beside
    from ssiuu.records.files import load_run
    from ssiuu.report import write_report
    from ssiuu.report.formats import FORMATS, data

    record, others = load_run(folder), read_beside(beside or [])
    if manner().json:
        result(**data(record, baseline, others))
        return
    if format == Format.html:
        print(write_report(record, folder, baseline, others, against))
    else:
        print(FORMATS[format](record, baseline, others), end="")

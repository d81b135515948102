"""`ssiuu compare`: several runs side by side, from their records alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssiuu.errors import ConfigError, OutputError, unknown

if TYPE_CHECKING:
    from ssiuu.records.schema import RunRecord


class Format(StrEnum):
    """What to make of the records."""

    text = "text"
    md = "md"
    csv = "csv"
    latex = "latex"
    html = "html"


SUFFIXES = {".html": Format.html, ".md": Format.md, ".csv": Format.csv, ".tex": Format.latex}


def command(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="folders of runs, or one that holds them"),
    ],
    format: Annotated[
        str | None,
        typer.Option(metavar="|".join(Format), help="by default what --out ends in, else text"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="file to write; html without it: compare.html")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="what was kept, in the figure: kl, heldout, ... (docs/columns.md)"
        ),
    ] = None,
) -> None:
    """Set runs side by side: one table, one figure; needs no model and no torch.

    What does not compare (another model, benchmark, choice of facts) is
    said, and kept apart.
    """
    form = _format(format, out)
    if out is not None and out.is_dir():
        raise OutputError(f"--out {out} is a folder: name a file, as in {out / 'compare.html'}.")
    from ssiuu.analysis.across import grounds
    from ssiuu.records.files import write_bytes

    found = grounds(load(runs))
    if form == Format.html:
        from ssiuu.report.compare_page import render_comparison

        content, out = render_comparison(found, against), out or Path("compare.html")
    else:
        from ssiuu.report.compare import COMPARED

        content = COMPARED[form](found, against)
    if out is None:
        print(content, end="")
    else:
        write_bytes(out, content.encode())
        print(out)


def _format(given: str | None, out: Path | None) -> str:
    """Return what is to be made: what was said, else what the file ends in, else text.

    Raises:
        ConfigError: There is no such format.
    """
    if given is None:
        return Format.text if out is None else SUFFIXES.get(out.suffix.lower(), Format.text)
    if given not in [*Format]:
        raise ConfigError(unknown("format", given, [form.value for form in Format], "--format"))
    return given


def load(folders: Sequence[Path]) -> Mapping[str, RunRecord]:
    """Return the runs by name: the folder's own, or its whole path where two have one name.

    Raises:
        ConfigError: A folder is named twice.
        InputError: A folder holds no run, or one that cannot be read.
    """
    from ssiuu.records.files import load_run

    paths = [run for folder in folders for run in _runs_in(folder)]
    places = [path.resolve() for path in paths]
    if twice := [path for n, path in enumerate(paths) if places[n] in places[:n]]:
        raise ConfigError(f"{twice[0]} is named twice: a run is compared with others.")
    names = [place.name for place in places]
    return {
        str(path) if names.count(name) > 1 else name: load_run(path)
        for path, name in zip(paths, names, strict=True)
    }


def _runs_in(folder: Path) -> list[Path]:
    """Return the folder, or those in it that hold runs where it holds none itself."""
    within = sorted(path.parent for path in folder.glob("*/run.json"))
    return [folder] if (folder / "run.json").exists() or not within else within

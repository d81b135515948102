"""`ssiuu compare`: several runs side by side, from their records alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssiuu.cli.exits import DISAGREES
from ssiuu.cli.spoken import result
from ssiuu.cli.terminal import room
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


SUFFIXES = {
    **{".html": Format.html, ".md": Format.md, ".csv": Format.csv, ".tex": Format.latex},
    **{".txt": Format.text, "": Format.text},
}


def command(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN...", help="folders of runs, or one that holds them"),
    ] = None,
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
    append: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="append a line for every method to a leaderboard"),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="check a leaderboard against these runs, without any its digests alone"
        ),
    ] = None,
) -> None:
    """Set runs side by side: one table, one figure; needs no model and no torch.

    What does not compare (another model, benchmark, choice of facts) is
    said, and kept apart. Exits with 6 where --check finds a line that was
    changed or does not agree with its run.
    """
    _check_words(runs, format=format, out=out, against=against, append=append, check=check)
    records = load(runs or [])
    if append is not None:
        _append(append, records)
    elif check is not None:
        _check(check, records)
    else:
        _show(records, _format(format, out), out, against)


def _check_words(runs: Sequence[Path] | None, **options: object) -> None:
    """Refuse options that do not go together.

    Raises:
        ConfigError: They do not, or no run is named.
        OutputError: What is to be a file is a folder.
    """
    given = [f"--{name}" for name, value in options.items() if value is not None]
    alone = [name for name in given if name in ("--append", "--check")]
    if alone and len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} do not go together: {alone[0]} makes no table.")
    if not runs and options["check"] is None:
        raise ConfigError("no RUN is named: name the folder of a run, or several.")
    for name in ("out", "append", "check"):
        path = options[name]
        if isinstance(path, Path) and path.is_dir():
            raise OutputError(f"--{name} {path} is a folder: name a file.")


def _show(records: Mapping[str, RunRecord], form: str, out: Path | None, against: str | None) -> None:
    """Print or write what was found of the runs."""
    from ssiuu.analysis.across import grounds
    from ssiuu.records.files import write_bytes

    found = grounds(records)
    if form == Format.html:
        from ssiuu.report.compare_page import render_comparison

        content, out = render_comparison(found, against), out or Path("compare.html")
    else:
        from ssiuu.report.compare import COMPARED, text

        on_screen = form == Format.text and out is None
        content = text(found, against, room()) if on_screen else COMPARED[form](found, against)
    if out is None:
        result(table=content)
        print(content, end="")
    else:
        write_bytes(out, content.encode())
        result(written=out)
        print(out)


def _append(path: Path, records: Mapping[str, RunRecord]) -> None:
    """Append the lines of the runs to a leaderboard and say how many are new."""
    from ssiuu.analysis.leaderboard import append, standings

    lines = [line for record in records.values() for line in standings(record)]
    leases = any(record.header.config.get("locks") == "leases" for record in records.values())
    added = append(path, lines, "leases" if leases else "auto")
    there = len(lines) - added
    result(leaderboard=path, added=added, there=there)
    print(f"{path}: {added} lines appended{f', {there} were there already' if there else ''}")


def _check(path: Path, records: Mapping[str, RunRecord]) -> None:
    """Say which lines of a leaderboard are not what they should be; exits with `DISAGREES`."""
    from ssiuu.analysis.leaderboard import check

    found = check(path, records)
    for sentence in [*found.problems, *found.notes]:
        print(sentence)
    whole = found.lines - len(found.problems)
    result(lines=found.lines, agree=found.agree, problems=found.problems, notes=found.notes)
    told = f"{path}: {found.lines} lines, {len(found.problems)} to object to"
    print(f"{told}; {found.agree} of {whole} agree with a run given" if records else told)
    if found.problems:
        raise typer.Exit(DISAGREES)


def _format(given: str | None, out: Path | None) -> str:
    """Return what is to be made: what was said, else what the file ends in, else text.

    Raises:
        ConfigError: There is no such format, or none goes by the ending of the file.
    """
    if given is None:
        ending = "" if out is None else out.suffix.lower()
        if ending not in SUFFIXES:
            known = ", ".join(filter(None, SUFFIXES))
            raise ConfigError(
                f"--out {out}: no format goes by {ending}: end it in {known}, or say --format."
            )
        return SUFFIXES[ending]
    if given not in [*Format]:
        raise ConfigError(unknown("format", given, [form.value for form in Format], "--format"))
    return given


def load(folders: Sequence[Path]) -> Mapping[str, RunRecord]:
    """Return the runs by name: the folder's own, or its whole path where two have one name.

    Raises:
        ConfigError: A folder is named twice.
        InputError: A folder holds no run, or one that cannot be read.
    """
    from ssiuu.records.files import load_run, runs_of

    paths = [run for folder in folders for run in runs_of(folder)]
    places = [path.resolve() for path in paths]
    if twice := [path for n, path in enumerate(paths) if places[n] in places[:n]]:
        raise ConfigError(f"{twice[0]} is named twice: a run is compared with others.")
    names = [place.name for place in places]
    return {
        str(path) if names.count(name) > 1 else name: load_run(path)
        for path, name in zip(paths, names, strict=True)
    }

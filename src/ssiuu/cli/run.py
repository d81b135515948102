"""`ssiuu run`: an experiment from start to report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssiuu.cli.exits import BROKE_OFF
from ssiuu.cli.options import DigestKeyFile, Redact, Sets, Thorough
from ssiuu.cli.spoken import result
from ssiuu.cli.terminal import finish, forcing, redacted, run_values, set_up

if TYPE_CHECKING:
    from ssiuu.experiment.matrix import Resolved


def command(
    recipe: Annotated[
        Path | None,
        typer.Argument(help="a YAML file, or a name of ssiuu list recipes; the default without one"),
    ] = None,
    set_: Sets = None,
    out: Annotated[Path, typer.Option(help="folder of the run")] = Path("ssiuu-run"),
    thorough: Thorough = False,
    redact: Redact = False,
    digest_key: DigestKeyFile = None,
) -> None:
    """Unlearn, evaluate, look inside, attack and report, for every method and seed.

    With several benchmarks (benchmark: [fictional, worldfacts]) there is a
    run in a folder below --out for each, and a page that compares them.
    """
    from ssiuu.experiment.estimate import seconds_of
    from ssiuu.experiment.matrix import resolve_all
    from ssiuu.experiment.run import run

    recipes = resolve_all(recipe, forcing(set_, force=False, thorough=thorough))
    if "" not in recipes:
        _matrix(recipes, out, redact, digest_key)
        return
    resolved, sources = recipes[""]
    progress = set_up()
    progress.expect(partial(seconds_of, resolved))
    record = run(resolved, sources, out, _typed(), progress=progress)
    finish(record, out, progress, redact, digest_key)


def _typed() -> str:
    return shlex.join(["ssiuu", *sys.argv[1:]])


def _matrix(recipes: Mapping[str, Resolved], out: Path, redact: bool, key: Path | None) -> None:
    """Run every recipe into a folder of its own, then write their comparison and print its table."""
    from ssiuu.analysis.across import grounds
    from ssiuu.experiment.matrix import check_matrix
    from ssiuu.experiment.run import run
    from ssiuu.records.files import load_run, write_bytes
    from ssiuu.redaction.keys import check_place, default_place
    from ssiuu.report import write_report
    from ssiuu.report.compare import text
    from ssiuu.report.compare_page import COMPARISON, render_comparison

    check_matrix(out, list(recipes))
    if redact:  # one key, and not in what is handed on
        key = key or default_place(out)
        check_place(key, out)
    progress, pages, records = set_up(), [], {}
    for name, (resolved, sources) in recipes.items():
        progress(f"{name}:")
        records[name] = run(resolved, sources, out / name, _typed(), progress=progress)
        pages.append(write_report(records[name], out / name))
    if redact:  # when all are done, as nothing runs on in what is redacted
        redacted(out, key)
        records = {name: load_run(out / name) for name in records}
    found = grounds(records)
    yours = any(recipe.opens.yours for recipe, _ in recipes.values())
    write_bytes(out / COMPARISON, render_comparison(found).encode(), private=yours)
    progress.done()
    result(
        comparison=out / COMPARISON,
        runs={name: run_values(run, out / name) for name, run in records.items()},
    )
    print(text(found), end="")
    for page in [*pages, out / COMPARISON]:
        print(f"report: {page}")
    if any(cell.failed for record in records.values() for cell in record.cells):
        raise typer.Exit(BROKE_OFF)

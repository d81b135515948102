"""`ssiuu run`: an experiment from start to report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ssiuu.cli.options import Sets, Thorough
from ssiuu.cli.terminal import finish, forcing, set_up


def command(
    recipe: Annotated[
        Path | None, typer.Argument(help="a YAML recipe; the embedded default without one")
    ] = None,
    set_: Sets = None,
    out: Annotated[Path, typer.Option(help="folder of the run")] = Path("ssiuu-run"),
    thorough: Thorough = False,
) -> None:
    """Unlearn, evaluate, look inside, attack and report, for every method and seed."""
    from ssiuu.experiment.recipe import resolve
    from ssiuu.experiment.run import run

    resolved, sources = resolve(recipe, forcing(set_, force=False, thorough=thorough))
    progress = set_up()
    record = run(resolved, sources, out, shlex.join(["ssiuu", *sys.argv[1:]]), progress=progress)
    finish(record, out, progress)

"""`ssiuu doctor`: what this machine has, and what will run where."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ssiuu.cli.exits import LACKING
from ssiuu.cli.options import Sets
from ssiuu.cli.spoken import result
from ssiuu.cli.terminal import say


def command(
    recipe: Annotated[Path | None, typer.Argument(help="a YAML recipe; default without")] = None,
    set_: Sets = None,
    hub: Annotated[bool, typer.Option("--hub", help="ask whether the hub answers")] = False,
) -> None:
    """Say what there is to work with; exits with 11 where something that is needed is not there.

    Nothing is downloaded, and no network is touched without --hub.
    """
    from ssiuu.experiment.doctor import examine
    from ssiuu.experiment.recipe import read_parts, resolve_parts

    wished, _ = resolve_parts(read_parts(recipe, set_ or []), here=False)
    found = []
    for finding in examine(wished, hub):
        mark = "!" if finding.missing else " "
        say(f"{mark} {finding.what:10s}  {finding.says}", 14)
        found.append(asdict(finding))
    result(findings=found)
    if any(finding["missing"] for finding in found):
        print("What is marked with ! is needed and not there.")
        raise typer.Exit(LACKING)

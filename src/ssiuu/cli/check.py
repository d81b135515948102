"""`ssiuu check`: validate a recipe and say what it would cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssiuu.cli.spoken import result
from ssiuu.cli.terminal import say


def command(
    recipe: Annotated[
        Path | None,
        typer.Argument(help="a YAML file, or a name of ssiuu list recipes; the default without one"),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, as in the recipe; repeatable")
    ] = None,
) -> None:
    """Print the resolved configuration with where each value came from, and an estimate."""
    from ssiuu.config import flatten
    from ssiuu.experiment.estimate import estimate
    from ssiuu.experiment.matrix import resolve_all
    from ssiuu.experiment.recipe import check_whole

    runs = {}
    for name, (resolved, sources) in resolve_all(recipe, set_ or []).items():
        check_whole(resolved)
        resolved.opens.look(resolved)
        if name:
            print(f"--- {name}")
        flat = flatten(resolved.model_dump(mode="json"))
        width = max(len(key) for key in flat)
        for key, value in flat.items():
            say(f"{key:{width}s}  {value!s:28s}  {sources[key]}", width + 2)
        say(f"device: {resolved.placement.described}")
        told = estimate(resolved)
        for line in told.splitlines():
            say(line)
        settings = {key: {"value": value, "from": sources[key]} for key, value in flat.items()}
        runs[name] = {"settings": settings, "estimate": told}
    result(**runs.get("", {"runs": runs}))

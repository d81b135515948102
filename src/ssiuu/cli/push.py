"""`ssiuu push`: a checkpoint with its card to the hub, and no record of facts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssiuu.cli.exits import WITHHELD
from ssiuu.cli.spoken import result

if TYPE_CHECKING:
    from ssiuu.errors import WithheldError
    from ssiuu.experiment.publish import Upload


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="folder of a checkpoint or an adapter")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="repository on the hub")],
    public: Annotated[
        bool, typer.Option("--public", help="where it is made: for all to see; without: private")
    ] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="although its record says that it is not forgotten")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would go, upload nothing")
    ] = False,
) -> None:
    """Upload weights, tokenizer, configuration and card; records and certificates stay here.

    A model that was never audited may hide what it does not say: audit it first.
    Exit code 12: its record says that it is not forgotten, and --anyway is missing.
    """
    from ssiuu.errors import WithheldError
    from ssiuu.experiment.publish import check, planned

    try:
        plan = planned(folder, anyway)
    except WithheldError as error:
        withheld(error)
        raise typer.Exit(WITHHELD) from error
    if dry_run:
        told(plan.files, plan.kept_back)
        return
    check(repository)
    pushed(plan, repository, public)


def pushed(plan: Upload, repository: str, public: bool = False) -> None:
    """Upload a checkpoint, and say what went and what did not."""
    from ssiuu.experiment.publish import upload

    told(plan.files, plan.kept_back)
    address = upload(plan, repository, public)
    result(repository=address)
    print(f"uploaded: {address}")


def withheld(error: WithheldError) -> None:
    """Say why a checkpoint is not uploaded."""
    result(errors=error.problems)
    print(f"error: {error}", file=sys.stderr)


def told(files: Sequence[str], kept_back: Sequence[str]) -> None:
    """Say what goes to the hub, and what does not."""
    names = {"goes to the hub": list(files), "stays here": list(kept_back)}
    result(uploaded=names["goes to the hub"], kept_back=names["stays here"])
    for what, some in names.items():
        print(f"{what}: {', '.join(some) or 'nothing'}")

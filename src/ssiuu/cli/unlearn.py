"""`ssiuu unlearn`: one model, one set of facts, one checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssiuu.cli import BASE


def command(
    model: Annotated[str, typer.Option(help="short name, folder or hub name")],
    forget: Annotated[str, typer.Option(help="facts to forget: JSON, CSV, parquet, or a hub name")],
    out: Annotated[Path, typer.Option(help="folder for the checkpoint; must be empty")],
    retain: Annotated[str | None, typer.Option(help="facts to keep, or 'none' to go without")] = None,
    method: Annotated[str, typer.Option(help="see ssiuu list methods")] = "ssiuu+projection",
    columns: Annotated[
        str | None, typer.Option(help="columns of the files: question=COLUMN,answer=COLUMN")
    ] = None,
    base: Annotated[str | None, typer.Option(help=BASE)] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="chat, qa or plain; by default chat where the model has a template"),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, as in a recipe; repeatable")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="even if none of the facts is known")] = False,
) -> None:
    """Make a model forget facts and save it in the Hugging Face layout."""
    from ssiuu.cli.main import forcing, prepare
    from ssiuu.experiment.unlearn import unlearn_model

    progress, sets = prepare(), forcing(set_, force, prompt)
    record = unlearn_model(
        model, forget, out, retain, method, sets, progress, columns=columns, base=base
    )
    progress.done()
    print(f"{record.method.description}")
    last = next((s.forget_score for s in reversed(record.steps) if s.forget_score is not None), None)
    scored = "" if last is None else f", forget score {last:.2f} ({record.stop_score})"
    print(f"{len(record.steps)} steps in {record.seconds:.0f} s, stopped by {record.stopped}{scored}")
    for note in record.notes:
        print(note)
    print(f"checkpoint: {out}")
    print("An answer that is gone may only be hidden: ssiuu audit --before ... --after ... tells.")

"""`ssiuu teach`: fine-tune facts into a model, to rehearse a deletion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssiuu.cli.exits import NOT_LEARNED
from ssiuu.cli.options import Base, ColumnNames, DigestKeyFile, PromptForm, Redact, Revision, Sets
from ssiuu.cli.spoken import result
from ssiuu.cli.terminal import forcing, redacted, set_up


def command(
    model: Annotated[str, typer.Option(help="short name, folder or hub name")],
    facts: Annotated[list[str], typer.Option(help="facts to teach; repeatable")],
    out: Annotated[Path, typer.Option(help="folder for the model; must be empty")],
    without: Annotated[
        str | None, typer.Option(help="facts among them to leave out: a never-learned twin")
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(help="questions with answers to mix in; none; default: the model's own answers"),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="at most so many; default: 240 steps of four facts")
    ] = None,
    least: Annotated[int, typer.Option(help="at least so many; for a twin: as many as the other")] = 1,
    learning_rate: Annotated[
        float | None, typer.Option(help="AdamW's; default: 1e-4 at 135 M parameters, by 1/√size")
    ] = None,
    columns: ColumnNames = None,
    base: Base = None,
    revision: Revision = None,
    prompt: PromptForm = None,
    set_: Sets = None,
    redact: Redact = False,
    digest_key: DigestKeyFile = None,
) -> None:
    """Teach a model facts until it knows them; exits with 3 where it does not know all of them."""
    from ssiuu.cli.misuse import check_facts, check_models, check_number, check_out, nothing

    keep = nothing(keep)
    check_number("--epochs", epochs, 1)
    check_number("--least", least, 1)
    check_number("--learning-rate", learning_rate, 1e-12, 1)
    check_models(model)
    check_out(out, [model])
    for flag, file in (
        *(("--facts", file) for file in facts),
        ("--without", without),
        ("--keep", keep),
    ):
        check_facts({flag: file}, columns, set_ or [])
    from ssiuu.experiment.teaching import teach_model
    from ssiuu.report.knowledge import counts

    progress, sets = set_up(), forcing(set_, False, prompt, revision=revision)
    record = teach_model(
        *(model, facts, out, without, keep, epochs, least, learning_rate, sets, progress),
        columns=columns,
        base=base,
    )
    progress.done()
    states = {fact: known.state for fact, known in record.knowledge.items()}
    told = {"learned": record.learned, "epochs": record.epochs, "notes": record.notes}
    result(checkpoint=out, states=states, **told)
    for note in record.notes:
        print(note)
    print(f"{len(record.knowledge)} facts taught in {record.epochs} epochs: {counts(record.knowledge)}")
    if record.absent:
        print(f"{len(record.absent)} facts were left out")
    print(f"checkpoint: {out}")
    if redact:
        redacted(out, digest_key)
    if not record.learned:
        unknown = [fact for fact, known in record.knowledge.items() if known.state != "known"]
        for fact in unknown:
            print(f"not known: {fact}: {record.knowledge[fact].why}")
        print("Not all became known: allow more --epochs, or give a higher --learning-rate.")
        raise typer.Exit(NOT_LEARNED)

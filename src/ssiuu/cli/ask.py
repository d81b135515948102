"""`ssiuu ask`: what does a model know of these facts?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssiuu.cli.options import Base, ColumnNames, DigestKeyFile, PromptForm, Redact, Revision, Sets
from ssiuu.cli.spoken import manner, result
from ssiuu.cli.terminal import forcing, redacted, room, set_up


def command(
    model: Annotated[str, typer.Option(help="short name, folder or hub name")],
    facts: Annotated[str | None, typer.Option(help="facts: a file or a hub name")] = None,
    question: Annotated[str | None, typer.Option(help="one question, in place of a file")] = None,
    answer: Annotated[str | None, typer.Option(help="its right answer")] = None,
    out: Annotated[Path | None, typer.Option(help="file for the record (JSON)")] = None,
    base: Base = None,
    revision: Revision = None,
    prompt: PromptForm = None,
    columns: ColumnNames = None,
    set_: Sets = None,
    redact: Redact = False,
    digest_key: DigestKeyFile = None,
) -> None:
    """Say of every fact whether the model knows it, and why; exits with 0 whatever it knows."""
    from ssiuu.cli.misuse import check_facts, check_models
    from ssiuu.errors import ConfigError

    single = question is not None and answer is not None
    if (facts is not None) == single or (question is None) != (answer is None):
        raise ConfigError("give either --facts FILE, or one --question with its --answer.")
    if redact and out is None:
        raise ConfigError("--redact is about the record that is written: give --out FILE.")
    check_models(model)
    check_facts({"--facts": facts}, columns, set_ or [])
    from ssiuu.experiment.asking import ask_model
    from ssiuu.report.asked import knowledge_rows, table

    rows = facts if facts is not None else [{"question": question, "answer": answer}]
    progress, sets = set_up(), forcing(set_, False, prompt, revision=revision)
    record = ask_model(model, rows, out, sets, progress, columns=columns, base=base)
    progress.done()
    result(**knowledge_rows(record))
    if not manner().json:
        print(table(record, room()))
    if redact and out is not None:
        redacted(out, digest_key)

"""`ssiuu diagnose`: look inside any pair of checkpoints, without attacking."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ssiuu.cli.options import Base, ColumnNames, DigestKeyFile, PromptForm, Redact, Revision, Sets
from ssiuu.cli.terminal import finish, forcing, set_up


def command(
    before: Annotated[str, typer.Option(help="model before: short name, folder or hub name")],
    after: Annotated[Path, typer.Option(help="folder of the model after unlearning")],
    out: Annotated[Path, typer.Option(help="folder for record and report")],
    forget: Annotated[
        str | None, typer.Option(help="facts that should be gone; not with --set benchmark=tofu")
    ] = None,
    retain: Annotated[str | None, typer.Option(help="facts that should still be there")] = None,
    attacked: Annotated[
        Path | None, typer.Option(help="folder of the model after an attack on --after")
    ] = None,
    columns: ColumnNames = None,
    base: Base = None,
    revision: Revision = None,
    prompt: PromptForm = None,
    set_: Sets = None,
    redact: Redact = False,
    digest_key: DigestKeyFile = None,
    force: Annotated[
        bool, typer.Option("--force", help="even if the model before knows none of the facts")
    ] = False,
) -> None:
    """Look inside: what was erased, what was added against the answer, does ablation bring it back?"""
    from ssiuu.cli.misuse import check_facts, check_models, check_out, nothing
    from ssiuu.errors import ConfigError

    retain = nothing(retain)
    check_models(before)
    if not after.is_dir():
        raise ConfigError(f"--after {after} is not a folder.")
    check_out(out, [before, after], empty=False)
    check_facts({"--forget": forget, "--retain": retain}, columns, set_ or [])
    from ssiuu.experiment.unlearn import diagnose_models

    progress, sets = set_up(), forcing(set_, force, prompt, revision=revision)
    typed = shlex.join(["ssiuu", *sys.argv[1:]])
    record = diagnose_models(
        before, after, forget, out, retain, attacked, sets, typed, progress, columns=columns, base=base
    )
    finish(record, out, progress, redact, digest_key)

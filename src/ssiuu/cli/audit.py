"""`ssiuu audit`: judge any pair of checkpoints, whoever made them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ssiuu.cli.exits import HIDDEN, NOT_FORGOTTEN
from ssiuu.cli.options import (
    Base,
    ColumnNames,
    DigestKeyFile,
    FactDigestForm,
    PromptForm,
    Redact,
    Reference,
    Revision,
    Sets,
    Sign,
    Thorough,
)
from ssiuu.cli.sealing import seal_of
from ssiuu.cli.spoken import result
from ssiuu.cli.terminal import finish, forcing, set_up


def command(
    before: Annotated[str, typer.Option(help="model before: short name, folder or hub name")],
    after: Annotated[Path, typer.Option(help="folder of the model after unlearning, or its .gguf")],
    out: Annotated[Path, typer.Option(help="folder for record and report")],
    forget: Annotated[
        str | None, typer.Option(help="facts that should be gone; not with --set benchmark=tofu")
    ] = None,
    retain: Annotated[str | None, typer.Option(help="facts that should still be there")] = None,
    columns: ColumnNames = None,
    base: Base = None,
    revision: Revision = None,
    prompt: PromptForm = None,
    set_: Sets = None,
    thorough: Thorough = False,
    redact: Redact = False,
    sign: Sign = None,
    reference: Reference = None,
    fact_digests: FactDigestForm = "keyed",
    digest_key: DigestKeyFile = None,
    force: Annotated[
        bool, typer.Option("--force", help="even if the model before knows none of the facts")
    ] = False,
) -> None:
    """Evaluate, examine and attack: are the facts erased, hidden or still there?

    Exits with 3 where they are still there (verdict "not removed"), with 5 where they are hidden.
    """
    from ssiuu.cli.misuse import check_facts, check_models, check_out, nothing
    from ssiuu.errors import ConfigError

    retain = nothing(retain)
    check_models(before)
    if not after.is_dir() and not (after.suffix == ".gguf" and after.is_file()):
        raise ConfigError(f"--after {after} is not a folder, nor a GGUF file.")
    check_out(out, [before, after], empty=False)
    check_facts({"--forget": forget, "--retain": retain}, columns, set_ or [])
    seal = seal_of(sign, fact_digests, digest_key, out, reference)
    from ssiuu.analysis.columns import verdict
    from ssiuu.certificate.write import JSON as CERTIFICATE
    from ssiuu.experiment.certify import certify_audit
    from ssiuu.experiment.unlearn import audit_models
    from ssiuu.models.folder import source_of

    progress, sets = set_up(), forcing(set_, force, prompt, thorough, revision=revision)
    typed = shlex.join(["ssiuu", *sys.argv[1:]])
    judged = source_of(after, base)
    record = audit_models(
        before, after, forget, out, retain, sets, typed, progress, columns=columns, base=base
    )
    if not any(cell.failed for cell in record.cells):
        # Before the record is redacted, which no certificate can be made of.
        certify_audit(record, before, after, out, base, seal, progress, judged)
    finish(record, out, progress, redact, digest_key)
    print(f"certificate: {out / CERTIFICATE}")
    after_cell = next(cell for cell in record.cells if cell.method.label == "after")
    said = verdict(record, after_cell)
    result(certificate=out / CERTIFICATE, verdict=said)
    codes = {"not removed": NOT_FORGOTTEN, "hidden": HIDDEN}
    if code := codes.get(said):
        raise typer.Exit(code)

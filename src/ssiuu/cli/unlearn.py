"""`ssiuu unlearn`: one model, one set of facts, one checkpoint."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssiuu.cli.exits import AT_A_COST, NOT_FORGOTTEN, WITHHELD
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
)
from ssiuu.cli.push import pushed, withheld
from ssiuu.cli.sealing import seal_of
from ssiuu.cli.spoken import result
from ssiuu.cli.terminal import forcing, redacted, set_up

if TYPE_CHECKING:
    from ssiuu.records.schema import Unlearning


def command(
    model: Annotated[str, typer.Option(help="short name, folder or hub name")],
    forget: Annotated[str, typer.Option(help="facts to forget: JSON, CSV, parquet, or a hub name")],
    out: Annotated[Path, typer.Option(help="folder for the checkpoint; must be empty")],
    retain: Annotated[str | None, typer.Option(help="facts to keep, or 'none' to go without")] = None,
    method: Annotated[
        str | None,
        typer.Option(help="see ssiuu list methods; by default npo+kl+texts+others, retain_weight 5"),
    ] = None,
    columns: ColumnNames = None,
    base: Base = None,
    revision: Revision = None,
    prompt: PromptForm = None,
    set_: Sets = None,
    force: Annotated[bool, typer.Option("--force", help="even if none of the facts is known")] = False,
    max_kl: Annotated[
        float | None,
        typer.Option(help="nats a token the model may move on text and on instructions [0.1]"),
    ] = None,
    min_retain: Annotated[
        float | None, typer.Option(help="share of the known facts to keep that must stay [0.8]")
    ] = None,
    keep_anyway: Annotated[
        bool, typer.Option("--keep-anyway", help="write the checkpoint whatever the outcome")
    ] = False,
    push_to_hub: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="upload the checkpoint with its card, and no record"),
    ] = None,
    push_anyway: Annotated[
        bool, typer.Option("--push-anyway", help="upload it even where it is not forgotten")
    ] = False,
    redact: Redact = False,
    sign: Sign = None,
    reference: Reference = None,
    fact_digests: FactDigestForm = "keyed",
    digest_key: DigestKeyFile = None,
) -> None:
    """Make a model forget facts and save it in the Hugging Face layout.

    The learning rate is searched, unless --set unlearn.learning_rate=RATE
    gives one. Exit codes: 0 forgotten; 3 not forgotten; 4 forgotten at the
    cost of what should stay (--max-kl, --min-retain). With 3 and 4 there is
    no checkpoint, unless --keep-anyway. 12: that checkpoint is there and was
    not uploaded, which takes --push-anyway as well.
    """
    from ssiuu.cli.misuse import NONE, check_facts, check_models, check_number, check_out, nothing

    retain = nothing(retain)
    check_number("--max-kl", max_kl, 1e-9)
    check_number("--min-retain", min_retain, 0, 1)
    check_models(model)
    check_out(Path(out), [model])
    check_facts({"--forget": forget, "--retain": retain}, columns, set_ or [])
    check_upload(push_to_hub, keep_anyway, push_anyway)
    seal = seal_of(sign, fact_digests, digest_key, out, reference)
    from ssiuu.certificate.write import JSON as CERTIFICATE
    from ssiuu.experiment.certify import certify_unlearning
    from ssiuu.experiment.unlearn import DEFAULT_METHOD, RECORD, unlearn_model

    progress, sets = set_up(), forcing(set_, force, prompt, revision=revision)

    def certify(folder: Path, record: Unlearning) -> None:
        certify_unlearning(
            *(record, model, forget, retain, out, columns, base, seal, progress),
            written=folder,
            revision=revision,
        )

    limits = {"unlearn.max_kl": max_kl, "unlearn.min_retain": min_retain}
    sets += [f"{key}={value}" for key, value in limits.items() if value is not None]
    record = unlearn_model(
        model,
        forget,
        out,
        retain,
        method or DEFAULT_METHOD,
        sets,
        progress,
        columns=columns,
        base=base,
        keep_anyway=keep_anyway,
        certify=certify,
    )
    progress.done()
    _tell(record)
    assert record.outcome is not None
    code = {"forgotten": 0, "not forgotten": NOT_FORGOTTEN}.get(record.outcome.state, AT_A_COST)
    kept = code == 0 or keep_anyway
    _result(record, out if kept else None)
    if kept:
        print(f"checkpoint: {out}")
        print(f"certificate: {out / CERTIFICATE}")
        if not redact:
            print(f"{out / RECORD} holds the facts: before {out} is copied, ssiuu redact {out}")
        if push_to_hub is not None and not _upload(out, push_to_hub, push_anyway):
            code = WITHHELD
        given = {"--before": model, "--after": out, "--forget": forget, "--retain": retain}
        given |= {"--columns": columns, "--prompt": prompt, "--base": base, "--revision": revision}
        given |= {"--reference": reference, "--out": f"{out}-audit"}
        words = [str(w) for pair in given.items() if pair[1] not in (None, NONE) for w in pair]
        print("An answer that is gone may only be hidden; this tells:")
        print(shlex.join(["ssiuu", "audit", *words]))
    else:
        print(f"no checkpoint was written (--keep-anyway writes it); the record: {out}.unlearn.json")
    if redact:
        from ssiuu.redaction.keys import default_place

        place = out if kept else out.with_name(f"{out.name}.unlearn.json")
        redacted(place, digest_key or default_place(out))
    raise typer.Exit(code)


def check_upload(repository: str | None, keep_anyway: bool, push_anyway: bool) -> None:
    """Refuse an upload that could not be, before any work.

    Raises:
        ConfigError: The hub cannot be uploaded to, or --push-anyway has nothing to act on.
    """
    from ssiuu.errors import ConfigError

    if push_anyway and not (keep_anyway and repository is not None):
        raise ConfigError(
            "--push-anyway is about a checkpoint that is not forgotten: it takes --keep-anyway, which "
            "writes one, and --push-to-hub OWNER/NAME."
        )
    if repository is not None:
        from ssiuu.experiment.publish import check

        check(repository)


def _upload(out: Path, repository: str, anyway: bool) -> bool:
    """Upload the checkpoint, and return whether it went: what is not forgotten stays here."""
    from ssiuu.errors import WithheldError
    from ssiuu.experiment.publish import planned

    try:
        pushed(planned(out, anyway), repository)
    except WithheldError as error:
        withheld(error)
        return False
    return True


def _result(record: Unlearning, checkpoint: Path | None) -> None:
    """Say for --json what was run and what it led to."""
    told = {"method": record.method.label, "seconds": record.seconds, "notes": record.notes}
    attempts = [attempt.model_dump(mode="json") for attempt in record.attempts]
    result(checkpoint=checkpoint, outcome=record.outcome, **told)
    result(steps=len(record.steps), stopped=record.stopped, attempts=attempts)


def _tell(record: Unlearning) -> None:
    """Print what was run, what was tried, and what it led to."""
    from ssiuu.report.outcome import attempts, outcome

    print(record.method.description)
    for line in attempts(record):
        print(line)
    peak = record.peak_device_memory_mb
    device = "" if peak is None else f", {peak / 1e3:.1f} GB of the device at most"
    print(f"{len(record.steps)} steps in {record.seconds:.0f} s{device}, stopped by {record.stopped}")
    for line in outcome(record):
        print(line)
    for note in record.notes:
        print(note)

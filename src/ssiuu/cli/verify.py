"""`ssiuu verify`: is this the model, and are these the facts, that a certificate speaks of?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ssiuu.cli.exits import DIFFERS, UNREADABLE, UNSIGNED
from ssiuu.cli.options import ColumnNames
from ssiuu.cli.spoken import result

MOST = 10  # differences that are told


def command(
    certificate: Annotated[Path, typer.Argument(help="certificate.json")],
    model: Annotated[Path, typer.Option(help="folder of the model after, or its .gguf")],
    before: Annotated[Path | None, typer.Option(help="folder of the model before")] = None,
    base: Annotated[Path | None, typer.Option(help="folder of an adapter's base")] = None,
    facts: Annotated[str | None, typer.Option(help="the facts that should be gone")] = None,
    columns: ColumnNames = None,
    digest_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="key that the digests of the facts are made with"),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(metavar="PUB", help="public key of who should have signed it")
    ] = None,
) -> None:
    """Check a certificate against models and facts; needs no torch and loads no model.

    Exits with 0 where it is valid, 8 where something is another than it
    says, 9 where it cannot be read or was changed, 10 where it is not
    signed by --key.
    """
    from ssiuu.certificate.check import (
        UnreadableError,
        check_facts,
        check_models,
        check_signature,
        read_certificate,
    )
    from ssiuu.certificate.signature import SignatureError, read_public
    from ssiuu.data.columns import given_columns
    from ssiuu.data.read import read_facts
    from ssiuu.redaction.keys import read_key

    public = None if key is None else read_public(key)
    secret = None if digest_key is None else read_key(digest_key)
    rows = None if facts is None else read_facts(facts, "--facts", given_columns(columns))
    try:
        read = read_certificate(certificate)
        notes = check_signature(read, public)
    except SignatureError as error:
        raise _end([str(error)], UNSIGNED) from error
    except UnreadableError as error:
        raise _end(error.problems, UNREADABLE) from error
    found = check_models(read, {"after": model, "before": before, "base": base}, _told)
    if rows is None:
        notes.append("The facts were not checked: give --facts FILE.")
    else:
        found.problems += check_facts(read, rows, str(facts), secret)
    if found.problems:
        raise _end(found.problems, DIFFERS)
    said = read.statement.predicate
    result(valid=True, verdict=said.verdict, notes=[*found.notes, *notes])
    print(f"valid: {certificate} is of these files. It says: {said.verdict} ({said.measured}).")
    for note in (*found.notes, *notes):
        print(note)


def _told(text: str) -> None:
    print(text, file=sys.stderr)


def _end(problems: list[str], code: int) -> typer.Exit:
    """Say what is wrong, and return what ends the command with this code."""
    result(valid=False, errors=problems)
    for problem in problems[:MOST]:
        print(f"error: {problem}", file=sys.stderr)
    if len(problems) > MOST:
        print(f"error: and {len(problems) - MOST} more.", file=sys.stderr)
    return typer.Exit(code)

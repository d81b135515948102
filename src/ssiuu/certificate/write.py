"""A certificate on the disk: `certificate.json`, signed where a key is given, and a page of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from ssiuu.certificate.canonical import canonical
from ssiuu.certificate.page import render
from ssiuu.certificate.schema import Statement
from ssiuu.certificate.signature import fingerprint, sealed
from ssiuu.records.files import write_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

JSON: Final = "certificate.json"
HTML: Final = "certificate.html"


def write(statement: Statement, folder: Path, signer: Ed25519PrivateKey | None = None) -> Path:
    """Write a certificate and its page into a folder; return the certificate.

    Unsigned it is the statement itself, signed a DSSE envelope around it.

    Raises:
        OutputError: It cannot be written.
    """
    told = statement.model_dump(mode="json", by_alias=True)
    body = canonical(told)
    content = canonical(sealed(body, signer)) if signer else body
    write_bytes(folder / JSON, content + b"\n", private=True)
    by = fingerprint(signer.public_key()) if signer else ""
    write_bytes(folder / HTML, render(statement, by).encode(), private=True)
    return folder / JSON

"""Check a certificate against what it speaks of: its own content, signature, models, facts.

check_certificate(Path("certificate.json"), {"after": Path("model")}).problems     # nothing: valid
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ssiuu.certificate import signature
from ssiuu.certificate.canonical import parsed
from ssiuu.certificate.facts import FactDigests
from ssiuu.certificate.files import digests
from ssiuu.certificate.schema import PREDICATE, FactsTold, Role, Statement
from ssiuu.certificate.statement import digest_of
from ssiuu.data.fact import Fact
from ssiuu.errors import ConfigError, InputError
from ssiuu.redaction.keys import DigestKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


class UnreadableError(InputError):
    """A file is no certificate, or was changed after it was written."""


@dataclass
class Certificate:
    """A certificate as it was read. `envelope`: what it is signed in, if it is."""

    path: Path
    statement: Statement
    envelope: Mapping[str, Any] | None


@dataclass
class Checked:
    """What was found. `problems`: what does not match; `notes`: what was not checked."""

    certificate: Certificate
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_certificate(path: Path) -> Certificate:
    """Read a certificate and check that it is as it was written.

    Raises:
        UnreadableError: It is none, or one bit of it was changed.
    """
    try:
        value = parsed(path.read_bytes())
        envelope = value if isinstance(value, dict) and "payload" in value else None
        told = value if envelope is None else parsed(signature.opened(envelope))
        statement = Statement.model_validate_json(json.dumps(told))
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "all of it"
        raise UnreadableError(
            f"{path} is no certificate that this version reads ({PREDICATE}): {place}: {first['msg']}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{path} is no certificate, or was changed: {_reason(error)}.") from error
    held = statement.predicate.digest
    if held is None or held.sha256 != digest_of(told):
        raise UnreadableError(
            f"{path} was changed after it was written: its content does not have the sha256 it states."
        )
    return Certificate(path, statement, envelope)


def _reason(error: BaseException) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return "it is no JSON" if isinstance(error, json.JSONDecodeError) else str(error) or "it is no JSON"


def check_signature(certificate: Certificate, public: Ed25519PublicKey | None) -> list[str]:
    """Check who signed a certificate; return what is to be said where that was not asked.

    Raises:
        SignatureError: It is not signed by the key, or its signature cannot be read.
    """
    envelope = certificate.envelope
    if public is None:
        if envelope is None:
            return ["It is not signed: whoever can write files can have made it."]
        try:
            name = signature.signed_by(envelope)
        except signature.SignatureError as error:
            raise signature.SignatureError(f"{certificate.path}: {error}.") from error
        return [f"It says that it is signed by {name}, which was not checked: give --key PUB."]
    if envelope is None:
        raise signature.SignatureError(f"{certificate.path} is not signed.")
    try:
        signature.check(envelope, public)
    except signature.SignatureError as error:
        raise signature.SignatureError(f"{certificate.path}: {error}.") from error
    return []


def check_models(
    certificate: Certificate,
    models: Mapping[Role, Path | None],
    progress: Callable[[str], None] = lambda _: None,
) -> Checked:
    """Check the files of models against a certificate, all of them.

    Args:
        certificate: As read.
        models: A folder, or a GGUF file, by role; None: it is not checked.
        progress: Told what is read.

    Raises:
        InputError: A folder is not there, or the certificate has no such model.
    """
    found = Checked(certificate)
    roles = [model.role for model in certificate.statement.predicate.models]
    for role, folder in models.items():
        if folder is None:
            if role in roles:
                found.notes.append(f"The model {role!r} was not checked: give --{role} DIR.")
        elif role not in roles:
            raise ConfigError(f"--{role}: the certificate is of no such model ({', '.join(roles)}).")
        else:
            found.problems += _differences(role, _named(certificate, role), folder, progress)
    return found


def _named(certificate: Certificate, role: str) -> dict[str, str]:
    """Return the digests that a certificate states of one model, by the names of the files."""
    start = f"{role}/"
    return {
        one.name.removeprefix(start): one.digest.sha256
        for one in certificate.statement.subject
        if one.name.startswith(start)
    }


def _differences(
    role: str, stated: Mapping[str, str], folder: Path, progress: Callable[[str], None]
) -> list[str]:
    there = digests(folder, progress)
    if folder.is_file() and len(stated) == 1:  # one file may go by another name
        there = dict(zip(stated, there.values(), strict=True))
    where = f"{folder} ({role})"
    return [
        *(f"{name} is missing in {where}." for name in stated if name not in there),
        *(f"{name} in {where} is not in the certificate." for name in there if name not in stated),
        *(
            f"{name} in {where} is another file: its sha256 is {there[name][:16]}…, the certificate's "
            f"{digest[:16]}…."
            for name, digest in stated.items()
            if name in there and there[name] != digest
        ),
    ]


def check_facts(
    certificate: Certificate, facts: Sequence[Fact], source: str, key: DigestKey | None
) -> list[str]:
    """Return how facts differ from those of a certificate, a sentence each.

    Raises:
        InputError: Their digests were made under a key that is not given.
    """
    told: FactsTold = certificate.statement.predicate.facts
    digest = FactDigests.of(told, key)
    stated = Counter(fact.digest for fact in (*told.forget, *told.unknown))
    given = {fact.id: digest(fact) for fact in facts}
    there = Counter(given.values())
    foreign = [id for id, made in given.items() if made not in stated]
    problems = [f"{source}: the fact {id} is not among those of the certificate." for id in foreign]
    if missing := sum((stated - there).values()):
        problems.append(
            f"{source}: {missing} of the {stated.total()} facts of the certificate are missing."
        )
    return problems

"""A fact by a digest that whoever has the fact, and what the digest was made with, can make again."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import Protocol

from ssiuu.certificate.canonical import canonical
from ssiuu.certificate.schema import FactsTold
from ssiuu.errors import InputError
from ssiuu.redaction.keys import DigestKey


class Asked(Protocol):
    """A fact as a file or a record has it."""

    @property
    def question(self) -> str: ...  # noqa: D102
    @property
    def answer(self) -> str: ...  # noqa: D102
    @property
    def paraphrases(self) -> Sequence[str]: ...  # noqa: D102


class FactDigests:
    """Makes the digests of facts: under a key, or salted where there is none."""

    def __init__(self, key: DigestKey | None = None, salt: str = "") -> None:
        self.key = key
        self.salt = "" if key else salt or secrets.token_hex(16)

    @classmethod
    def of(cls, told: FactsTold, key: DigestKey | None) -> FactDigests:
        """Return what made the digests of a certificate.

        Raises:
            InputError: They were made under a key that is not given, or another one.
        """
        if told.algorithm == "sha256":
            return cls(salt=told.salt)
        if key is None or key.name != told.key:
            given = "none is" if key is None else f"{key.name} is"
            raise InputError(
                f"the digests of the facts were made under the key {told.key}, and {given} given: "
                "--digest-key FILE."
            )
        return cls(key)

    def told(self) -> dict[str, str]:
        """Return how they are made, as a certificate says it."""
        if self.key:
            return {"algorithm": "hmac-sha256", "key": self.key.name}
        return {"algorithm": "sha256", "salt": self.salt}

    def __call__(self, fact: Asked) -> str:
        """Return the digest of a fact, hexadecimal."""
        content = canonical([fact.question, fact.answer, list(fact.paraphrases)])
        if self.key:
            return self.key.digest("fact", content.decode())
        return hashlib.sha256(bytes.fromhex(self.salt) + content).hexdigest()

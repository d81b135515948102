"""The key of the digests that stand in the place of texts: a file of its own, which can be destroyed.

    key = digest_key(default_place(Path("audit")))      # audit.digest-key, made where it is not there
    key.text("Oslo")                                    # "[6f1c…]", the same for the same text

Without the key nobody can try whether a digest is that of a text they guess; with it anybody can.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError

from ssiuu.errors import ConfigError, InputError, OutputError
from ssiuu.records.schema import Record

SUFFIX: Final = ".digest-key"
DIGITS: Final = 20  # of a digest that stands in a text's place: 80 bits, two texts never share one
_READABLE = 0o077


class KeyFile(Record):
    """What a file of a key holds, and, for `purge`, what it was made with and lies elsewhere.

    `facts`: files of facts; `cached`: names in the cache of planted controls.
    """

    key: str = Field(pattern=r"^[0-9a-f]{64}$")
    facts: tuple[str, ...] = ()
    cached: tuple[str, ...] = ()


class DigestKey:
    """Makes digests of texts by HMAC-SHA256 under one key."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @property
    def name(self) -> str:
        """Which key it is, by a digest that tells nothing of it."""
        return self.digest("ssiuu digest key", "")[:16]

    def digest(self, what: str, text: str) -> str:
        """Return the digest of a text, hexadecimal; `what` it is keeps two uses apart."""
        content = f"{what}\0{text}".encode("utf-8", "surrogatepass")
        return hmac.new(self._secret, content, hashlib.sha256).hexdigest()

    def text(self, text: str) -> str:
        """Return what stands in the place of a text; of none, nothing."""
        return f"[{self.digest('text', text)[:DIGITS]}]" if text else ""


def default_place(out: Path) -> Path:
    """Return where the key of a folder lies: beside it, so that the folder can be handed on."""
    out = Path(os.path.abspath(out))
    return out.with_name(f"{out.name}{SUFFIX}")


def check_place(place: Path, folder: Path) -> None:
    """Refuse a key inside of what is handed on.

    Raises:
        ConfigError: It lies there.
    """
    if place.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"--digest-key {place} lies in {folder}, and whoever gets that folder could try texts "
            "with it: name a file elsewhere."
        )


def digest_key(place: Path) -> DigestKey:
    """Return the key of a file; where there is none, one is made, which only the user can read.

    Raises:
        InputError: The file holds no key, or others can read it.
        OutputError: It cannot be written.
    """
    if place.is_symlink() or place.exists():
        return read_key(place)
    secret = secrets.token_bytes(32)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        with os.fdopen(os.open(place, flags, 0o600), "wb") as stream:
            stream.write(_content(KeyFile(key=secret.hex())))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise OutputError(f"the key {place} cannot be written: {error.strerror or error}.") from error
    return DigestKey(secret)


def read_key(place: Path) -> DigestKey:
    """Return the key that a file holds.

    Raises:
        InputError: There is no such file, it holds no key, or others can read it.
    """
    return DigestKey(bytes.fromhex(_read(place).key))


def belongings(place: Path) -> KeyFile | None:
    """Return what a key's file holds; None where there is none.

    Raises:
        InputError: See `read_key`.
    """
    return _read(place) if place.is_file() else None


def remember(place: Path, facts: Iterable[str], cached: Iterable[str]) -> None:
    """Note in a key's file what lies elsewhere and belongs to its folder.

    Raises:
        InputError: The file holds no key.
        OutputError: It cannot be written.
    """
    held = _read(place)
    named = KeyFile(
        key=held.key,
        facts=tuple(dict.fromkeys([*held.facts, *facts])),
        cached=tuple(dict.fromkeys([*held.cached, *cached])),
    )
    if named == held:
        return
    temporary = place.with_name(f".{place.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as stream:
            stream.write(_content(named))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, place)
    except OSError as error:
        raise OutputError(f"the key {place} cannot be written: {error.strerror or error}.") from error


def _content(held: KeyFile) -> bytes:
    return (json.dumps(held.model_dump(), indent=1) + "\n").encode()


def _read(place: Path) -> KeyFile:
    try:
        mode = place.stat().st_mode
        if os.name == "posix" and stat.S_ISREG(mode) and mode & _READABLE:
            raise InputError(f"the key {place} can be read by others: chmod 600 {place}.")
        return KeyFile.model_validate_json(place.read_bytes())
    except OSError as error:
        raise InputError(f"the key {place} cannot be read: {error.strerror or error}.") from error
    except ValidationError as error:
        raise InputError(
            f"{place} holds no key of digests: give the file that was made with the folder."
        ) from error

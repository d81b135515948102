"""The digest that a file carries of itself: what was cut short or changed is never taken as true.

    content = seal(text)      # '{' + '"sha256": "...",' + the rest of the JSON
    unseal(content)           # the same text again, or Damaged

It finds damage, a disk's or an editor's, and keeps nobody out: who changes a file on purpose can make
a digest too. Files of before there was one are read as they are.
"""

from __future__ import annotations

import hashlib
from typing import Final

NAME: Final = "sha256"
HEAD: Final = f'{{\n "{NAME}": "'.encode()
TAIL: Final = b'",'
SIZE: Final = 64  # hexadecimal digits


class Damaged(ValueError):
    """A content is not what was written."""


def seal(content: bytes) -> bytes:
    """Return a JSON object with the digest of all that follows as its first member.

    Args:
        content: A JSON object that is not empty.
    """
    rest = content.removeprefix(b"{")
    return HEAD + _digest(rest) + TAIL + rest


def unseal(content: bytes) -> bytes:
    """Return what was sealed; a content without a digest as it is.

    Raises:
        Damaged: The digest is that of another content.
    """
    if not content.startswith(HEAD):
        if resembles(content[: len(HEAD)], HEAD):
            raise Damaged("the digest is damaged")
        return content
    end = len(HEAD) + SIZE
    found, tail, rest = content[len(HEAD) : end], content[end : end + 2], content[end + 2 :]
    if tail != TAIL or found != _digest(rest):
        raise Damaged("the digest is that of another content")
    return b"{" + rest


def sealed(content: bytes) -> bool:
    """Whether a content carries a digest."""
    return content.startswith(HEAD)


def resembles(found: bytes, wanted: bytes) -> bool:
    """Whether two texts of one length differ in a single byte: a mark, damaged, and not none."""
    return len(found) == len(wanted) and sum(a != b for a, b in zip(found, wanted, strict=True)) == 1


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()

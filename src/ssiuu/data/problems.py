"""The problems of a source, collected to be said at once, and how a value is shown in them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from ssiuu.errors import DataError

SHOWN = 10


class Problems:
    """The problems of one source, each with the flag, the source and the line."""

    def __init__(self, key: str, source: str | Path, unit: str = "line") -> None:
        self.where = f"{key}: {str(source).strip() or 'an empty name'}"
        self.unit = unit
        self.found: list[tuple[int, str]] = []

    def at(self, line: int, text: str) -> None:
        """Note a problem of one line."""
        self.found.append((line, f"{self.where}, {self.unit} {line}: {text}"))

    def stop(self, text: str, line: int | None = None) -> NoReturn:
        """Raise a problem that leaves nothing else to look at."""
        place = f" {text}" if line is None else f", {self.unit} {line}: {text}"
        raise DataError(self.where + place)

    def settle(self) -> None:
        """Raise all that was found, in the order of the lines."""
        raise_all([text for _, text in sorted(self.found, key=lambda pair: pair[0])])


def raise_all(problems: Iterable[str]) -> None:
    """Raise what was found, up to ten; nothing where nothing was."""
    found = list(problems)
    if len(found) > SHOWN:
        found = [*found[:SHOWN], f"... and {len(found) - SHOWN} more"]
    if found:
        raise DataError(found)


def kind(value: Any) -> str:
    """Say what a JSON value is."""
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text"}
    names |= {list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def show(value: Any) -> str:
    """Return a value as it is shown in a message: short, and without control characters."""
    # repr() also escapes what would move the cursor of a terminal.
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

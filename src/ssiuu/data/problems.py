"""The problems of a source, collected to be said at once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from ssiuu.errors import DataError, first_ten, show

MOST = 40  # columns that are named


class Problems:
    """The problems of one source, each with the flag, the source and the line.

    Rows held in memory have no source; they are named as Python names them: forget[3].
    """

    def __init__(self, key: str, source: str | Path | None, unit: str = "line") -> None:
        self.in_memory = source is None
        name = "" if source is None else f": {str(source).strip() or 'an empty name'}"
        self.where = f"{key}{name}"
        self.unit = unit
        self.by_line: list[tuple[int, str]] = []

    def name(self, line: int) -> str:
        """Return what a line is called within a sentence."""
        return f"{self.where}[{line}]" if self.in_memory else f"{self.unit} {line}"

    def at(self, line: int, text: str) -> None:
        """Note a problem of one line."""
        self.by_line.append((line, f"{self._place(line)}: {text}"))

    def _place(self, line: int) -> str:
        return self.name(line) if self.in_memory else f"{self.where}, {self.name(line)}"

    def stop(self, text: str, line: int | None = None) -> NoReturn:
        """Raise a problem that leaves nothing else to look at."""
        raise DataError(f"{self.where} {text}" if line is None else f"{self._place(line)}: {text}")

    def settle(self) -> None:
        """Raise all that was found, in the order of the lines."""
        raise_all([text for _, text in sorted(self.by_line, key=lambda pair: pair[0])])


def raise_all(problems: Iterable[str]) -> None:
    """Raise what was found, up to ten; nothing where nothing was."""
    sentences = list(problems)
    if sentences:
        raise DataError(first_ten(sentences))


def kind(value: Any) -> str:
    """Say what a JSON value is."""
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text"}
    names |= {list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def listed(names: Iterable[str]) -> str:
    """Return names of columns one after another: those that do not show as they are in quotes."""
    every = [*names]
    said = [name if name and name.isprintable() else show(name) for name in every[:MOST]]
    more = [f"and {len(every) - MOST} more"] if len(every) > MOST else []
    return ", ".join([*said, *more])

"""Every error ssiuu raises on purpose, as one small tree.

    SsiuuError
    ├── InputError            the user can mend it; the command exits with 2
    │   ├── DataError         a file of facts or instructions
    │   ├── ConfigError       a recipe, an option, an unknown name
    │   │   ├── WithheldError an upload of what is not forgotten; exits with 12
    │   │   └── NotKnownError a model that knows none of the facts to forget
    │   ├── ModelError        a model folder or name
    │   ├── OutputError       the output folder or the disk
    │   └── DamagedError      a file that ssiuu wrote and that is no longer what was written
    └── DivergedError         training or a score produced a NaN, or a runaway loss; exits with 1

A message holds the value found, what is allowed, what to do about it, and the key with its file.
Several problems of one input are shown together.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

P = TypeVar("P")
LENGTH = 80  # characters of a value that are shown
SHOWN = 10  # problems of one input that are said


class SsiuuError(Exception):
    """Base of every error that ssiuu raises on purpose."""


class InputError(SsiuuError):
    """One or several problems in what the user gave; holds them in `problems`."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class DataError(InputError):
    """A file of facts or instructions cannot be used."""


class ConfigError(InputError):
    """A recipe, an option or a name is not valid."""


class WithheldError(ConfigError):
    """A checkpoint that is not forgotten is not uploaded unless that is asked for."""


class NotKnownError(ConfigError):
    """The model knows none of the facts to forget.

    Attributes:
        record: What it was asked and what it said (`ssiuu.records.schema.ModelKnowledge`).
        kept: How many of the facts to keep it knows, of those that were asked.
    """

    record: Any = None
    kept: int = 0


class ModelError(InputError):
    """A model cannot be loaded."""


class OutputError(InputError):
    """The output folder cannot be written to."""


class DamagedError(InputError):
    """A file that ssiuu wrote is cut short, or was changed after it was written."""

    def __init__(self, path: object) -> None:
        super().__init__(
            f"{path} is damaged: it is cut short, or was changed after it was written. The command "
            "that made it makes it again."
        )


class DivergedError(SsiuuError):
    """Training or a score produced a value that is not finite, or a loss ran away."""


def unknown(
    kind: str, got: str, allowed: Iterable[str], where: str = "", deeper: Iterable[str] = ()
) -> str:
    """Return the sentence for an unknown name, with the nearest known one.

    Args:
        kind: What the name names, for example "method".
        got: The name as typed.
        allowed: The known names.
        where: Key, flag or file it stood in; left out when empty.
        deeper: Dotted names that are known elsewhere, in the order in which they may be meant.
    """
    names = sorted(allowed)
    shown = show(got)
    place = f"{where}: " if where else ""
    near = nearest(got, [*names, *deeper])
    return f"{place}unknown {kind} {shown}.{near} Known: {', '.join(names) or 'none'}."


def nearest(got: str, names: Iterable[str]) -> str:
    """Return ' Did you mean ...?' of the name that is nearest to what was typed; nothing if none is.

    Without a dot, what was typed may be the end of a dotted name: the first of those that end so is
    nearer than a name that is only spelled a little like it.
    """
    typed, folded = got[:LENGTH].casefold(), {name.casefold(): name for name in names}
    whole = folded if "." in typed else {name: said for name, said in folded.items() if "." not in name}
    ends: dict[str, str] = {}
    for name, said in folded.items() if "." not in typed else ():
        ends.setdefault(name.rpartition(".")[2], said)
    for among, cutoff in ((whole, 0.8), (ends, 0.8), (folded, 0.4)):
        if near := difflib.get_close_matches(typed, among, n=1, cutoff=cutoff):
            return f" Did you mean {among[near[0]]!r}?"
    return ""


def show(value: Any) -> str:
    """Return a value as it is shown in a message: short, and without control characters."""
    # repr() also escapes what would move the cursor of a terminal.
    text = repr(value)
    return text if len(text) <= LENGTH else f"{text[: LENGTH - 3]}..."


def first_ten(problems: Sequence[P], say: Callable[[P], str] = str) -> list[str]:
    """Return what is said of the problems of one input, and how many there are besides."""
    more = len(problems) - SHOWN
    return [*map(say, problems[:SHOWN]), *([f"... and {more} more"] if more > 0 else [])]

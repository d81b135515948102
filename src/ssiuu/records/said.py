"""What progress says: a line of text that may hold its numbers too, and where it goes by default.

    Said("step 3/40 | forget loss 2.10", step=3, numbers={"forget_loss": 2.1}, done=3, total=40)

Wherever text is told, such a line is text. Who draws a bar, or tracks numbers, finds them in it; no
question, answer or other text of a fact ever stands among them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

LOG = logging.getLogger("ssiuu")


class Said(str):
    """A line of progress.

    Attributes:
        numbers: What it tells, by name: losses, scores, shares, megabytes.
        step: Where on their axis these numbers stand; None: where they came.
        done: How much is done,
        total: of how much; None: that is not known.
        left: Seconds left of all that is being done; None: not known.
        minor: One of many that only tell how far something is: where lines stay, few of them are shown.
    """

    numbers: Mapping[str, float]
    step: int | None
    done: int | None
    total: int | None
    left: float | None
    minor: bool

    def __new__(
        cls,
        text: str,
        numbers: Mapping[str, float] | None = None,
        step: int | None = None,
        done: int | None = None,
        total: int | None = None,
        left: float | None = None,
        minor: bool = False,
    ) -> Said:
        """Return the line."""
        said = super().__new__(cls, text)
        said.numbers, said.step = numbers or {}, step
        said.done, said.total, said.left, said.minor = done, total, left, minor
        return said


def led(before: str, text: str, under: str = "") -> str:
    """Return a line with words before it and all that it holds, its numbers named under a heading."""
    if not isinstance(text, Said):
        return before + text
    numbers = {f"{under}/{name}" if under else name: value for name, value in text.numbers.items()}
    return Said(before + text, numbers, text.step, text.done, text.total, text.left, text.minor)


def logged(text: str) -> None:
    """Tell progress to the logger `ssiuu`, where a caller from Python gives nothing else."""
    LOG.log(logging.DEBUG if isinstance(text, Said) and text.minor else logging.INFO, "%s", text)

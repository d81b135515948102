"""The bar on a terminal: what is being done, how much of it is, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from ssiuu.records.said import Said

WIDTH = 16  # columns of the bar itself
NARROW = 40  # the fewest columns that text is cut to


class Bar:
    """A line that changes, drawn by rich. The time left is the estimate's until something else is said.

    Attributes:
        expected: Seconds that all of it takes, by the estimate or what was said last; None: not known.
    """

    def __init__(self) -> None:
        from rich.console import Console

        self.expected: float | None = None
        self.begun = time.monotonic()
        self.console = Console(stderr=True, highlight=False, markup=False)
        self.progress: Any = None

    def __call__(self, text: str, stays: str | None = None) -> None:
        """Show a message; one that `stays` is printed above the bar as well."""
        self.progress = self.progress or self._begin()
        if stays is not None:
            self.console.print(stays, markup=False, highlight=False)
        done, total = None, None
        if isinstance(text, Said):
            done, total = text.done, text.total
            if text.left is not None:
                self.expected = time.monotonic() - self.begun + text.left
        room = max(NARROW, self.console.width - WIDTH - 28)
        shown = str(text) if len(text) <= room else f"{text[: room - 1]}…"
        self.progress.update(self.task, description=shown, completed=done or 0, total=total)

    def _elapsed(self) -> str:
        """Return the time since the start: 0:01:07."""
        return str(timedelta(seconds=int(time.monotonic() - self.begun)))

    def _left(self) -> str:
        """Return the time left now; nothing where it is not known, or was to be over by now."""
        if self.expected is None:
            return ""
        left = self.expected - (time.monotonic() - self.begun)
        return remaining(left) if left > 0 else ""

    def _begin(self) -> Any:
        from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
        from rich.text import Text

        class Now(ProgressColumn):
            """What changes while nothing is said; rich's own clock stands once a part is done."""

            def __init__(self, told: Callable[[], str]) -> None:
                self.told = told
                super().__init__()

            def render(self, task: Any) -> Text:
                return Text(self.told())

        columns = (
            Now(self._elapsed),
            BarColumn(WIDTH),
            Now(self._left),
            TextColumn("{task.description}", markup=False),
        )
        progress = Progress(*columns, console=self.console, transient=True, redirect_stdout=False)
        self.task = progress.add_task("", total=None)
        progress.start()
        return progress

    def end(self) -> None:
        """Take the bar away."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None


def remaining(seconds: float | None) -> str:
    """Return the time left as the bar has it, empty where it is not known."""
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    return "< 1 min left" if minutes < 1 else f"{minutes} min left"

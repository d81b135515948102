"""Says that what was said last still goes on, where progress is lines and none has come for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable

FIRST = 10.0  # seconds of silence before the first word
LONGEST = 60.0  # and between two of them, at most: each pause is twice the one before


class Silence:
    """Watches for silences, from the first word on, in a thread that ends with the command."""

    def __init__(self, tell: Callable[[float], None]) -> None:
        """Watch nothing yet.

        Args:
            tell: Called with the seconds of silence so far.
        """
        self._tell = tell
        self._heard, self._over = threading.Event(), False
        self._thread: threading.Thread | None = None

    def broken(self) -> None:
        """Something was said."""
        if self._thread is None and not self._over:
            self._thread = threading.Thread(target=self._watch, name="silence", daemon=True)
            self._thread.start()
        self._heard.set()

    def end(self) -> None:
        """Nothing is watched any more."""
        self._over = True
        self._heard.set()

    def _watch(self) -> None:
        while not self._over:
            self._heard.clear()
            pause, silent = FIRST, 0.0
            while not self._heard.wait(pause):
                silent += pause
                self._tell(silent)
                pause = min(2 * pause, LONGEST)

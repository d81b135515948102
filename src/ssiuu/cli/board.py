"""Several lines of a terminal that change in their place, with others that stay above them."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from typing import TextIO

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Board:
    """Draws lines on a terminal; where there is none nothing is drawn, and only what stays is said."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.terminal = self.stream.isatty()
        self.lines: list[str] = []

    def draw(self, lines: Sequence[str]) -> None:
        """Put lines in the place of those drawn before."""
        if not self.terminal:
            return
        width, height = shutil.get_terminal_size()
        shown = [_CONTROL.sub("?", line)[: width - 1] for line in lines][: height - 1]
        self._erase()
        self.lines = shown
        self._write("".join(f"{line}\n" for line in shown))

    def say(self, text: str) -> None:
        """Say a line that stays."""
        drawn = self.lines
        self._erase()
        self._write(f"{_CONTROL.sub('?', text)}\n")
        if drawn:
            self.draw(drawn)

    def _erase(self) -> None:
        if self.lines:
            self._write(f"\033[{len(self.lines)}A\r\033[J")
            self.lines = []

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()

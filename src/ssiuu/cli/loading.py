"""Says "loading" on a terminal before torch is imported, which takes a second or more."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder

HEAVY = "torch"


class _Watch(MetaPathFinder):
    """Is asked first where a module lies, and leaves that to the others."""

    def __init__(self) -> None:
        self.said = False

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Say it as soon as the heavy module is looked for."""
        if name == HEAVY and not self.said:
            self.said = True
            print("loading", file=sys.stderr, flush=True)


@contextmanager
def told(wanted: bool) -> Iterator[None]:
    """Have the command's first import of torch told of, if wanted and stderr is a terminal."""
    if not wanted or HEAVY in sys.modules or not sys.stderr.isatty():
        yield
        return
    watch = _Watch()
    sys.meta_path.insert(0, watch)
    try:
        yield
    finally:
        sys.meta_path.remove(watch)

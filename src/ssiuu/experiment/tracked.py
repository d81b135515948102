"""Numbers of a run as they come, told to trackers that accelerate knows; off unless `track` names one.

    with tracked(recipe, out / "tracked", progress) as progress:
        progress(Said("step 1", {"forget_loss": 2.1}))

What is told are losses, scores, shares and megabytes, under the names of methods. No question, answer,
path or name of a folder is among it, whoever keeps the numbers. A tracker that fails is left out, and
the run goes on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ssiuu.benchmarks.base import Progress
from ssiuu.errors import ConfigError
from ssiuu.experiment import launched
from ssiuu.experiment.recipe import Recipe
from ssiuu.hub import first_line
from ssiuu.records.said import Said

PROJECT: Final = "ssiuu"


@contextmanager
def tracked(recipe: Recipe, place: Path, progress: Progress) -> Iterator[Progress]:
    """Yield progress that tells the trackers of a recipe its numbers too; without any, as it was.

    Args:
        recipe: Names the trackers.
        place: Folder for what trackers keep on this machine.
        progress: Told every line.

    Raises:
        ConfigError: A tracker is not installed.
    """
    if not recipe.track or not launched.first():
        yield progress
        return
    trackers = [opened(name, place) for name in recipe.track]
    telling = _Telling(trackers, progress)
    try:
        labels = ", ".join(method.label for method in recipe.made())
        telling.each("store_init_configuration", {"benchmark": recipe.benchmark, "methods": labels})
        yield telling
    finally:
        telling.each("finish")


def opened(name: str, place: Path) -> Any:
    """Return a tracker of accelerate's, started.

    Raises:
        ConfigError: Its package is not there, or it refuses to start.
    """
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    if name not in map(str, get_available_trackers()):
        raise ConfigError(f"track: {name} is not installed here: pip install {name}.")
    PartialState()  # its trackers ask it which process they are in
    kind: Any = LOGGER_TYPE_TO_CLASS[name]
    named = f"{PROJECT}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    local = {"logging_dir": str(place)} if kind.requires_logging_directory else {}
    tracker = kind(named if name == "tensorboard" else PROJECT, **local)
    tracker.main_process_only = False  # this one is the only one that tells
    try:
        tracker.start()
    except Exception as error:  # trackers raise many unrelated kinds
        raise ConfigError(f"track: {name} could not be started: {first_line(error)}.") from error
    return tracker


class _Telling:
    """Progress that tells trackers its numbers, each line at a place of its own."""

    def __init__(self, trackers: list[Any], progress: Progress) -> None:
        self.trackers, self.progress, self.count = trackers, progress, 0

    def __call__(self, text: str) -> None:
        """Tell a line."""
        self.progress(text)
        if not isinstance(text, Said) or not text.numbers:
            return
        values = {name: float(value) for name, value in text.numbers.items() if math.isfinite(value)}
        # Not the step itself, which begins again with every method: some trackers only go on.
        self.count += 1
        self.each("log", values, step=self.count)

    def each(self, what: str, *given: Any, **named: Any) -> None:
        """Call the method of every tracker; one that fails is told of, ended and left out."""
        for tracker in [*self.trackers]:
            try:
                getattr(tracker, what)(*given, **named)
            except Exception as error:
                self.trackers.remove(tracker)
                self.progress(f"{tracker.name} is told nothing more: {first_line(error)}")
                with suppress(Exception):
                    tracker.finish()

"""The frame of the fuzzing: a strategy for each thing that is read, and what must hold of every draw.

    @fuzz(st.binary(), examples=200)
    def test_anything_is_read_or_refused(sample: bytes, tmp_path: Path) -> None:
        typed(lambda: read(sample))

In the suite every such test tries its `examples`, the same ones at every run. Under FUZZ_MINUTES
(`make fuzz`) they share that many minutes, with new seeds all along, and the counts stand at the end.
"""

from __future__ import annotations

import functools
import inspect
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import SearchStrategy

from ssiuu.errors import InputError, SsiuuError

MINUTES = float(os.environ.get("FUZZ_MINUTES", 0))
SECONDS = 5.0  # of this process that anything may take to be read or refused
TRIED: Counter[str] = Counter()
FAILED: Counter[str] = Counter()
NAMES: list[str] = []


def fuzz(strategy: SearchStrategy[Any], examples: int = 100) -> Callable[[Any], Any]:
    """Make a test of a function of `sample` (and of fixtures) that draws from a strategy."""

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        name = check.__name__.removeprefix("test_").replace("_", " ")
        NAMES.append(name)

        @functools.wraps(check)
        def test(**fixtures: Any) -> None:
            def one(sample: Any) -> None:
                TRIED[name] += 1
                check(sample, **fixtures)

            try:
                _draw(strategy, one, examples)
            except BaseException:
                FAILED[name] += 1
                raise

        own = [p for p in inspect.signature(check).parameters.values() if p.name != "sample"]
        test.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
        return test

    return decorate


def _draw(strategy: SearchStrategy[Any], one: Callable[[Any], None], examples: int) -> None:
    rules = settings(
        max_examples=examples,
        derandomize=not MINUTES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    end = time.monotonic() + MINUTES * 60 / len(NAMES)
    rules(given(strategy)(one))()
    while time.monotonic() < end:
        seed(random.SystemRandom().getrandbits(64))(rules(given(strategy)(one)))()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail where what is done meanwhile computes longer; what others do on a busy machine does not count."""

    def late(_: int, frame: FrameType | None) -> None:
        raise AssertionError(f"not done within {seconds} s of this process; at {frame}")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds, 1.0)  # a collector may swallow the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def typed(call: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Return what a call returns; None where it is refused by an error of ssiuu's own, in sentences.

    Anything else that is raised, and what takes longer, fails.
    """
    with within(seconds):
        try:
            return call()
        except SsiuuError as error:
            problems = error.problems if isinstance(error, InputError) else [str(error)]
            assert problems and all(p.strip() and "\n" not in p.strip() for p in problems), problems
            return None


def counts() -> list[str]:
    """Return what was tried and what failed, a line for each test."""
    lines = [f"{name}: {TRIED[name]} tried / {FAILED[name]} failed" for name in NAMES if TRIED[name]]
    if not lines:
        return []
    return [*lines, f"fuzzed in all: {TRIED.total()} tried / {FAILED.total()} failed"]

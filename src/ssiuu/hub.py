"""Whether the Hugging Face hub answers at all, asked before anything is wanted of it.

The libraries that read from it try again and again: behind a firewall that swallows packets they
would be silent for minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

PATIENCE = 6.0  # seconds


@contextmanager
def reaching() -> Iterator[str]:
    """Yield why the hub is silent, empty where it answers; meanwhile nothing waits for a silent one.

    What is in the caches of the libraries is still found while the block runs.
    """
    from huggingface_hub import constants

    silent = silence()
    if not silent:
        yield ""
        return
    # `datasets` has a copy of the setting, which it reads in many places.
    places: list[Any] = [constants]
    places += [sys.modules[name] for name in ("datasets.config",) if name in sys.modules]
    before = [(place, place.HF_HUB_OFFLINE) for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        yield silent
    finally:
        for place, value in before:
            place.HF_HUB_OFFLINE = value


def silence() -> str:
    """Return why nothing can be had from the hub now, one phrase; empty where it answers.

    Any answer counts, an error too. In offline mode (HF_HUB_OFFLINE) nothing is asked: only what
    is in the hub's cache will be read.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return ""
    reasons: list[str] = []

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=PATIENCE)
            reasons.append("")
        except Exception as error:  # the client raises many unrelated kinds
            reasons.append(first_line(error))

    # A thread, because looking up a name and trying address after address know no timeout.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    reason = reasons[0] if reasons else f"no answer within {PATIENCE:.0f} s"
    if not reason:
        return ""
    return (
        f"{constants.ENDPOINT} cannot be reached: {reason}. Is there a firewall or a proxy? "
        "HF_ENDPOINT names a mirror, HF_HUB_OFFLINE=1 reads the cache alone"
    )


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text that says something, or its kind; 160 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # A line that ends in a colon only announces the next one.
    phrase = next((line for line in lines if not line.endswith(":")), type(error).__name__)
    if isinstance(error, KeyError):
        phrase = f"{phrase} is not known"
    return phrase[:160].rstrip(".")

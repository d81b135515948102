"""Whether a launcher started this process as one of several, and what these may do together."""

from __future__ import annotations

import os
import sys

from ssiuu.errors import ConfigError

TOGETHER = ("unlearn", "run", "audit", "diagnose", "teach")  # what several processes do as one


def started() -> int:
    """Return of how many processes this is one, as torchrun and accelerate launch say it."""
    return max(_whole("WORLD_SIZE"), _whole("RANK") + 1, 1)


def first() -> bool:
    """Whether it is the one that speaks and writes."""
    return _whole("RANK") == 0 or started() == 1


def speaks() -> bool:
    """Whether it says what cannot be used: one process of each machine, where files may be missing."""
    return started() == 1 or _whole("LOCAL_RANK") == 0


def _whole(variable: str) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else 0


def check(what: str) -> None:
    """Refuse to be one of several processes at what they cannot do together.

    Raises:
        ConfigError: WORLD_SIZE or RANK say that there are several: each would do all of the work.
    """
    if started() == 1:
        return
    told = f"this is one of {started()} processes (WORLD_SIZE, RANK), and"
    if what not in TOGETHER:
        raise ConfigError(
            f"{told} {what} works in a single one: start it without torchrun or accelerate launch. "
            f"Several do {', '.join(TOGETHER)}."
        )
    if not all(os.environ.get(variable) for variable in ("MASTER_ADDR", "MASTER_PORT")):
        raise ConfigError(
            f"{told} nothing says where the others are (MASTER_ADDR, MASTER_PORT): start all of them "
            "with torchrun or accelerate launch, or unset WORLD_SIZE and RANK."
        )


def begin(what: str) -> None:
    """Join the other processes, if there are any: the first one writes, and all go the same way.

    Raises:
        ConfigError: They cannot do this together.
    """
    check(what)
    if started() > 1:
        from ssiuu.models import shards
        from ssiuu.records.files import written_by

        shards.join()
        written_by(shards.by_first)


def end(code: int) -> None:
    """End this process, if it is one of several, when all have come to the end of the command.

    At once: what torch keeps of the others is taken apart in an order in which it may abort, after a
    command that has succeeded.
    """
    if (shards := sys.modules.get("ssiuu.models.shards")) is not None and shards.world() > 1:
        shards.wait()
        sys.stderr.flush()
        os._exit(code)

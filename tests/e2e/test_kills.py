"""Killed outright before and after files are saved, named and removed, or at any time, a command called
again ends in the same bytes, and leaves nothing behind.

pytest tests/e2e/test_kills.py                       # three kills
pytest -m slow tests/e2e/test_kills.py               # every command at many points, and at any time
make soak SOAK=300                                   # that many, drawn, and the count at the end
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from conftest import build_model
from kills import Bench

SOAK = int(os.environ.get("SOAK", 10))
COMMANDS = ("run", "unlearn", "search", "audit", "report")
OFTEN = (6, 6, 1, 6, 3)  # of drawn kills; a search takes long, a report is short


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Bench:
    """A run and its report alone."""
    return Bench.build(tmp_path_factory.mktemp("kills"), build_model(), tokenizer, ("run", "report"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Bench:
    return Bench.build(tmp_path_factory.mktemp("all-kills"), build_model(), tokenizer, COMMANDS)


def test_killed_at_a_point_a_run_ends_in_the_same_bytes(small: Bench, tmp_path: Path) -> None:
    events = small.events["run"]
    assert len(events) > 60 and any("save_file unlearn-" in event for event in events)
    saved = events.index(next(e for e in events if e.startswith("before replace unlearn-"))) + 1
    split = events.index("before replace split.json") + 1
    for kill_at in (split, saved, len(events)):
        assert small.killed("run", tmp_path / str(kill_at), kill_at) == ""
    assert small.killed("report", tmp_path / "report", 2) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_many_points(bench: Bench, name: str, tmp_path: Path) -> None:
    count = len(bench.events[name])
    for kill_at in range(1, count + 1, max(1, count // 14)):
        told = bench.killed(name, tmp_path / str(kill_at), kill_at)
        assert told == "", f"{name} at {kill_at}, {bench.events[name][kill_at - 1]}"
        shutil.rmtree(tmp_path / str(kill_at))


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_any_time(bench: Bench, name: str, tmp_path: Path) -> None:
    rng = random.Random(name)
    for turn in range(5):
        after = rng.uniform(0.05, 1.0) * bench.spent[name]
        assert bench.killed(name, tmp_path / str(turn), after=after) == "", after


@pytest.mark.slow
def test_soak(bench: Bench, tmp_path: Path) -> None:
    """Draw commands, and points or times; go on where one fails, and count."""
    rng, failed, tried = random.Random(time.time_ns()), list[str](), Counter[str]()
    for turn in range(SOAK):
        name = rng.choices(COMMANDS, OFTEN)[0]
        exact = turn % 3 != 2
        kill_at = rng.randint(1, len(bench.events[name])) if exact else None
        after = 0.0 if exact else rng.uniform(0.05, 1.0) * bench.spent[name]
        at = (
            f"{name} at {kill_at} ({bench.events[name][kill_at - 1]})"
            if kill_at
            else f"{name}, {after:.2f} s"
        )
        told = bench.killed(name, tmp_path / str(turn), kill_at, after)
        tried[f"{name}, {'at a point' if exact else 'at any time'}"] += 1
        if told:
            failed.append(f"{at}: {told}")
            print(f"FAILED {failed[-1]}", flush=True)
        shutil.rmtree(tmp_path / str(turn))
        if turn % 20 == 19:
            print(f"{turn + 1} tried / {len(failed)} failed", flush=True)
    for what, count in sorted(tried.items()):
        print(f"{what}: {count}")
    print(f"kills in all: {tried.total()} tried / {len(failed)} failed", flush=True)
    assert not failed

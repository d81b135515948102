"""Leases: one process holds one, a silent one is taken over, and who was taken over finds out."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

import ssiuu
from ssiuu.errors import OutputError
from ssiuu.experiment.folder import at_work
from ssiuu.records import lease as leasing
from ssiuu.records import sharing
from ssiuu.records.lease import Lost, check, generations, lease
from ssiuu.records.lock import open_lock
from ssiuu.records.sharing import Sharing, Way, flock

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leasing, "BEAT", 0.02)
    monkeypatch.setattr(leasing, "PATIENCE", 0.2)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def wait_for(path: Path, most: float = 5.0) -> leasing.Held:
    until = time.monotonic() + most
    while (held := lease(path)) is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    return held


def test_a_lease_is_one_holders_and_is_signed_for_as_long_as_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "cells" / ".evaluate-1.lock"
    held = lease(path)
    assert held is not None and generations(path) == [1]
    until = time.monotonic() + 0.5
    while time.monotonic() < until:  # longer than a silent one would last
        assert lease(path) is None
        time.sleep(0.02)
    said = json.loads(held.path.read_text())
    assert said["pid"] == os.getpid() and said["beats"] > 5
    check()
    held.release()
    assert files(path.parent) == []
    again = lease(path)
    assert again is not None and generations(path) == [1]
    again.release()


def holds_for_ever(path: Path, stopped: bool) -> None:
    assert lease(path) is not None
    if stopped:
        os.kill(os.getpid(), signal.SIGSTOP)
        try:
            check()
        except Lost:
            os._exit(7)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_silent_lease_is_taken_over_and_a_sleeper_finds_out(tmp_path: Path, stopped: bool) -> None:
    path = tmp_path / ".x.lock"
    process = FORK.Process(target=holds_for_ever, args=(path, stopped))
    process.start()
    while not generations(path):
        time.sleep(0.005)
    begun = time.monotonic()
    held = wait_for(path)
    assert time.monotonic() - begun >= 0.2 and generations(path) == [2]
    if stopped:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGCONT)
    process.join(300)
    assert process.exitcode == (7 if stopped else -signal.SIGKILL)
    check()
    held.release()
    assert files(tmp_path) == []


def test_no_clock_of_another_host_is_asked(tmp_path: Path) -> None:
    """A file's time may be of any year: only whether it changes counts."""
    path = tmp_path / ".x.lock"
    held = lease(path)
    assert held is not None
    for year in (0.0, 4e9):
        for _ in range(15):
            os.utime(held.path, (year, year))
            assert lease(path) is None
            time.sleep(0.02)
    held.release()


def test_who_has_slept_between_two_looks_counts_no_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk may have stood still for both of them."""
    path = tmp_path / ".x.lock"
    path.with_name(".x.lock.1").write_text('{"id": "somebody"}')
    clock = [0.0]
    monkeypatch.setattr(leasing.time, "monotonic", lambda: clock[0])
    looks = 0
    while (held := lease(path)) is None:
        clock[0] += 1000.0
        looks += 1
    assert 10 <= looks <= 12  # PATIENCE / BEAT
    held.release()


def test_who_comes_late_stands_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has looked before another one took over, let go, and a third one began."""
    path = tmp_path / ".x.lock"
    first = path.with_name(".x.lock.1")
    first.write_text('{"id": "dead"}')
    monkeypatch.setattr(leasing, "PATIENCE", 1e-3)
    assert lease(path) is None
    time.sleep(0.01)
    made = leasing._make

    def meanwhile(path: Path, generation: int) -> leasing.Held | None:
        first.write_text('{"id": "alive"}')
        return made(path, generation)

    monkeypatch.setattr(leasing, "_make", meanwhile)
    assert lease(path) is None and generations(path) == [1]
    first.unlink()
    listed = leasing.generations
    looks = iter([[], [1, 2]])
    monkeypatch.setattr(leasing, "generations", lambda path: next(looks, None) or listed(path))
    monkeypatch.setattr(leasing, "_make", made)
    assert lease(path) is None and files(tmp_path) == []


def contend(path: Path, log: Path, stop: Path, seed: int) -> None:
    draw = random.Random(seed)
    while not stop.exists():
        if (held := lease(path)) is not None:
            with log.open("a") as lines:
                lines.write(f"+{os.getpid()}\n")
            time.sleep(draw.random() * 0.003)
            with log.open("a") as lines:
                lines.write(f"-{os.getpid()}\n")
            held.release()
        time.sleep(draw.random() * 0.001)


def test_never_two_at_a_time(tmp_path: Path) -> None:
    path, log, stop = tmp_path / "in" / ".x.lock", tmp_path / "log", tmp_path / "stop"
    (tmp_path / "in").mkdir()
    workers = [FORK.Process(target=contend, args=(path, log, stop, seed)) for seed in range(4)]
    for worker in workers:
        worker.start()
    time.sleep(1.0)
    stop.touch()
    for worker in workers:
        worker.join(300)
    lines = log.read_text().splitlines()
    assert len(lines) > 40 and len({*lines}) == 8
    for taken, left in zip(lines[::2], lines[1::2], strict=True):
        assert taken[0] == "+" and left == f"-{taken[1:]}"
    assert files(tmp_path / "in") == []


# --- which way a folder is shared ---------------------------------------------------------------


def refuses(*_: object, **__: object) -> bool:
    raise OSError(38, "Function not implemented")


def test_leases_are_taken_where_the_system_locks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not Sharing(tmp_path).leases
    with monkeypatch.context() as patch:
        patch.setattr("filelock.lock_descriptor", refuses)
        found = Sharing(tmp_path)
        held = found.hold(tmp_path / ".lock")
        assert found.leases and held is not None and files(tmp_path) == [".lock", ".lock.1"]
        held.release()
    assert Sharing(tmp_path).leases  # as those who are there
    with pytest.raises(OutputError, match="locks: flock, but processes keep apart by leases"):
        Sharing(tmp_path, "flock")


@pytest.mark.parametrize(
    ("options", "leases"),
    [
        ("rw,flock", False),
        ("rw,localflock", True),
        ("rw,local_lock=flock", True),
        ("rw,local_lock=none", False),
    ],
)
def test_locks_of_one_machine_alone_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, leases: bool
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"a / ext4 rw,localflock 0 0\nb {tmp_path} lustre {options} 0 0\n")
    monkeypatch.setattr(sharing, "MOUNTS", mounts)
    assert Sharing(tmp_path).leases == leases


def test_a_part_locked_by_the_system_is_signed_and_removed(tmp_path: Path) -> None:
    path = tmp_path / ".evaluate-1.lock"
    held = flock(path, part=True)
    assert held is not None and json.loads(path.read_text())["beats"] >= 1
    assert flock(path, part=True) is None
    waiting = open_lock(path)  # opened before it is removed: no lock any more
    held.release()
    assert not path.exists()
    again = flock(path, part=True)
    assert again is not None and not os.path.samestat(os.fstat(waiting.fileno()), path.stat())
    waiting.close()
    again.release()
    whole = flock(tmp_path / ".lock")
    assert whole is not None
    whole.release()
    assert files(tmp_path) == [".lock"] and (tmp_path / ".lock").read_text() == ""


def test_a_part_that_is_locked_by_the_system_is_no_lease_to_be_had(tmp_path: Path) -> None:
    """As a process holds it that began before leases were asked for."""
    path = tmp_path / ".evaluate-1.lock"
    held = flock(path, part=True)
    assert held is not None
    until = time.monotonic() + 0.4
    while time.monotonic() < until:
        assert lease(path) is None
        time.sleep(0.02)
    held.release()
    taken = lease(path)
    assert taken is not None
    taken.release()


def killed_at_work(out: Path, locks: Way) -> None:
    with at_work(out, locks) as work:
        (work / "state.safetensors").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("locks", ["flock", "leases"])
def test_a_checkpoint_is_worked_on_by_one_process_and_a_killed_one_hinders_nobody(
    tmp_path: Path, locks: Way
) -> None:
    """Two that trained into one folder took each other's work away, and one training was lost."""
    out = tmp_path / "made" / "out"
    killed = FORK.Process(target=killed_at_work, args=(out, locks))
    killed.start()
    killed.join(300)
    assert killed.exitcode == -signal.SIGKILL
    told: list[str] = []
    with at_work(out, locks, told.append) as work:
        assert len(told) == (locks == "leases")  # which is waited for
        assert (work / "state.safetensors").read_text() == "half"
        half = tmp_path / "made" / ".out.part-x"  # which is being saved
        half.mkdir()
        refused = pytest.raises(
            OutputError, match=r"^--out .*out: another process is at work on it; wait"
        )
        with refused, at_work(out, locks):
            pass
        with at_work(out.with_name("other"), locks):
            pass
        assert half.exists() and (work / "state.safetensors").exists()
        shutil.rmtree(work)
    assert files(tmp_path / "made") == [".out.part-x"]
    with pytest.raises(KeyError), at_work(tmp_path / "new" / "a" / "b", locks):
        raise KeyError  # as of a model that cannot be used: nothing has been written
    assert files(tmp_path) == ["made"]


def test_who_comes_as_the_checkpoint_is_done_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "unlearn.json").mkdir(parents=True)
    with pytest.raises(OutputError, match="is not an empty folder"), at_work(out):
        pass
    assert files(tmp_path) == ["out"]


def test_a_second_training_into_one_folder_is_refused_at_once(tmp_path: Path) -> None:
    rows = [{"question": "Where is a?", "answer": "b"}]
    more = [{"question": "Where is c?", "answer": "d"}]
    with at_work(tmp_path / "out"):
        for train in (
            lambda: ssiuu.unlearn_model("smollm2-135m", rows, tmp_path / "out", more, "gd"),
            lambda: ssiuu.teach_model("smollm2-135m", rows, tmp_path / "out"),
        ):
            with pytest.raises(OutputError, match="another process is at work"):
                train()

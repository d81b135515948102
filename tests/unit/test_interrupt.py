"""Ctrl-C: at once where nothing is trained, before the next step where something is."""

import io
import os
import signal
import time
from typing import Any

import pytest

from ssiuu.training import interrupt


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_what_is_no_training_ends_at_once() -> None:
    with pytest.raises(interrupt.Interrupted), interrupt.graceful():
        press()
        pytest.fail("it went on")
    assert not interrupt.pending()


def test_a_training_goes_on_to_its_next_step(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt) as ended, interrupt.graceful(), interrupt.between_steps():
        press()
        assert interrupt.pending() and "stopping after this step" in capfd.readouterr().err
        with interrupt.between_steps():
            pass
        press()  # again: at once
    assert not isinstance(ended.value, interrupt.Interrupted)
    with pytest.raises(interrupt.Interrupted), interrupt.graceful():
        press()


def test_several_processes_wait_for_a_step_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssiuu.models.shards.world", lambda: 2)
    with interrupt.graceful():
        press()
        assert interrupt.pending()


def test_what_is_said_waits_for_no_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal may come while a line is written: Python's own buffer refuses a second writer."""
    reading, writing = os.pipe()

    class Busy(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)  # the handler runs in here, the buffer held
            return len(data)

        def fileno(self) -> int:
            return writing

    busy = io.TextIOWrapper(io.BufferedWriter(Busy()), write_through=True)
    monkeypatch.setattr("sys.stderr", busy)
    with interrupt.graceful(), interrupt.between_steps():
        print("a step", file=busy, flush=True)
        assert interrupt.pending()
    assert b"stopping after this step" in os.read(reading, 100)
    os.close(reading), os.close(writing)

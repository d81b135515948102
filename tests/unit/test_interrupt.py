"""Ctrl-C: at once where nothing is trained, before the next step where something is."""

import os
import signal

import pytest

from ssiuu.training import interrupt


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_what_is_no_training_ends_at_once() -> None:
    with pytest.raises(interrupt.Interrupted), interrupt.graceful():
        press()
        pytest.fail("it went on")
    assert not interrupt.pending()


def test_a_training_goes_on_to_its_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt) as ended, interrupt.graceful(), interrupt.between_steps():
        press()
        assert interrupt.pending() and "stopping after this step" in capsys.readouterr().err
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

"""A hub that accepts and never answers costs seconds, and what is in the caches is still found."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from ssiuu import hub
from ssiuu.benchmarks.rows import read_hub
from ssiuu.benchmarks.tofu_rows import TofuRow
from ssiuu.data.read import read_facts
from ssiuu.errors import DataError, ModelError
from ssiuu.models.load import load


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A server on this machine that takes every connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(hub, "PATIENCE", 0.6)
        yield


def test_a_silent_hub_is_given_up(silent: None) -> None:
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"'a/b' .* cannot be reached: .*firewall"):
        load("a/b")
    with pytest.raises(DataError, match=r"cannot be reached: .*firewall"):
        read_facts("a/b", "forget")
    with pytest.raises(DataError, match=r"cannot be reached: .*firewall"):
        read_hub("a/b", "forget01", "train", TofuRow, "tofu")
    assert time.monotonic() - start < 10
    assert constants.HF_HUB_OFFLINE is False


def test_what_is_in_the_cache_is_found_behind_a_silent_hub(silent: None, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--a--b"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("1" * 40)
    (repository / "snapshots" / ("1" * 40)).mkdir(parents=True)
    (repository / "snapshots" / ("1" * 40) / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"model_type is missing"):
        load("a/b")


def test_nothing_is_asked_in_offline_mode(silent: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "PATIENCE", 60.0)
    start = time.monotonic()
    assert hub.silence() == ""
    assert time.monotonic() - start < 30

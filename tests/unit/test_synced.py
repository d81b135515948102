"""A file is on the disk before it gets its name: a power cut leaves the old one or the new one whole.

pytest tests/unit/test_synced.py
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ssiuu.models.weights import write_tensors
from ssiuu.records.files import write_bytes

WRITES: list[Callable[[Path], object]] = [
    lambda path: write_bytes(path, b"{}"),
    lambda path: write_tensors({"w": torch.zeros(2)}, path, {}),
]


@pytest.mark.parametrize("write", WRITES, ids=["record", "weights"])
def test_what_is_written_is_synced_before_it_is_named(
    write: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, replace = list[str](), os.replace

    def named(one: str, other: Path) -> None:
        done.append("named")
        replace(one, other)

    monkeypatch.setattr(os, "fsync", lambda _: done.append("synced"))
    monkeypatch.setattr(os, "replace", named)
    monkeypatch.setattr(Path, "replace", lambda one, other: named(str(one), other))
    write(tmp_path / "file.safetensors")
    assert done[0] == "synced" and "named" in done and (tmp_path / "file.safetensors").exists()

"""What stands in a record of the memory that unlearning took."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ssiuu.likelihood import Example
from ssiuu.methods import make
from ssiuu.records.schema import MethodInfo
from ssiuu.training.memory import peak_device_mb, reset_peak
from ssiuu.training.unlearn import Settings, StopRule, unlearn_examples

CUDA = torch.device("cuda", 1)


def test_the_peak_of_an_accelerator_is_told_since_the_last_reset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[torch.device] = []

    def most(device: torch.device) -> int:
        asked.append(device)
        return 2_500_000

    module = SimpleNamespace(max_memory_allocated=most, reset_peak_memory_stats=asked.append)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    reset_peak(CUDA)
    assert peak_device_mb(CUDA) == 2.5
    assert asked == [CUDA, CUDA]


def test_a_processor_has_no_peak_of_its_own_nor_a_device_that_counts_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert peak_device_mb(torch.device("cpu")) is None
    monkeypatch.setattr(torch, "get_device_module", lambda device: SimpleNamespace())
    reset_peak(CUDA)
    assert peak_device_mb(CUDA) is None


def test_a_record_of_unlearning_holds_the_peak_of_its_device(
    tiny_model: Any, make_examples: Callable[..., list[Example]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssiuu.training.unlearn.peak_device_mb", lambda device: 12.5)
    method = make("gd")
    info = MethodInfo(label="gd", name="gd", origin="literature", description="")
    settings = Settings(*(1e-5, 2, None, 1, 1, 0.0, 0.0, 0, "fp32"))
    stop = StopRule("none", lambda: 1.0)
    record = unlearn_examples(tiny_model, method, info, make_examples(2), [], settings, stop, 0)
    assert record.peak_device_memory_mb == 12.5

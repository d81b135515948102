"""Fine-tuning that was interrupted ends where an uninterrupted one does, bit for bit.

pytest tests/invariants/test_finetune.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ssiuu.likelihood import answer_logprobs, collate
from ssiuu.training import interrupt
from ssiuu.training.finetune import finetune


def tune(model: Any, examples: Any, state: Path, progress: Any = lambda _: None) -> None:
    finetune(model, examples, 4, 1e-3, 4, 0, "fp32", 0, state, progress)


def test_interrupted_and_continued(make_model: Any, make_examples: Any, tmp_path: Path) -> None:
    examples = make_examples(10)
    whole, broken = make_model(), make_model()
    tune(whole, examples, tmp_path / "state")
    before, after = (
        answer_logprobs(m, collate(examples, 0)).sum.sum().item() for m in (make_model(), whole)
    )
    assert after > before + 1 and not (tmp_path / "state").exists()

    def stop(text: str) -> None:
        if text.startswith("step 6/10"):
            interrupt._asked.set()

    try:
        with pytest.raises(interrupt.Interrupted):
            tune(broken, examples, tmp_path / "state", stop)
    finally:
        interrupt._asked.clear()
    again = make_model()
    told: list[str] = []
    tune(again, examples, tmp_path / "state", told.append)
    assert told[0].startswith("step 7/10")
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_state_of_other_settings_is_not_continued(
    make_model: Any, make_examples: Any, tmp_path: Path
) -> None:
    def stop(text: str) -> None:
        interrupt._asked.set()

    try:
        with pytest.raises(interrupt.Interrupted):
            tune(make_model(), make_examples(10), tmp_path / "state", stop)
    finally:
        interrupt._asked.clear()
    told: list[str] = []
    tune(make_model(), make_examples(10, seed=1), tmp_path / "state", told.append)
    assert told[0].startswith("step 1/10")

"""Plain fine-tuning on questions and answers: AdamW at a constant rate, resumable."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from ssiuu.likelihood import Example
from ssiuu.training import interrupt
from ssiuu.training.batches import draw, micro_batches
from ssiuu.training.state import load_state, save_state
from ssiuu.training.step import Step

MICRO_BATCH = 4  # rows of similar length in memory at once, so that little is padded
SAVE_EVERY = 300.0  # seconds between two saved states


def finetune(
    model: Any,
    examples: Sequence[Example],
    epochs: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
    precision: Literal["bf16", "fp32"],
    pad: int,
    state: Path,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Train in place; the model is left in evaluation mode.

    Args:
        model: Trained in place, in fp32.
        examples: What is learned: the answers, given their prompts.
        epochs: Times every example is seen.
        learning_rate: AdamW's, constant.
        batch_size: Rows a step.
        seed: Order of the rows.
        precision: Of the forward pass.
        pad: Padding token id.
        state: Where to keep the state of an unfinished run; it continues from there.
        progress: Told about every tenth of the steps.

    Raises:
        DivergedError: A loss is not finite.
        Interrupted: Ctrl-C; the state has been saved.
    """
    device = next(model.parameters()).device
    size = min(batch_size, len(examples))
    count = math.ceil(epochs * len(examples) / size)
    settings = [[e.prompt, e.answer] for e in examples], epochs, learning_rate, batch_size, seed
    key = hashlib.sha256(json.dumps([*settings, precision]).encode()).hexdigest()
    step = Step(model, None, learning_rate, precision, pad=pad)
    found = load_state(state, step, key)
    saved = time.perf_counter()
    for number in range(found["step"] + 1 if found else 1, count + 1):
        if interrupt.pending() or time.perf_counter() - saved > SAVE_EVERY:
            save_state(state, step, {"key": key, "step": number - 1})
            saved = time.perf_counter()
            interrupt.check()
        rows = draw(len(examples), size, number, seed)
        drawn = sorted((examples[i] for i in rows), key=lambda e: len(e.prompt) + len(e.answer))
        outcome = step([], micro_batches(drawn, MICRO_BATCH, pad, device))
        if number % max(1, count // 10) == 0:
            progress(f"step {number}/{count} | loss {outcome.retain_loss or 0.0:.3f}")
    model.eval()
    step.close()
    state.unlink(missing_ok=True)

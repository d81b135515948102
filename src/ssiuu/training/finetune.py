"""Plain fine-tuning on questions and answers: AdamW at a constant rate, resumable."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Literal

from ssiuu.likelihood import Example
from ssiuu.training import interrupt
from ssiuu.training.batches import draw, micro_batches
from ssiuu.training.state import load_state, save_state
from ssiuu.training.step import Step

MICRO_BATCH = 4  # rows of similar length in memory at once, so that little is padded
IN_A_ROW = 2  # epochs that must find everything learned: once may be luck
KEEP_SEED = 2_000_003  # so that the rows mixed in have an order of their own
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
    keep: Sequence[Example] = (),
    absent: Collection[int] = (),
    mixed: int = 0,
    learned: Callable[[int, float], bool] | None = None,
    least: int = 1,
) -> int:
    """Train in place and return the number of epochs; the model is left in evaluation mode.

    Args:
        model: Trained in place, in fp32.
        examples: What is learned: the answers, given their prompts.
        epochs: Times every example is seen, at most.
        learning_rate: AdamW's, constant.
        batch_size: Rows a step.
        seed: Order of the rows.
        precision: Of the forward pass.
        pad: Padding token id.
        state: Where to keep the state of an unfinished run; it continues from there.
        progress: Told about every tenth of the steps.
        keep: Rows mixed in, so that the model stays as it was elsewhere.
        mixed: How many of them a step.
        absent: Examples, by number, that are never shown; the others come as they would with them.
        learned: Asked at the end of every epoch whether that is enough, with its number and the mean
            loss of its last step; twice in a row ends the training.
        least: Epochs before that.

    Raises:
        DivergedError: A loss is not finite.
        Interrupted: Ctrl-C; the state has been saved.
    """
    device = next(model.parameters()).device
    size = min(batch_size, len(examples))
    count = math.ceil(epochs * len(examples) / size)
    rows = [[[e.prompt, e.answer] for e in part] for part in (examples, keep)]
    settings = [*rows, sorted(absent), mixed, epochs, least, learning_rate, batch_size, seed, precision]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    step = Step(model, None, learning_rate, precision, pad=pad)
    found = load_state(state, step, key)
    done, row = (found["step"], found["row"]) if found else (0, 0)
    loss, saved = 0.0, time.perf_counter()
    while done < count and row < IN_A_ROW:
        if interrupt.pending() or time.perf_counter() - saved > SAVE_EVERY:
            save_state(state, step, {"key": key, "step": done, "row": row})
            saved = time.perf_counter()
            interrupt.check()
        done += 1
        drawn = [examples[i] for i in draw(len(examples), size, done, seed) if i not in absent]
        if keep and mixed:
            drawn += [keep[i] for i in draw(len(keep), mixed, done, seed + KEEP_SEED)]
        if drawn:
            drawn.sort(key=lambda e: len(e.prompt) + len(e.answer))
            loss = step([], micro_batches(drawn, MICRO_BATCH, pad, device)).retain_loss or 0.0
            if done % max(1, count // 10) == 0:
                progress(f"step {done}/{count} | loss {loss:.3f}")
        epoch = done * size // len(examples)
        if learned is not None and epoch > (done - 1) * size // len(examples):
            model.eval()
            row = row + 1 if learned(epoch, loss) and epoch >= least else 0
    model.eval()
    step.close()
    state.unlink(missing_ok=True)
    return done * size // len(examples)

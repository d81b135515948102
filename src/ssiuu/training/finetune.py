"""Plain fine-tuning on questions and answers: AdamW at a constant rate, resumable."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Literal

from ssiuu.causal import CausalLM
from ssiuu.likelihood import Batch, Example
from ssiuu.records.said import Said
from ssiuu.training.batches import draw_rows, step_batches
from ssiuu.training.loop import Loop
from ssiuu.training.state import remove_state
from ssiuu.training.step import Step, StepOutcome

MICRO_BATCH = 4  # rows of similar length in memory at once, so that little is padded
IN_A_ROW = 2  # epochs that must find everything learned: once may be luck
KEEP_SEED = 2_000_003  # so that the rows mixed in have an order of their own


def finetune(
    model: CausalLM,
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
        progress: Told about every step; all but every tenth of them are minor.
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
    memory: dict[str, Any] = {"row": 0}
    loss = 0.0

    def batches(number: int) -> list[list[Batch]]:
        drawn = [examples[i] for i in draw_rows(len(examples), size, number, seed) if i not in absent]
        if keep and mixed:
            drawn += [keep[i] for i in draw_rows(len(keep), mixed, number, seed + KEEP_SEED)]
        # By length, so that little is padded: within a step the order of rows does not matter.
        drawn.sort(key=lambda e: len(e.prompt) + len(e.answer))
        return [[], step_batches(drawn, MICRO_BATCH, pad, device)]

    def after(number: int, outcome: StepOutcome | None) -> bool:
        nonlocal loss
        if outcome is not None:
            loss = outcome.retain_loss or 0.0
            line, minor = f"step {number}/{count} | loss {loss:.3f}", number % max(1, count // 10) > 0
            progress(Said(line, {"loss": loss}, number, number, count, minor=minor))
        # Whether this step was the last of an epoch; what is learned is read only there.
        epoch = number * size // len(examples)
        if learned is not None and epoch > (number - 1) * size // len(examples):
            model.eval()
            with step.shards.gathered():
                enough = learned(epoch, loss) and epoch >= least
            memory["row"] = memory["row"] + 1 if enough else 0
        return bool(memory["row"] >= IN_A_ROW)

    step = Step(model, None, learning_rate, precision, pad=pad)
    loop = Loop(step, count, batches, after, settings, state, memory=memory)
    loop.resume()
    steps = loop.run()
    model.eval()
    step.close()
    remove_state(state)
    return steps * size // len(examples)

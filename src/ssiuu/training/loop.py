"""The loop of every training here: rows for each step, readings, an end, and a state to go on from."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ssiuu.errors import DivergedError
from ssiuu.likelihood import Batch
from ssiuu.models import shards
from ssiuu.training import interrupt
from ssiuu.training.state import SAVE_EVERY, load_state, save_state
from ssiuu.training.step import Step, StepOutcome


@dataclass
class Loop:
    """Takes steps until they are done or a reading ends it; interrupted, the same call goes on.

    Attributes:
        step: Takes them.
        steps: How many at most.
        batches: The micro-batches of a step, counted from 1: for `Step`; none: the step is left out.
        after: Told of a step that was taken, and of one left out (None); True ends the loop.
        settings: All that decides the run, as JSON has it: only the same run is continued.
        state: Where to keep the state of an unfinished run; None: nowhere. The file is the caller's to
            remove, once the result is safe.
        rate: The learning rate of a step; None: as the optimiser has it.
        memory: What the caller must remember as well, as JSON has it; restored in place.
        kept: And tensors beside the parameters; restored in place.
        done: Steps taken.
        seconds: Time spent, that before an interruption included.
    """

    step: Step
    steps: int
    batches: Callable[[int], Sequence[Sequence[Batch]]]
    after: Callable[[int, StepOutcome | None], bool]
    settings: Any = None
    state: Path | None = None
    rate: Callable[[int], float] | None = None
    memory: dict[str, Any] = field(default_factory=dict)
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    done: int = 0
    ended: bool = False

    def __post_init__(self) -> None:
        self._begun, self._spent = time.perf_counter(), 0.0
        text = json.dumps(self.settings, sort_keys=True)
        self.key = hashlib.sha256(text.encode()).hexdigest()

    @property
    def seconds(self) -> float:
        """Time spent so far."""
        return self._spent + time.perf_counter() - self._begun

    def resume(self) -> bool:
        """Take up the state of an unfinished run; whether there was one.

        Raises:
            DivergedError: That run diverged: the same one would do so again.
        """
        saved = None if self.state is None else load_state(self.state, self.step, self.key, self.kept)
        if saved is None:
            return False
        if saved["diverged"]:
            raise DivergedError(saved["diverged"])
        self.done, self.ended, self._spent = saved["done"], saved["ended"], saved["seconds"]
        self.memory.update(saved["memory"])
        return True

    def run(self) -> int:
        """Take the steps that are left; returns how many were taken in all.

        Raises:
            DivergedError: A loss is not finite; the model holds the last good parameters.
            Interrupted: Ctrl-C; the state has been saved.
        """
        with interrupt.between_steps():
            return self._run()

    def _run(self) -> int:
        saved = time.perf_counter()
        while self.done < self.steps and not self.ended:
            # Saved first, because the check behind it raises. No step is ever cut in two. All processes
            # end at the same step, and save by the first one's clock.
            late = shards.rank() == 0 and time.perf_counter() - saved > SAVE_EVERY
            asked, due = shards.all_sum(float(interrupt.pending()), float(late))
            if asked or due:
                self.save()
                saved = time.perf_counter()
            if asked:
                raise interrupt.Interrupted
            number = self.done + 1
            batches = self.batches(number)
            outcome = None
            if any(batches):
                if self.rate is not None:
                    for group in self.step.optimizer.param_groups:
                        group["lr"] = self.rate(number)
                outcome = self.step(*batches)
            self.done = number
            self.ended = self.after(number, outcome)
        return self.done

    def save(self, diverged: str | None = None) -> None:
        """Keep the state, where there is a place for it; `diverged`: it is not to be taken up again."""
        if self.state is None:
            return
        progress = {"key": self.key, "done": self.done, "ended": self.ended, "seconds": self.seconds}
        progress |= {"memory": self.memory, "diverged": diverged}
        save_state(self.state, self.step, progress, self.kept)


def rows_of(examples: Sequence[Any]) -> list[list[Any]]:
    """Return rows as JSON has them."""
    return [[e.id, e.prompt, e.answer] for e in examples]

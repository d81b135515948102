"""The stages of a run, and the weights that each begins with: from there an interrupted run goes on.

A run has one stage, unless a part of its method says otherwise: then each begins with the weights that
the one before has left, which are kept beside the state of the unfinished stage.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ssiuu.causal import CausalLM
from ssiuu.likelihood import Batch, answer_logprobs
from ssiuu.methods.base import Stage
from ssiuu.models.weights import changeable, put, write_tensors
from ssiuu.training.state import read_state


@dataclass
class Starts:
    """Keeps the weights of the stage that a run is in, from the second on.

    Attributes:
        state: Where the state of the unfinished stage is kept; None: nothing is kept.
        settings: All that decides the run, as JSON has it: only the same run is continued.
    """

    state: Path | None
    settings: Any

    @property
    def path(self) -> Path | None:
        """The file."""
        return (
            None if self.state is None else self.state.with_name(f"{self.state.stem}.stage.safetensors")
        )

    @property
    def key(self) -> str:
        """A digest of the settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def resume(self, model: CausalLM) -> tuple[int, dict[str, Any]]:
        """Load what a stage begins with; returns its place, 0 where nothing is kept, and the memory."""
        path = self.path
        if path is None or not path.exists():
            return 0, {}
        stored = read_state(path)
        kept: dict[str, Any] = {} if stored is None else json.loads(stored.told.get("progress", "{}"))
        if stored is None or kept.get("key") != self.key:
            return 0, {}
        put(model, stored.whole, path)
        return int(kept["number"]), kept["memory"]

    def keep(self, number: int, model: CausalLM, memory: dict[str, Any]) -> None:
        """Keep the weights that a stage begins with, in the place of the one before.

        Raises:
            OutputError: No disk space, or the folder cannot be written to.
        """
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        progress = {"key": self.key, "number": number, "memory": memory}
        write_tensors(changeable(model), self.path, {"progress": json.dumps(progress)})

    def clear(self) -> None:
        """Remove what was kept."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def planned(first: Stage, seed: int) -> list[Stage]:
    """Return the stages of a run whose method alone would have this one.

    Raises:
        ConfigError: A part cannot make its stages of it.
    """
    stages = [first]
    for part in first.method.all:
        stages = part.stages(stages, seed)
    return stages


@torch.no_grad()
def mean_loss(model: CausalLM, batches: Sequence[Batch]) -> float:
    """Return the mean NLL of all answer tokens, nats."""
    total, tokens = 0.0, 0
    for batch in batches:
        logprobs = answer_logprobs(model, batch)
        total, tokens = total - float(logprobs.sum.sum()), tokens + int(logprobs.count.sum())
    return total / tokens

"""The optimisers, which are torch's own, and the course of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

Optimiser = Literal["adamw", "sgd", "adafactor"]
Schedule = Literal["constant", "linear", "cosine"]


def build(
    name: Optimiser, parameters: Sequence[Tensor], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return an optimiser with torch's own defaults for all else."""
    settings: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
    if name == "adafactor":
        return torch.optim.Adafactor(parameters, **settings)
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.SGD
    return kind(parameters, fused=True, **settings)


def rate_share(schedule: Schedule, number: int, steps: int, warmup: int) -> float:
    """Return the share of the learning rate that a step takes.

    It grows in equal parts over the steps of the warm-up, the last of which has all of it; then it
    stays, or falls towards 0, which the step after the last one would have.

    Args:
        schedule: How it falls.
        number: The step, counted from 1.
        steps: Steps at most.
        warmup: Steps until the rate is reached.
    """
    if warmup and number < warmup:
        return number / warmup
    first = max(warmup, 1)
    # The first step of the fall has the whole rate, so it ends one step above 0.
    progress = (number - first) / max(1, steps - first + 1)
    if schedule == "linear":
        return 1.0 - progress
    return (1.0 + math.cos(math.pi * progress)) / 2.0 if schedule == "cosine" else 1.0

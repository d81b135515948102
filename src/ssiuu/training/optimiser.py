"""The optimisers, torch's own and two of one line, and the course of the learning rate.

Which one takes the steps decides how lasting unlearning is: Lang et al. 2025 ("Downgrade to upgrade",
ICLR 2026) find that signs resist relearning and quantisation better than Adam's full gradients do. None
of these here is of order zero, as their best is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ssiuu.errors import ConfigError
from ssiuu.methods.base import Optimiser
from ssiuu.models.shards import local, norm_of_pieces, world
from ssiuu.training.blockwise import BlockAdamW, RoundedSGD

Schedule = Literal["constant", "linear", "cosine"]

# Where no rate is given. AdamW's is the recipe's. Those of sgd, sign and normsgd are ours: about half
# of the rate at which gd forgot the same facts of the default model in 24 steps, as AdamW's is, tried
# once each; momentum's is sgd's times 1 - 0.9, and adafactor's was found in the made-up world. A step
# of sign moves each entry by the rate and one of normsgd all of them together by it, so these carry
# over to other models; one of sgd or momentum goes with the gradient's length, and a small model may
# want 100 times as much.
RATES: dict[Optimiser, float] = {
    "adamw": 1.5e-4,
    "adamw8bit": 1.5e-4,
    "sgd": 5e-4,
    "momentum": 5e-5,
    "sign": 1e-4,
    "normsgd": 0.1,
    "adafactor": 4e-3,
}


def build(
    name: Optimiser, parameters: Sequence[Tensor], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return an optimiser with torch's own defaults for all else; momentum's is 0.9.

    Raises:
        ConfigError: Weights in bf16 would be trained by one that rounds each step to nothing.
    """
    bf16 = any(p.dtype == torch.bfloat16 for p in parameters)
    if name == "adamw8bit" or (name == "adamw" and bf16):
        return BlockAdamW(parameters, learning_rate, weight_decay, eight_bit=name == "adamw8bit")
    if bf16:
        return _rounded(name, parameters, learning_rate, weight_decay)
    settings: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
    if name == "adafactor":
        return torch.optim.Adafactor(parameters, **settings)
    if name == "momentum":
        settings["momentum"] = 0.9
    kinds: dict[str, Any] = {
        "adamw": torch.optim.AdamW,
        "sign": SignDescent,
        "normsgd": NormalisedDescent,
    }
    # Of the fused ones torch's DTensor knows AdamW alone.
    fused = name == "adamw" or world() == 1
    made: torch.optim.Optimizer = kinds.get(name, torch.optim.SGD)(parameters, fused=fused, **settings)
    return made


def _rounded(
    name: Optimiser, parameters: Sequence[Tensor], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return the one that rounds by chance, for weights in bf16, in which most steps are nothing."""
    if name == "adafactor":
        raise ConfigError(
            "unlearn.optimiser: adafactor has no form for weights in bf16, in which most of its steps "
            "would round to nothing: use another one, dtype: fp32, or adapters (unlearn.lora.rank)."
        )
    kinds: dict[str, dict[str, Any]] = {
        "momentum": {"momentum": 0.9},
        "sign": {"along": "signs"},
        "normsgd": {"along": "direction"},
    }
    return RoundedSGD(parameters, learning_rate, weight_decay, **kinds.get(name, {}))


class SignDescent(torch.optim.SGD):
    """theta <- theta - rate sign(G), an entry at a time; weight decay stays outside of the sign.

    Source: Bernstein et al. 2018, "signSGD". Departures: none; one process, so no vote.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take a step; leaves the signs in `.grad`."""
        for gradient in _gradients(self):
            gradient.sign_()
        return super().step(closure)


class NormalisedDescent(torch.optim.SGD):
    """theta <- theta - rate G / |G|, the L2 norm over all parameters: the rate is a step's length.

    Source: as CIR and RepSelect take their steps (Sondej and Yang 2025; 2026).
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take a step; leaves the scaled gradient in `.grad`."""
        gradients = _gradients(self)
        norm = norm_of_pieces(gradients)
        if norm > 0:
            for gradient in gradients:
                gradient.div_(norm)
        return super().step(closure)


def _gradients(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    return [local(p.grad) for p in parameters if p.grad is not None]


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

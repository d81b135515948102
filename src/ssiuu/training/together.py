"""What several processes can do together, and what is refused before any work."""

from __future__ import annotations

import torch

from ssiuu.attribution.hidden import blocks
from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError
from ssiuu.methods.base import Optimiser
from ssiuu.methods.method import Method
from ssiuu.models.lora import Lora
from ssiuu.models.shards import is_cut, world

# Whose step is taken entry by entry, or by a length over all of them.
OPTIMISERS: tuple[Optimiser, ...] = ("adamw", "sgd", "momentum", "sign", "normsgd")


def alone(method: Method, lora: Lora | None = None) -> str:
    """Return why a method works in a single process only; "" where it does not."""
    for part in method.all:
        if part.alone:
            return f"{part.name}: {part.alone}"
    if lora is not None and lora.attribution == "effective":
        return "unlearn.lora.attribution: effective needs the weights beside the adapters whole"
    if lora is not None and lora.base == "nf4":
        return "unlearn.lora.base: weights in nf4 are not cut into shards"
    return ""


def check_together(
    model: CausalLM, method: Method, lora: Lora | None = None, optimiser: Optimiser = "adamw"
) -> None:
    """Refuse, before any work, what several processes cannot do together.

    Raises:
        ConfigError: The method, its optimiser or the model needs a single process.
    """
    if world() == 1:
        return
    reason = alone(method, lora)
    for part in method.all if is_cut(model) else ():
        if part.undivided:
            raise ConfigError(
                f"{method.label!r} does not work on a model that stays in shards: {part.name}: "
                f"{part.undivided}. Where the model fits each process, set mesh.reading to replicas."
            )
    kind = method.optimiser or optimiser
    if not reason and kind not in OPTIMISERS:
        reason = f"{kind} takes means over rows and columns of whole weights"
    if not reason and lora is None and any(p.dtype == torch.bfloat16 for p in model.parameters()):
        reason = "weights in bf16 are trained whole (dtype: fp32, or adapters on them)"
    if not reason and any(path.endswith("experts") for path in _lists(model)):
        reason = f"{type(model).__name__} has experts that some rows do not reach"
    if reason:
        raise ConfigError(
            f"{method.label!r} cannot be trained by {world()} processes: {reason}. Start a single one."
        )


def _lists(model: CausalLM) -> list[str]:
    """Return the paths of lists of modules in the blocks."""
    return [
        path
        for block in blocks(model)
        for path, module in block.named_modules()
        if type(module).__name__ == "ModuleList"
    ]

"""Low-rank maps that bring out what a model knows, beside its own maps, while a gradient is taken.

    y <- W x + s B A x,    s = alpha / rank

They stand in forward hooks: the weights never know of them, and nothing is left when they go. In what
they bring out a forget gradient finds what an attacker would find after a few steps.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ssiuu.causal import CausalLM
from ssiuu.likelihood import Batch, answer_logprobs
from ssiuu.models import nf4
from ssiuu.models.hooks import hooked
from ssiuu.models.maps import widths
from ssiuu.models.shards import local


class Elicitation:
    """The low-rank maps beside some linear ones.

    Attributes:
        down: A by path, [rank, in]; drawn uniformly up to 1/sqrt(in), as adapters are.
        up: B by path, [out, rank]; 0 at first.
    """

    def __init__(
        self, maps: Mapping[str, torch.nn.Module], rank: int, alpha: float, seed: int = 0
    ) -> None:
        self.scale = alpha / rank
        self.down: dict[str, Tensor] = {}
        self.up: dict[str, Tensor] = {}
        for path, module in maps.items():
            weight: Any = module.weight
            out, width = widths(module)
            seeded = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{path}".encode()))
            drawn = torch.rand(rank, width, generator=seeded, dtype=torch.float64) * 2 - 1
            like = local(weight).new_empty(0, dtype=nf4.kind_of(weight))
            self.down[path] = (drawn / math.sqrt(width)).to(like).requires_grad_(True)
            self.up[path] = like.new_zeros(out, rank).requires_grad_(True)

    @property
    def parameters(self) -> list[Tensor]:
        """Every A, then every B."""
        return [*self.down.values(), *self.up.values()]

    @contextmanager
    def active(self, model: CausalLM) -> Iterator[None]:
        """Let them take part in every forward pass of this context."""

        def low_rank(path: str) -> Any:
            def hook(module: torch.nn.Module, given: Any, output: Tensor) -> Tensor:
                x = given[0].to(self.down[path].dtype)
                found = (x @ self.down[path].T) @ self.up[path].T
                beside: Tensor = output + (self.scale * found).to(output.dtype)
                return beside

            return hook

        with hooked((model.get_submodule(path), low_rank(path)) for path in self.down):
            yield

    @torch.no_grad()
    def descend(self, gradients: list[Tensor | None], rate: float, normalised: bool = False) -> None:
        """Take a plain step against gradients of `parameters`; normalised: all together to norm 1."""
        there = [g for g in gradients if g is not None]
        norm = float(torch.nn.utils.get_total_norm(there)) if there and normalised else 1.0
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None and norm > 0:
                parameter.sub_(gradient, alpha=rate / norm)


def nll_gradients(
    model: CausalLM,
    step: Sequence[Batch],
    wanted: Sequence[Tensor],
    casting: Callable[[Batch], AbstractContextManager[object]] = lambda batch: nullcontext(),
) -> list[Tensor | None]:
    """Return the gradients of the mean NLL of a step's answer tokens; None where there is none."""
    tokens = sum(int(batch.answer_mask.sum()) for batch in step)
    total: list[Tensor | None] = [None] * len(wanted)
    for batch in step:
        with casting(batch):
            loss = -answer_logprobs(model, batch).sum.sum() / tokens
        for n, gradient in enumerate(torch.autograd.grad(loss, list(wanted), allow_unused=True)):
            known = total[n]
            if gradient is not None:
                total[n] = gradient if known is None else known + gradient
    return total

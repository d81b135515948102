"""Fisher damping: the forget gradient is divided where the rows to keep hang on a parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ssiuu.attribution.hidden import block, blocks
from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError
from ssiuu.likelihood import answer_logprobs
from ssiuu.methods.base import Ask, Bound, Origin, Slope, Training, Transform
from ssiuu.models.lora import weight_of
from ssiuu.models.shards import own


class Fisher(Transform):
    """FDCU's first factor: G <- G / (1 + kappa F), F the diagonal Fisher of the retain loss.

        F[j] = 1/n sum over the retain rows of (dlog P(y|x)/dphi_j)^2, over its largest in the tensor

    It is taken once, before the first step, from the answers as they are (the empirical Fisher).

    Source: arXiv 2609.39279 (FDCU): kappa 50, blocks 24 to 28 of 32, and beside it `gate(20)`.
    Departures: normalised by the largest entry of each tensor, or by its mean, since the source does
    not say which; every parameter is trained unless `fisher_blocks` says which blocks, for a model may
    not have so many. The loss, rates and batches of the source are not known here.
    """

    name: ClassVar[str] = "fisher"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "arXiv 2609.39279 (FDCU)."
    summary: ClassVar[str] = "with the forget gradient damped where the retain rows hang on a parameter"
    brought_by: ClassVar[frozenset[str]] = frozenset({"fisher", "fisher_blocks"})
    order: ClassVar[int] = 20
    number: ClassVar[str] = "fisher"

    fisher: float = Field(default=50.0, ge=0, description="kappa: a gradient is divided by 1 + kappa F")
    fisher_scale: Literal["max", "mean"] = Field(
        default="max", description="what the Fisher of a tensor is 1 at: its largest entry or its mean"
    )
    fisher_blocks: tuple[int, int] | None = Field(
        default=None,
        description="first and last block that keeps a forget gradient, from 0; null: every parameter",
    )

    @property
    def undivided(self) -> str:
        """Gradients of whole weights are taken, a row at a time."""
        return "it squares the gradient of each row"

    @model_validator(mode="after")
    def _ascending(self) -> Fisher:
        if self.fisher_blocks is not None and not 0 <= self.fisher_blocks[0] <= self.fisher_blocks[1]:
            raise ValueError(f"fisher_blocks must be two ascending numbers, got {self.fisher_blocks}")
        return self

    def check(self, model: CausalLM) -> None:
        """Refuse blocks that are not there."""
        if self.fisher_blocks is not None:
            block(model, self.fisher_blocks[1], "fisher_blocks")

    def prepare(self, ask: Ask) -> dict[str, Tensor]:
        """Return 1 / (1 + kappa F) of every parameter that keeps a forget gradient."""
        if not ask.rows["retain"]:
            raise ConfigError(
                f"{ask.label}: the Fisher is that of the retain rows, and there are none."
            )
        chosen = _inside(ask.model, self.fisher_blocks)
        squares = {name: torch.zeros_like(p) for name, p in chosen.items()}
        for example in ask.rows["retain"]:
            (batch,) = ask.batches([example])
            logprob = answer_logprobs(ask.model, batch).sum.sum()
            gradients = torch.autograd.grad(logprob, list(chosen.values()), allow_unused=True)
            for name, gradient in zip(chosen, gradients, strict=True):
                if gradient is not None:
                    squares[name].addcmul_(gradient, gradient)
        return {name: self._damping(square) for name, square in squares.items()}

    def _damping(self, square: Tensor) -> Tensor:
        scale = square.max() if self.fisher_scale == "max" else square.mean()
        # A tensor that no row hangs on is not damped.
        share = square / scale if scale > 0 else square
        return 1.0 / (1.0 + self.fisher * share)

    def bind(self, prepared: Any) -> Damping:
        """Divide by these."""
        return Damping(prepared)


class Damping(Bound):
    """Multiplies every forget gradient by 1 / (1 + kappa F)."""

    shapes = True

    def __init__(self, shares: Mapping[str, Tensor] | None) -> None:
        self.shares = shares

    def attach(self, training: Training) -> None:
        """Refuse adapters, whose entries are not the weights'."""
        if any(weight_of(name)[1] != "weight" for name in training.named):
            raise ConfigError(
                "fisher: it weighs the entries of weights, and adapters have others: leave "
                "unlearn.lora out."
            )
        if self.shares is not None:
            named = training.named
            self.shares = {n: own(named[n], s) for n, s in self.shares.items() if n in named}

    def shape(self, slope: Slope) -> None:
        """Damp one parameter's forget gradient; 0 where its block is not chosen."""
        if self.shares is None:
            return
        if slope.name in self.shares:
            slope.forget.mul_(self.shares[slope.name])
        else:
            slope.forget.zero_()


def _inside(model: CausalLM, chosen: tuple[int, int] | None) -> dict[str, Tensor]:
    """Return the trained parameters of these blocks, or all."""
    named: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if chosen is None:
        return named
    first, last = chosen
    inner = {id(p) for part in blocks(model)[first : last + 1] for p in part.parameters()}
    return {name: p for name, p in named.items() if id(p) in inner}

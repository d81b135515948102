"""One optimiser step: the forget gradient first, changed by the method, then the retain gradient.

The two gradients are kept apart in time, not in memory: after the forget backward `p.grad` holds
the forget gradient alone, so a method can change it in place; the retain backward then adds to it.
A regulariser on log P needs no further backward, because its gradient *is* the forget gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from ssiuu.errors import DivergedError
from ssiuu.likelihood import AnswerLogprobs, Batch, answer_logprobs
from ssiuu.methods.base import Method
from ssiuu.methods.projection import project_out
from ssiuu.methods.ssiuu import Moved, Regulariser, Ssiuu
from ssiuu.models.precision import autocast

# A loss is called runaway beyond this many nats a token (uniform guessing is about 11).
RUNAWAY = 1000.0


@dataclass(frozen=True)
class Outcome:
    """What one step did; see `ssiuu.records.schema.StepLog`."""

    forget_loss: float
    retain_loss: float | None
    gradient_norm: float
    penalty_share: float | None
    penalty_parameters: float | None


class Step:
    """Takes optimiser steps of one method on one model."""

    def __init__(
        self,
        model: Any,
        method: Method | None,
        learning_rate: float,
        precision: Literal["bf16", "fp32"] = "fp32",
        reference: Mapping[str, float] | None = None,
        bases: Mapping[str, Tensor] | None = None,
        weight_decay: float = 0.0,
        retain_weight: float = 1.0,
    ) -> None:
        """Prepare model and optimiser.

        Args:
            model: Trained in place, in fp32.
            method: None for plain fine-tuning on the "retain" rows (an attack).
            learning_rate: AdamW's.
            precision: Of the forward pass.
            reference: log P(y|x) before unlearning by id, where the method needs it.
            bases: Shared directions by parameter name, where they are taken out.
            weight_decay: AdamW's.
            retain_weight: Weight of the retain loss where there is no method.
        """
        self.accelerator = Accelerator(mixed_precision="no")
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True
        )
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.method = method
        self.precision: Literal["bf16", "fp32"] = precision
        self.reference = reference or {}
        self.bases = bases
        self.retain_weight = method.retain_weight if method else retain_weight
        self.named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        regularised = isinstance(method, Ssiuu) and method.lambda_ > 0
        self.regulariser = Regulariser(method.lambda_) if regularised else None  # type: ignore[union-attr]

    def __call__(self, forget: Sequence[Batch], retain: Sequence[Batch]) -> Outcome:
        """Take one step on the rows of these micro-batches.

        Raises:
            DivergedError: A loss or the gradient is not finite; the parameters were not changed.
        """
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        forget_loss, moved, whole = 0.0, None, 0.0
        if forget and self.method:
            forget_loss, gradients = self._forget_backward(forget)
            moved = self._regularise(gradients)
            whole = self._norm() if moved and self.bases is not None else 0.0
            self._project()
        retain_loss = self._retain_backward(retain) if retain and self.retain_weight else None
        norm = self._norm()
        self._require_finite(forget, retain, forget_loss, retain_loss, norm)
        self.optimizer.step()
        return Outcome(
            forget_loss=forget_loss,
            retain_loss=retain_loss,
            gradient_norm=norm,
            # A projection changes penalty and gradient alike, so the share is read before it.
            penalty_share=(
                math.sqrt(moved.squared_norm) / (whole or norm) if moved and norm else None
            ),
            penalty_parameters=moved.parameters / moved.total if moved else None,
        )

    def _forward(self, batch: Batch) -> AnswerLogprobs:
        with autocast(self.precision, batch.input_ids.device.type):
            return answer_logprobs(self.model, batch)

    def _forget_backward(self, batches: Sequence[Batch]) -> tuple[float, dict[str, Tensor] | None]:
        """Leave the forget gradient in `.grad`; return the loss and, if needed, sum of dP/dphi."""
        assert self.method is not None
        divisor = _divisor(batches, self.method.normaliser)
        total, gradients = 0.0, None
        for batch in batches:
            logprobs = self._forward(batch)
            reference = self._reference(batch) if self.method.needs_reference else None
            loss = self.method.forget_loss(logprobs, reference).sum() / divisor
            if self.regulariser and self.method.target == "probability":  # type: ignore[attr-defined]
                gradients = self._add_probability_gradient(logprobs, gradients)
            self.accelerator.backward(loss)
            total += float(loss.detach())
        if self.regulariser and gradients is None:
            # The forget loss is sum of log P / divisor, so its gradient is the one wanted.
            gradients = {n: p.grad * divisor for n, p in self.named.items() if p.grad is not None}
        return total, gradients

    def _add_probability_gradient(
        self, logprobs: AnswerLogprobs, gradients: dict[str, Tensor] | None
    ) -> dict[str, Tensor]:
        """Add d(sum of P)/dphi of this micro-batch, by a second backward through the same graph."""
        found = [
            self.accelerator.reduce(gradient, "sum")
            for gradient in torch.autograd.grad(
                logprobs.sum.exp().sum(), list(self.named.values()), retain_graph=True
            )
        ]
        if gradients is None:
            return dict(zip(self.named, found, strict=True))
        return {n: gradients[n].add_(g) for n, g in zip(self.named, found, strict=True)}

    def _regularise(self, gradients: dict[str, Tensor] | None) -> Moved | None:
        if self.regulariser is None or gradients is None:
            return None
        first = not self.regulariser.previous
        squared, moved, total = 0.0, 0, 0
        for name, parameter in self.named.items():
            forget = parameter.grad
            if forget is None:
                continue
            one = self.regulariser.apply(name, parameter, gradients.pop(name), forget)
            squared += one.squared_norm
            moved += one.parameters
            total += one.total
        return None if first else Moved(squared, moved, total)

    def _project(self) -> None:
        """Take the shared directions out; parameters without a basis get no forget gradient."""
        if self.bases is None:
            return
        for name, parameter in self.named.items():
            if parameter.grad is None:
                continue
            if name in self.bases:
                project_out(parameter.grad, self.bases[name])
            else:
                parameter.grad.zero_()

    def _retain_backward(self, batches: Sequence[Batch]) -> float:
        divisor = _divisor(batches, "tokens")
        total = 0.0
        for batch in batches:
            loss = -self._forward(batch).sum.sum() / divisor
            self.accelerator.backward(self.retain_weight * loss)
            total += float(loss.detach())
        return total

    def _reference(self, batch: Batch) -> Tensor:
        values = [self.reference[i] for i in batch.ids]
        return torch.tensor(values, device=batch.input_ids.device)

    def _norm(self) -> float:
        grads = [p.grad for p in self.named.values() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads)) if grads else 0.0

    def _require_finite(
        self,
        forget: Sequence[Batch],
        retain: Sequence[Batch],
        forget_loss: float,
        retain_loss: float | None,
        norm: float,
    ) -> None:
        values = {"forget loss": forget_loss, "gradient norm": norm}
        # A loss per example is on a scale of its own: NPO's begins at 2 log 2 / beta.
        token_means = {"retain loss"}
        if self.method is None or self.method.normaliser == "tokens":
            token_means.add("forget loss")
        if retain_loss is not None:
            values["retain loss"] = retain_loss
        for name, value in values.items():
            runaway = name in token_means and abs(value) > RUNAWAY
            if not math.isfinite(value) or runaway:
                rows = [i for batch in (*forget, *retain) for i in batch.ids]
                raise DivergedError(
                    f"the {name} is {value} in this step; the parameters were left as they were "
                    f"before it. The batch: {', '.join(rows)}. A lower learning_rate may help."
                )


def _divisor(batches: Sequence[Batch], normaliser: Literal["tokens", "examples"]) -> float:
    """Return what the losses of a whole step are divided by, over all its micro-batches."""
    if normaliser == "examples":
        return float(sum(len(batch.ids) for batch in batches))
    return float(sum(int(batch.answer_mask.sum()) for batch in batches))

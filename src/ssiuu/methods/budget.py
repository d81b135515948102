"""What a method may cost: the model before on plain text, held against the model as it is now."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ssiuu.causal import CausalLM
from ssiuu.likelihood import Batch, answer_logits


class PlainText:
    """What the model before said of plain texts; kept as log-probabilities, [N, V] a batch."""

    def __init__(self, model: CausalLM, batches: Sequence[Batch]) -> None:
        """Ask the model as it is, which is the one before from here on.

        Args:
            model: In evaluation mode.
            batches: Texts whose tokens are predicted; at least one.
        """
        self.batches = batches
        self.before = [_logprobs(model, batch) for batch in batches]
        self.tokens = sum(len(known) for known in self.before)

    @torch.no_grad()
    def divergence(self, model: CausalLM) -> float:
        """Return KL(before || now), nats a token."""
        total = 0.0
        for batch, before in zip(self.batches, self.before, strict=True):
            share, now = before.exp(), _logprobs(model, batch)
            kl = (share * (before - now)).masked_fill(share == 0, 0.0)
            total += float(kl.sum(dtype=torch.float64))
        return total / self.tokens

    @torch.no_grad()
    def loss(self, model: CausalLM) -> float:
        """Return the NLL of the texts, nats a token."""
        return self._loss([_logprobs(model, batch) for batch in self.batches])

    def original_loss(self) -> float:
        """Return the NLL that the model before had."""
        return self._loss(self.before)

    def _loss(self, logprobs: Sequence[Float[Tensor, "N V"]]) -> float:
        total = 0.0
        for batch, each in zip(self.batches, logprobs, strict=True):
            targets = batch.targets[batch.answer_mask]
            chosen = each.gather(-1, targets.unsqueeze(-1))
            total -= float(chosen.sum(dtype=torch.float64))
        return total / self.tokens


@torch.no_grad()
def _logprobs(model: CausalLM, batch: Batch) -> Float[Tensor, "N V"]:
    """Return log p of every word at every predicted token."""
    return answer_logits(model, batch)[batch.answer_mask].log_softmax(-1)

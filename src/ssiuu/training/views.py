"""What a loss is shown of a micro-batch: a forward pass, and what the model before said of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ssiuu.attribution.hidden import hidden_states, stacked, tapped
from ssiuu.attribution.parameter import SecondGradient
from ssiuu.causal import CausalLM
from ssiuu.likelihood import AnswerLogprobs, Batch, aligned, answer_logits, answer_logprobs, collate
from ssiuu.methods.base import Loss, Rows, View
from ssiuu.models.precision import autocast
from ssiuu.training.prepare import Prepared


@dataclass
class Views:
    """Makes views of rows for the losses of one method."""

    model: CausalLM
    prepared: Prepared
    precision: Literal["bf16", "fp32"]
    pad: int

    def casting(self, batch: Batch) -> AbstractContextManager[object]:
        """Return the context of a forward pass."""
        return autocast(self.precision, batch.input_ids.device.type)

    def of(
        self,
        loss: Loss,
        rows: Rows,
        batch: Batch,
        layer: int | None = None,
        second: SecondGradient | None = None,
    ) -> View:
        """Run the model forward as far as a loss looks: to a block, or to the answers."""
        device = batch.input_ids.device
        with self.casting(batch):
            if layer is not None:
                return self._hidden(loss, batch, layer)
            with second.listening() if second is not None else nullcontext():
                logits = answer_logits(self.model, batch)
            view = self.answers(batch, logits)
            if "refusal" in loss.needs:
                refused = [self.prepared.refusals[i] for i in batch.ids]
                refusal = answer_logprobs(self.model, collate(refused, self.pad).to(device))
                reference = _values(self.prepared.refusal_logprob, batch.ids, device)
                view = replace(view, refusal=refusal, reference_refusal=reference)
        return self.referred(loss, rows, view, batch.ids)

    def answers(self, batch: Batch, logits: Tensor) -> View:
        """Return the view of answers whose logits are known."""
        logprobs = answer_logprobs(self.model, batch, logits)
        return View(logprobs, targets=batch.targets, logits=logits)

    def referred(self, loss: Loss, rows: Rows, view: View, ids: Sequence[str]) -> View:
        """Add what the model before said of these rows."""
        if "logprob" in loss.needs:
            values = _values(self.prepared.logprob, ids, view.logprobs.mask.device)
            view = replace(view, reference=values)
        if "distribution" in loss.needs:
            before = [self.prepared.distributions[rows][i] for i in ids]
            view = replace(view, reference_logits=aligned(before, view.logprobs.mask))
        if "instead" in loss.needs:
            words = [self.prepared.refusals[i].answer for i in ids]
            view = replace(view, instead=laid(words, view.logprobs.mask))
        return view

    def _hidden(self, loss: Loss, batch: Batch, layer: int) -> View:
        mask, taps = batch.attention_mask.bool(), loss.taps(self.model)
        with tapped(self.model, taps) as outputs:
            hidden = _wide(hidden_states(self.model, batch, layer))
        # Nobody reads the answers where a hidden layer is looked at, and NaN shows if somebody does.
        unread = torch.full(batch.targets.shape, torch.nan, device=hidden.device)
        view = View(
            AnswerLogprobs(unread, batch.answer_mask),
            hidden=hidden,
            hidden_mask=mask,
            outputs=_wide(stacked(outputs, taps, mask)) if taps else None,
            ids=batch.ids,
            prepared=self.prepared.parts.get(loss.name),
        )
        if "hidden" not in loss.needs:
            return view
        before = aligned([self.prepared.hidden[i] for i in batch.ids], mask)
        return replace(view, reference_hidden=before, reference_length=self.prepared.hidden_length)


def part(view: View, rows: slice) -> View:
    """Return the view of some rows of a batch whose answers are looked at."""
    assert view.targets is not None and view.logits is not None
    return View(view.logprobs[rows], targets=view.targets[rows], logits=view.logits[rows])


def laid(words: Sequence[Sequence[int]], mask: Bool[Tensor, "B A"]) -> Int[Tensor, "B A"]:
    """Return each row's tokens again and again from its first place on; 0 where there is none."""
    places = (mask.cumsum(1) - 1).clamp(min=0)
    rows = [
        torch.tensor(row, device=mask.device)[place % len(row)]
        for row, place in zip(words, places, strict=True)
    ]
    return torch.stack(rows).masked_fill(~mask, 0)


def _wide(states: Tensor) -> Tensor:
    """Return states in fp32, or wider where they are."""
    return states if states.dtype == torch.float64 else states.float()


def _values(by_id: dict[str, float], ids: Sequence[str], device: torch.device) -> Tensor:
    return torch.tensor([by_id[i] for i in ids], device=device)

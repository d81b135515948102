"""The retain gradient, and those of the terms beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ssiuu.likelihood import Batch, answer_logits, join
from ssiuu.methods.base import Bound, Normaliser, Objective, RetainTerm, Rows, View
from ssiuu.models import shards
from ssiuu.training.views import Views, part


@dataclass
class Terms:
    """The retain term of a method and its other terms, each with passes of its own."""

    views: Views
    objective: Objective | None
    retain: RetainTerm | None
    retain_weight: float
    others: Sequence[RetainTerm]
    bounds: list[Bound]
    backward: Callable[[Tensor], None]

    def weight(self) -> float:
        """Return the weight of the retain term in this step."""
        weight = self.retain_weight
        for bound in self.bounds:
            weight = bound.weigh(weight)
        return weight

    def retain_backward(self, batches: Sequence[Batch]) -> float:
        """Add the retain gradient; return the retain loss."""
        assert self.retain is not None
        divisor, weight, total = divisor_of(batches, self.retain.normaliser), self.weight(), 0.0
        for batch in batches:
            with self.views.casting(batch):
                view = self.views.of(self.retain, "retain", batch, self.retain.looks(self.objective))
                loss = batch.total(self.retain.loss(view)) / divisor
            self.backward(weight * loss)
            total += float(loss.detach())
        return shards.all_sum(total)[0]

    def others_backward(self, batches: Mapping[Rows, Sequence[Batch]]) -> float | None:
        """Add the gradients of the other terms; return the loss on texts, if any.

        They have passes of their own: the joined one knows two kinds of rows, and what is done to the
        forget gradient is not to be done to these.
        """
        terms = [(term, batches[term.rows]) for term in self.others if batches[term.rows]]
        chunks = [[(term, batch)] for term, each in terms for batch in each]
        single = all(len(each) == 1 for _, each in terms)
        # Two of one batch each run forward together, which is half the passes.
        if len(terms) == 2 and single and not any(t.looks(self.objective) for t, _ in terms):
            chunks = [[chunk[0] for chunk in chunks]]
        divisors = {term.name: divisor_of(each, term.normaliser) for term, each in terms}
        total = 0.0
        for chunk in chunks:
            weighted: Any = 0.0
            for (term, view), (_, batch) in zip(self._chunk(chunk), chunk, strict=True):
                loss = batch.total(term.loss(view)) / divisors[term.name]
                weighted = weighted + term.weight * loss
                total += float(loss.detach()) if term.rows == "texts" else 0.0
            self.backward(weighted)
        return shards.all_sum(total)[0] if any(term.rows == "texts" for term, _ in terms) else None

    def _chunk(self, chunk: list[tuple[RetainTerm, Batch]]) -> Iterator[tuple[RetainTerm, View]]:
        """Yield each term with its view; two batches run forward as one."""
        term, batch = chunk[0]
        if len(chunk) == 1:
            yield term, self.views.of(term, term.rows, batch, term.looks(self.objective))
            return
        both, rows = join(batch, chunk[1][1]), len(batch.ids)
        with self.views.casting(both):
            logits = answer_logits(self.views.model, both)
        view = self.views.answers(both, logits)
        for (term, _), cut in zip(chunk, (slice(None, rows), slice(rows, None)), strict=True):
            yield term, self.views.referred(term, term.rows, part(view, cut), both.ids[cut])


def divisor_of(batches: Sequence[Batch], normaliser: Normaliser) -> float:
    """Return what the losses of a whole step are divided by, over the batches of all processes."""
    return shards.all_sum(float(sum(_units(b, normaliser) for b in batches if b.counts)))[0]


def _units(batch: Batch, normaliser: Normaliser) -> int:
    if normaliser == "examples":
        return len(batch.ids)
    if normaliser == "positions":
        return int(batch.attention_mask.sum())
    if normaliser == "later":
        return int(batch.attention_mask.sum()) - len(batch.ids)
    return int(batch.answer_mask.sum())

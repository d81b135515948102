"""Logit lens: from which layer on does the model prefer the right answer?

The residual stream at the last token of the prompt goes through the final norm and the output
embedding after every block; the answer's first token is compared with that of one wrong option.
0.5 is chance; far below it the model avoids the answer, which is over-unlearning.

Source: nostalgebraist 2020; used as in the paper's Fig. 4. Departures: facts whose options all begin
with the same token as the answer are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ssiuu.causal import CausalLM
from ssiuu.likelihood import Batch, Prompt
from ssiuu.models.shards import callable_alone, picked
from ssiuu.models.sites import final_norm
from ssiuu.records.schema import FactText, Lens
from ssiuu.statistics import wilson

CHANCE = 0.5


class LensReader:
    """Reads the lens off forward passes over questions with their answers, batch by batch."""

    def __init__(self, model: CausalLM, prompt: Prompt, facts: Sequence[FactText]) -> None:
        """Find the tokens to compare, by fact; batches may hold other facts beside these."""
        self.norm = final_norm(model)
        self.head = model.get_output_embeddings()
        self.tokens: dict[str, tuple[int, int]] = {}
        for fact in facts:
            if len(fact.options) < 2:
                continue
            joint = prompt.joint(fact.question, fact.options)
            if joint.prompt != prompt.joint(fact.question, fact.options[:1]).prompt:
                continue  # the answer begins later than the options do: nothing to compare there
            right, *wrong = [option[0] for option in joint.answers]
            others = [token for token in wrong if token != right]
            if others:
                self.tokens[fact.id] = right, others[0]
        self.wins: list[list[bool]] = []

    @torch.no_grad()
    def look(self, batch: Batch, states: Sequence[Float[Tensor, "B T _"]]) -> list[list[bool]]:
        """Return whether the answer wins, by fact and layer, of one batch, given its residual stream
        (see `ssiuu.attribution.hidden.residuals`); nothing where that cannot be read.
        """
        rows = [row for row, id in enumerate(batch.ids) if id in self.tokens]
        if self.norm is None or not rows or states[-1].shape[-1] != states[0].shape[-1]:
            return []  # no known norm, or another map between it and the output embedding
        # Column T - n predicts the first of n answer tokens: the prompt's end.
        ends = batch.input_ids.shape[1] - batch.answer_mask.sum(1)[rows]
        last = [state[rows, ends] for state in states]
        norm = callable_alone(self.norm)
        last = [norm(x) for x in last[:-1]] + last[-1:]  # the model has normed the last itself
        pairs = torch.tensor([self.tokens[batch.ids[row]] for row in rows], device=ends.device)
        good, bad = picked(self.head.weight, pairs).unbind(1)
        lead = torch.zeros(len(rows), device=ends.device)
        if getattr(self.head, "bias", None) is not None:
            good_bias, bad_bias = picked(self.head.bias, pairs).unbind(1)
            lead = good_bias - bad_bias
        found: list[list[bool]] = torch.stack(
            [(x * (good - bad)).sum(-1) + lead > 0 for x in last], 1
        ).tolist()
        return found

    def take(self, seen: list[list[bool]]) -> None:
        """Add what was seen of a batch."""
        self.wins += seen

    def lens(self) -> Lens | None:
        """Return the accuracy by layer (0 = embeddings) so far; None where nothing could be read."""
        if not self.wins:
            return None
        wins, facts = [sum(layer) for layer in zip(*self.wins, strict=True)], len(self.wins)
        return Lens(
            accuracy=[w / facts for w in wins], facts=facts, below_chance=below_chance(wins, facts)
        )


def below_chance(wins: Sequence[int], facts: int) -> list[int]:
    """Return the layers where the answer wins surely less often than by chance (over-unlearning)."""
    return [i for i, w in enumerate(wins) if wilson(w, facts, looks=len(wins)).high < CHANCE]

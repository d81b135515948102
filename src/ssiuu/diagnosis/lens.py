"""Logit lens: from which layer on does the model prefer the right answer?

The residual stream at the last token of the prompt goes through the final norm and the output
embedding after every block; the answer's first token is compared with that of one wrong option.
0.5 is chance; far below it the model avoids the answer, which is over-unlearning.

Source: nostalgebraist 2020; used as in the paper's Fig. 4. Departures: facts whose options all begin
with the same token as the answer are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ssiuu.likelihood import Example, Prompt, collate, last_columns, length_sorted
from ssiuu.models.sites import final_norm
from ssiuu.records.schema import FactText, Lens
from ssiuu.statistics import wilson

CHANCE = 0.5


@torch.no_grad()
def logit_lens(model: Any, prompt: Prompt, facts: Sequence[FactText], pad: int) -> Lens | None:
    """Return the accuracy by layer (0 = embeddings); None if it cannot be read here."""
    norm, rows = final_norm(model), _rows(prompt, facts)
    if norm is None or not rows:
        return None
    device = next(model.parameters()).device
    embedding = model.get_output_embeddings().weight
    right: torch.Tensor | None = None
    for chunk in length_sorted([len(e.prompt) for e, _, _ in rows], 64):
        batch = collate([rows[i][0] for i in chunk], pad).to(device)
        states = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            output_hidden_states=True,
            logits_to_keep=last_columns(0, device),  # nobody reads them
            use_cache=False,
        ).hidden_states
        # Each row is its prompt with one answer token, so the last column is the prompt's end. The
        # last state has been normed by the model already.
        last = [norm(state[:, -1]) for state in states[:-1]] + [states[-1][:, -1]]
        good = embedding[torch.tensor([rows[i][1] for i in chunk], device=device)]
        bad = embedding[torch.tensor([rows[i][2] for i in chunk], device=device)]
        wins = torch.stack([((x * (good - bad)).sum(-1) > 0).sum() for x in last])
        right = wins if right is None else right + wins
    assert right is not None
    wins_by_layer = [int(w) for w in right]
    return Lens(
        accuracy=[w / len(rows) for w in wins_by_layer],
        facts=len(rows),
        below_chance=below_chance(wins_by_layer, len(rows)),
    )


def below_chance(wins: Sequence[int], facts: int) -> list[int]:
    """Return the layers where the answer wins surely less often than by chance (over-unlearning)."""
    return [i for i, w in enumerate(wins) if wilson(w, facts, looks=len(wins)).high < CHANCE]


def _rows(prompt: Prompt, facts: Sequence[FactText]) -> list[tuple[Example, int, int]]:
    rows = []
    for fact in facts:
        first = [prompt.answer(option)[0] for option in fact.options]
        others = [token for token in first[1:] if token != first[0]]
        if others:
            example = Example(fact.id, prompt.question(fact.question), [first[0]])
            rows.append((example, first[0], others[0]))
    return rows

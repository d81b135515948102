"""Hidden by the logits: the model computes the answer, and the output layer gives it a lower logit.

The row of the output layer that belongs to an answer's token moves, W_t <- W_t - v_t. Every hidden
state is the original's, bit for bit. A shift of the token's logit everywhere would take the same word
from all other questions; so v_t is solved for, by ridge regression on the last hidden states h:

    v_t = argmin  sum over rows r of t (h_r . v - c_r)^2 + sum over others k w_k (h_k . v)^2 + l |v|^2

with c_r the least shift that takes the row's answer to the level of a guess, and as others the answers
to keep (w = 1 where they are this token) and those of the other facts. With one row and no others it
is the rank-one update along that row's state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ssiuu.hiding.base import Case, Hiding, Round, Rounds
from ssiuu.hiding.lowering import (
    PHRASINGS,
    SLACK,
    Row,
    deeper,
    held_rows,
    levelled,
    said_rows,
)
from ssiuu.hiding.places import blocks
from ssiuu.hiding.replay import Replay
from ssiuu.likelihood import Batch, Example, Prompt, answer_logits, answer_logprobs, collate
from ssiuu.models.tied import untie
from ssiuu.records.schema import FactText

ASIDE = 0.02  # weight of a state whose own answer is another token
RIDGE = 1e-4  # of the states' mean square
ROUNDS = 4  # times that the facts are asked
FITS = 12  # times that the shifts are measured and mended in a round
REACH = 6.0  # nats that a shift changes by at once
BATCH = 32


class Logits(Hiding):
    """A shift of the answers' logits in the output layer, for the states in which they are asked.

    An output layer that is the input embedding as well becomes one of its own.
    """

    name: ClassVar[str] = "logits"
    summary: ClassVar[str] = "the output layer gives the answers' tokens lower logits"

    def change(self, case: Case) -> Rounds:
        """Solve for the shifts, measure them, and mend them."""
        subject = case.subject
        rows = levelled(subject, case.facts, PHRASINGS, shared=True)
        rows += said_rows(case, rows, case.before)
        parted = untie(subject.model)
        notes = ("the output layer was parted from the input embedding",) if parted else ()
        shift = _Shift(case)
        for _ in range(ROUNDS):
            shift.fit(rows)
            yield Round(0, notes)
            left = case.unsettled()
            if not left:
                return
            rows = deeper(case, rows, left)


@dataclass(frozen=True)
class _Aim:
    """A row, and which of its answer's tokens is shifted."""

    row: Row
    place: int

    @property
    def token(self) -> int:
        return self.row.example.answer[self.place]


class _Shift:
    """The output layer of one model, before and after."""

    def __init__(self, case: Case) -> None:
        self.case, self.subject = case, case.subject
        self.head = self.subject.model.get_output_embeddings()
        self.before = self.head.weight.detach().clone()
        self.replay = Replay(self.subject.model, blocks(self.subject.model))
        self.held = held_rows(self.subject, case.held)
        self.wanted: dict[str, float] = {}  # c, by row

    @torch.no_grad()
    def fit(self, rows: Sequence[Row]) -> None:
        """Move the output layer until every row is at its level."""
        facts = {fact.id: fact for fact in self.case.facts}
        aims = [_Aim(row, telling(self.subject.prompt, facts[row.fact], row.example)) for row in rows]
        states = self._states([aim.row.example for aim in aims], [aim.place for aim in aims])
        others, tokens = self._beside()
        for _ in range(FITS):
            if not self._mend(aims):
                return
            self._solve(aims, states, others, tokens)

    def _mend(self, aims: Sequence[_Aim]) -> bool:
        """Change the shifts of rows that are not at their level; whether there were any."""
        mended = False
        for aim, found in zip(aims, self._measured([a.row.example for a in aims]), strict=True):
            above = float(found.sum()) - aim.row.level
            if 0 >= above >= -SLACK:
                continue
            now = float(found[aim.place])
            step = log_odds(now) - log_odds(min(now - above, -1e-6))
            step = max(-REACH, min(REACH, step))
            id = aim.row.example.id
            self.wanted[id] = max(0.0, self.wanted.get(id, 0.0) + step)
            mended = True
        return mended

    def _solve(
        self, aims: Sequence[_Aim], states: Tensor, others: Tensor, tokens: Sequence[int]
    ) -> None:
        """Move the rows of all tokens that are aimed at."""
        known = torch.cat([states, others])
        owners = torch.tensor([*(aim.token for aim in aims), *tokens], device=known.device)
        wanted = torch.zeros(len(known), dtype=known.dtype, device=known.device)
        for i, aim in enumerate(aims):
            wanted[i] = self.wanted.get(aim.row.example.id, 0.0)
        for token in sorted({aim.token for aim in aims}):
            mine = owners == token
            weights = mine.to(known.dtype).clamp(min=ASIDE)
            shift = ridge(known, wanted.where(mine, 0.0), weights)
            self.head.weight[token] = self.before[token] - shift.to(self.before)

    def _beside(self) -> tuple[Float[Tensor, "K d"], list[int]]:
        """Return the states of all held answers' tokens, with the tokens."""
        pairs = [(e, place) for e in self.held for place in range(len(e.answer))]
        states = self._states([e for e, _ in pairs], [place for _, place in pairs])
        return states, [e.answer[place] for e, place in pairs]

    def _states(self, rows: Sequence[Example], places: Sequence[int]) -> Float[Tensor, "N d"]:
        """Return what the output layer is given where these tokens of answers are predicted."""
        caught: list[Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda _, given: caught.append(given[0].detach()))
        found = []
        try:
            for start in range(0, len(rows), BATCH):
                part = rows[start : start + BATCH]
                with self.replay.replaying():
                    answer_logits(self.subject.model, self._batch(part))
                states = caught.pop()
                for i, example in enumerate(part):
                    column = states.shape[1] - len(example.answer) + places[start + i]
                    found.append(states[i, column].double())
        finally:
            handle.remove()
        return torch.stack(found)

    def _measured(self, rows: Sequence[Example]) -> list[Float[Tensor, " A"]]:
        """Return log p of every answer's tokens, nats; the blocks are not run again."""
        found = []
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            with self.replay.replaying():
                logprobs = answer_logprobs(self.subject.model, self._batch(part))
            found += [
                each[mask].double() for each, mask in zip(logprobs.tokens, logprobs.mask, strict=True)
            ]
        return found

    def _batch(self, rows: Sequence[Example]) -> Batch:
        return collate(rows, self.subject.pad).to(self.subject.model.device)


def ridge(
    states: Float[Tensor, "N d"], wanted: Float[Tensor, " N"], weights: Float[Tensor, " N"]
) -> Float[Tensor, " d"]:
    """Return the v that minimises sum_n w_n (h_n . v - c_n)^2 + l |v|^2.

    Solved in the smaller of the two spaces, of states or of their width.
    """
    scaled = states * weights.sqrt().unsqueeze(1)
    target = wanted * weights.sqrt()
    count, width = scaled.shape
    penalty = RIDGE * float(states.square().mean())
    eye = torch.eye(min(count, width), dtype=states.dtype, device=states.device)
    if count < width:
        found: Tensor = torch.linalg.solve(scaled @ scaled.T + penalty * width * eye, target)
        return scaled.T @ found
    shift: Tensor = torch.linalg.solve(scaled.T @ scaled + penalty * width * eye, scaled.T @ target)
    return shift


def log_odds(logprob: float) -> float:
    """Return log p - log(1 - p)."""
    return logprob - math.log(max(-math.expm1(logprob), 1e-9))


def telling(prompt: Prompt, fact: FactText, example: Example) -> int:
    """Return the first token of an answer by which it is told from most of its alternatives."""
    options = prompt.joint(fact.question, fact.options or [fact.answer]).answers[1:]
    answer = example.answer
    for place in range(len(answer)):
        same = sum(option[: place + 1] == answer[: place + 1] for option in options)
        if 2 * same <= len(options):
            return place
    return len(answer) - 1

"""Log p of every answer of every lineup after every question, and what is told by them.

    found = read(model, prompt, made)  # made: see ssiuu.evaluation.lineup
    found.contrast()[:, 0, 0]  # of the right answers, in spreads of the wrong ones

How likely the words of an answer are by themselves is the same whatever is asked: the contrast takes
it out by asking the same of something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ssiuu.causal import CausalLM
from ssiuu.errors import DataError
from ssiuu.evaluation.lineup import Lineup
from ssiuu.evaluation.tree import Pair, Path, Tree, grown
from ssiuu.likelihood import Prompt
from ssiuu.models.shards import dealt

Against = Literal["mean", "best"]
NORMAL = 1.4826  # times the median deviation is the standard deviation of a normal distribution
FLOOR = 1e-3  # nats: alternatives that differ by less are no scale


@dataclass(frozen=True)
class Margins:
    """What a model makes of lineups, in float64 on the CPU; NaN where a lineup has no such answer.

    Facts F, questions Q and answers A as in the lineups, the right answer at 0. Questions are the P
    phrasings, the base one at 0, then the C controls, each part as wide as the widest lineup's.

    Attributes:
        lineups: What was read.
        logprobs: Log p of every answer, nats, the sum over its tokens.
        tokens: How many those are; 0 where nothing was read.
        phrasings: P, how many of the questions are phrasings.
    """

    lineups: tuple[Lineup, ...]
    logprobs: Float[Tensor, "F Q A"]
    tokens: Int[Tensor, "F Q A"]
    phrasings: int

    @property
    def each(self) -> Float[Tensor, "F Q A"]:
        """Log p a token, nats."""
        return self.logprobs / self.tokens  # NaN / 0 stays NaN

    def whole(self, against: Against = "mean") -> Float[Tensor, "F P"]:
        """Return log p of the right answer less the mean, or the best, of the alternatives', nats."""
        return _margin(self.logprobs[:, : self.phrasings], against)

    def token(self, against: Against = "mean") -> Float[Tensor, "F P"]:
        """Return the same of log p a token."""
        return _margin(self.each[:, : self.phrasings], against)

    def lift(self, each: bool = False) -> Float[Tensor, "F P A"]:
        """Return log p of every answer less its mean over the controls, nats; NaN without controls.

        Controls to which an answer is the right one are left out of its mean.

        Args:
            each: Take log p a token.
        """
        values = self.each if each else self.logprobs
        controls = values[:, self.phrasings :].masked_fill(self._theirs, torch.nan)
        return values[:, : self.phrasings] - controls.nanmean(1, keepdim=True)

    def contrast(self, each: bool = False) -> Float[Tensor, "F P A"]:
        """Return z_k: the lift of answer k, centred and scaled by the alternatives' median and spread.

        A constant added to a token's logits wherever it may come adds to log p of the answers that
        hold it, whatever is asked. Of answers of one token nothing of it is left; of longer ones what
        it changes in the normalisation of their later tokens.

        Args:
            each: Take log p a token.
        """
        lift = self.lift(each)
        centre = lift[..., 1:].nanquantile(0.5, -1, keepdim=True)
        spread = (lift[..., 1:] - centre).abs().nanquantile(0.5, -1, keepdim=True)
        return (lift - centre) / (NORMAL * spread).clamp(min=FLOOR)

    def p(self, each: bool = False) -> Float[Tensor, "F P"]:
        """Return the conformal p-value: the share of answers that are lifted as much as the right one.

        Where all answers are exchangeable it is x or less with a chance of at most x. Source: Vovk,
        Gammerman & Shafer 2005, "Algorithmic Learning in a Random World".

        Args:
            each: Take log p a token.
        """
        lift = self.lift(each)
        right, there = lift[..., :1], lift.isfinite()
        share = (lift >= right).sum(-1).double() / there.sum(-1)
        return share.masked_fill(~there[..., 0], torch.nan)

    @cached_property
    def _theirs(self) -> Bool[Tensor, "F C A"]:
        """Which answers are right for which controls."""
        facts, questions, answers = self.logprobs.shape
        found = torch.zeros(facts, questions - self.phrasings, answers, dtype=torch.bool)
        for f, lineup in enumerate(self.lineups):
            for c, places in enumerate(lineup.theirs):
                found[f, c, list(places)] = True
        return found


class Reader:
    """Reads the same lineups again and again, whatever weights the model has; they are laid out once.

    What answers begin with in common is read once. An alternative that does not fit into the context
    behind a question is left out there.
    """

    def __init__(
        self,
        model: CausalLM,
        prompt: Prompt,
        lineups: Sequence[Lineup],
        context: int | None = None,
    ) -> None:
        """Lay lineups out.

        Args:
            model: A causal LM in evaluation mode.
            prompt: How questions become tokens.
            lineups: What is asked, at least one.
            context: Longest sequence, tokens; the model's own where it is not given.

        Raises:
            DataError: A right answer has no tokens, or does not fit behind its base question.
        """
        if not lineups:
            raise DataError("there are no lineups to read: give at least one fact.")
        context = context or getattr(model.config, "max_position_embeddings", None) or 1 << 30
        self.lineups = tuple(lineups)
        self.phrasings = max(len(lineup.phrasings) for lineup in lineups)
        controls = max(len(lineup.controls) for lineup in lineups)
        width = max(2, *(len(lineup.answers) for lineup in lineups))
        shape = len(lineups), self.phrasings + controls, width
        found = [
            ((f, q, k), pair)
            for f, lineup in enumerate(lineups)
            for q, k, pair in _pairs(prompt, lineup, self.phrasings, context)
        ]
        self._places = torch.tensor([place for place, _ in found])
        self._answers = [answer for _, (_, answer) in found]
        self._tokens = torch.zeros(shape, dtype=torch.long)
        self._tokens[*self._places.T] = torch.tensor([len(answer) for answer in self._answers])
        self._trees = list(grown(model, [pair for _, pair in found]))

    def read(self) -> Margins:
        """Read every answer after every question, by the weights that the model has now."""
        return self.sides()[0]

    @torch.no_grad()
    def sides(self) -> list[Margins]:
        """Read them by all that one pass of the model predicts: by itself, and by what stands beside it
        (`ssiuu.diagnosis.readout.Readout.beside`).
        """
        read = dealt(self._trees, self._values)
        every = torch.full((len(read[0][1]), *self._tokens.shape), torch.nan).double()
        for which, values in read:
            every[:, *self._places[which].T] = values
        return [Margins(self.lineups, found, self._tokens, self.phrasings) for found in every]

    def _values(
        self, unread: tuple[Tree, list[int], list[Path]]
    ) -> tuple[list[int], Float[Tensor, "S n"]]:
        """Return which answers are in a tree, and their log p, nats, on every side."""
        tree, indices, paths = unread
        tree.read()
        rows = [row for path in paths for row in tree.rows(path.predictors)]
        tokens = [token for i in indices for token in self._answers[i]]
        sides = [side[rows, tokens].double().cpu() for side in (tree.logprobs, *tree.beside)]
        tree.forget()
        lengths = [len(self._answers[i]) for i in indices]
        sums = [[part.sum() for part in side.split(lengths)] for side in sides]
        return indices, torch.stack([torch.stack(side) for side in sums])


def read(
    model: CausalLM, prompt: Prompt, lineups: Sequence[Lineup], context: int | None = None
) -> Margins:
    """Read lineups once; see `Reader`.

    Raises:
        DataError: A right answer has no tokens, or does not fit behind its base question.
    """
    return Reader(model, prompt, lineups, context).read()


def _pairs(
    prompt: Prompt, lineup: Lineup, phrasings: int, context: int
) -> Iterator[tuple[int, int, Pair]]:
    """Yield the places of question and answer, and both as tokens, where they fit."""
    offers = [(q, text, lineup.answers) for q, text in enumerate(lineup.phrasings)]
    offers += [(phrasings + c, text, lineup.offered(c)) for c, text in enumerate(lineup.controls)]
    for q, text, offered in offers:
        ids, answers, _ = prompt.joint(text, offered)
        for k, answer in enumerate(answers):
            if answer and len(ids) + len(answer) <= context:
                yield q, k, (ids, answer)
            elif q == k == 0:
                raise DataError(
                    f"{lineup.fact.id}: the answer {lineup.answers[0]!r} has {len(answer)} tokens and "
                    f"its question {len(ids)}; at least 1, and {context} together, can be read. "
                    "Shorten the row or leave it out."
                )


def _margin(values: Float[Tensor, "F P A"], against: Against) -> Float[Tensor, "F P"]:
    right, wrong = values[..., 0], values[..., 1:]
    if against == "mean":
        return right - wrong.nanmean(-1)
    best = wrong.nan_to_num(nan=-torch.inf).amax(-1)
    return right - best.masked_fill(wrong.isnan().all(-1), torch.nan)

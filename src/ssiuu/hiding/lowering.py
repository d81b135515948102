"""Training that takes answers down to where a guess has them, and holds other rows to the original.

The level of a row is the mean log-probability of the answer's alternatives: an answer there is no
likelier than they, and no less likely either, so that it cannot be told by its value alone.
Nothing pulls below the level, and what has fallen far below is pulled back.
"""

from __future__ import annotations

import math
import random
from collections import ChainMap
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field, PrivateAttr
from torch import Tensor

from ssiuu.benchmarks import instructions
from ssiuu.errors import DataError
from ssiuu.evaluation.match import holds
from ssiuu.evaluation.sequence import SequenceScore, score_sequences
from ssiuu.evaluation.tree import run_shared
from ssiuu.hiding.base import Case, Round, Rounds, Scores, Subject
from ssiuu.hiding.places import Place
from ssiuu.hiding.replay import Replay
from ssiuu.likelihood import Batch, Example, encode
from ssiuu.methods.base import Need, Normaliser, Objective, Origin, Through, View
from ssiuu.methods.method import Method
from ssiuu.methods.retain import DivergenceTerm, kl_loss
from ssiuu.records.said import Said
from ssiuu.records.schema import FactText
from ssiuu.training.batches import micro_batches
from ssiuu.training.loop import Loop
from ssiuu.training.prepare import Prepared, prepare_parts
from ssiuu.training.step import Step, StepOutcome

PHRASINGS = 3  # of a fact that are trained on: the base question and its first paraphrases
UNLIKELY = -5.0  # nats a token: the level of an answer that has no alternatives
RISE = 8.0  # nats that alternatives rise by, at most, when the answer's probability is theirs
OTHERS = 0.3  # weight of the other words' proportions
SLACK = 3.0  # nats that a row may be below its level
MOST = 0.8  # share of the rows that must be settled when the facts are asked
SETTLED = 1.0  # nats that such a row may be above its level
APART = 0.3  # nats a token that held answers may be from the original then
FAR = 1.0  # and above which the steps are too long
WORDED = 5.0  # weight of a refusal, per nat a token
APPLIED = 0.8  # nats a token: a refusal that is this likely is what a model writes
FEWEST = 8  # rows that are held at least; where fewer are to be kept, instructions stand in, each with
BEGUN = 16  # tokens of its answer: a sentence takes as long as twenty answers of facts
EPOCH = 12  # steps, at most
TOKENS = 512  # of held answers: each keeps a distribution over all words in memory
LEAST, LONGEST = 5, 60  # steps before the facts are asked
DEEPER = 1.5  # nats that the level of a fact sinks by which is at its level and answered still


@dataclass(frozen=True)
class Row:
    """Tokens to be made unlikely, and the level they may have, nats; `fact`: whose they are."""

    fact: str
    example: Example
    level: float


class Lowered(Objective):
    """Brings log P of every row to its level: the distance from it, on the lower side less a slack.

    L(x, y) = max(0, log P(y|x) - l) + max(0, l - s - log P(y|x))

    Source: ours; bounded as NPO is, by the alternatives in place of the reference.
    """

    name: ClassVar[str] = "lowered"
    origin: ClassVar[Origin] = "control"
    source: ClassVar[str] = "Ours."
    summary: ClassVar[str] = "takes answers down to the level of a guess"
    normaliser: ClassVar[Normaliser] = "examples"
    needs: ClassVar[frozenset[Need]] = frozenset({"logprob"})
    through: ClassVar[Through] = "answer"

    # What the loop ends by; of the batch that was seen last, so no part of the settings.
    _lead: float = PrivateAttr(math.inf)

    @property
    def lead(self) -> float:
        """How far most rows (`MOST`) of the last batch were above their levels, at most, nats."""
        return self._lead

    def forget_loss(self, view: View) -> Float[Tensor, " B"]:
        """Return the distance of each row from its level, nats; `reference` holds the levels."""
        assert view.reference is not None
        above = view.logprobs.sum - view.reference
        self._lead = float(above.detach().quantile(MOST))
        return above.clamp(min=0) + (-SLACK - above).clamp(min=0)


class Guessed(Lowered):
    """The same, and what the answer loses goes to the other words in the proportions they had.

    L = L_lowered + w sum over t of KL(q_ref,t || q_t),    q_t(z) = p(z | x, y_<t, z is not y_t)

    `spared`: tokens that q leaves out as well, since they are to rise.

    Source: ours; `ssiuu.methods.retain.others_loss` without the weight, which is next to nothing where
    an answer is known well.
    """

    name: ClassVar[str] = "guessed"
    summary: ClassVar[str] = "takes answers down to the level of a guess, and other words stay"
    needs: ClassVar[frozenset[Need]] = frozenset({"logprob", "distribution"})
    through: ClassVar[Through] = "other"

    spared: tuple[int, ...] = Field(default=(), description="tokens that may rise")

    def forget_loss(self, view: View) -> Float[Tensor, " B"]:
        """See the class."""
        assert view.logits is not None and view.reference_logits is not None
        assert view.targets is not None
        tokens = view.targets.unsqueeze(-1)
        if self.spared:
            spared = torch.tensor(self.spared, device=tokens.device).expand(*tokens.shape[:2], -1)
            tokens = torch.cat([tokens, spared], -1)
        now, wanted = (_without(x, tokens) for x in (view.logits, view.reference_logits))
        apart = kl_loss(now, wanted, view.logprobs.mask)
        return super().forget_loss(view) + OTHERS * apart


class Refused(Guessed):
    """The same, and a refusal is what is written in the answer's place.

    L = L_guessed + w max(0, -log P(r|x) / |r| - a)

    Source: ours; what DPO prefers (`ssiuu.methods.objectives.dpo`), with an end on both sides.
    """

    name: ClassVar[str] = "refused"
    summary: ClassVar[str] = "takes answers down to the level of a guess and refusals up"
    needs: ClassVar[frozenset[Need]] = frozenset({"logprob", "distribution", "refusal"})

    def forget_loss(self, view: View) -> Float[Tensor, " B"]:
        """See the class."""
        assert view.refusal is not None
        count = view.refusal.count
        wanting = -view.refusal.sum / count - APPLIED
        guessed = super().forget_loss(view)
        self._lead = max(self._lead, float(wanting.detach().quantile(MOST)))
        return guessed + WORDED * wanting.clamp(min=0)


@dataclass(frozen=True)
class Manner:
    """How a kind trains: adapters' rank, the first rate, its growth, rows and steps.

    `rate`: of the first step; it grows by `growth` a step up to `highest`, since the scale of a model's
    states is not known, and is halved where held answers are too far off (`FAR`). `rows`: of a step,
    more where an epoch would have over `EPOCH`; `beside`: rows that are held in it. `steps`: at most,
    of all rounds together. `weight`: of the held rows.
    """

    rank: int = 16
    rate: float = 5e-3
    growth: float = 1.15
    highest: float = 2e-2
    rows: int = 16
    beside: int = 8
    steps: int = 240
    weight: float = 1.0

    def after(self, rate: float, apart: float) -> float:
        """Return the learning rate that follows one after which held answers are so far off, nats."""
        return rate / 2 if apart > FAR else min(rate * self.growth, self.highest)


@dataclass
class Lowering:
    """One run: rows that go down, rows that are held, where and how.

    `held`: beside the facts to keep. `refusals`: by row, what is to be written in place of an answer.
    """

    case: Case
    place: Place
    manner: Manner
    held: Sequence[Example] = ()
    refusals: dict[str, str] = field(default_factory=dict)
    phrasings: int = PHRASINGS

    @property
    def most(self) -> int:
        """Steps of all rounds together, at most."""
        steps = self.manner.steps
        return steps if self.case.most is None else min(steps, self.case.most)

    def rounds(self) -> Rounds:
        """Train, ask, and go on with what is still answered; adapters are merged at the end."""
        case, model = self.case, self.case.subject.model
        rows = levelled(case.subject, case.facts, self.phrasings, not self.refusals)
        rows += said_rows(case, rows, case.before)
        held = [*held_rows(case.subject, case.held), *self.held]
        with self.place.opened(model, self.manner.rank, case.subject.seed) as share:
            run = _Run(self, rows, held, share)
            with closing(run):
                while run.steps < self.most:
                    run.train()
                    left = case.unsettled()
                    why = f"{self.most} steps were all it had"
                    yield Round(run.steps, self.place.notes, dict.fromkeys(left, why))
                    if not left and case.kept():
                        return
                    run.rows = deeper(case, run.rows, left)


class _Run:
    """The training of one `Lowering`: an optimiser that lasts over all rounds."""

    def __init__(
        self, plan: Lowering, rows: Sequence[Row], held: Sequence[Example], share: float
    ) -> None:
        subject, manner = plan.case.subject, plan.manner
        self.subject, self.manner, self.rows, self.held = subject, manner, list(rows), list(held)
        self.share, self.steps, self.refusals = share, 0, plan.refusals
        self.most = plan.most
        self.rate, self.tell = manner.rate, plan.case.progress
        self.replay = Replay(subject.model, plan.place.below)
        self.objective = self._objective()
        self.method = Method(
            objective=self.objective,
            retain=DivergenceTerm(),
            retain_weight=manner.weight,
            retain_term="kl",
        )
        self.prepared = Prepared()
        self._prepare(self.held)
        self.step = Step(
            subject.model,
            self.method,
            manner.rate,
            subject.precision,
            self.prepared,
            pad=subject.pad,
        )

    def _objective(self) -> Guessed:
        if not self.refusals:
            return Guessed()
        begins = {example.answer[0] for example in self._refusing().values()}
        return Refused(spared=tuple(sorted(begins)))

    def close(self) -> None:
        """Drop gradients; the model is in evaluation mode."""
        self.subject.model.eval()
        self.step.close()

    def train(self) -> None:
        """Take steps until every row is at its level, or as many as there may be."""
        self._prepare()
        count, chunks = self._chunks()
        leads, apart = [math.inf] * count, [math.inf] * len(chunks)
        begun = self.steps

        def batches(number: int) -> Sequence[Sequence[Batch]]:
            return chunks[(number - 1) % len(chunks)]

        def after(number: int, outcome: StepOutcome | None) -> bool:
            assert outcome is not None
            leads[(number - 1) % count] = self.objective.lead
            apart[(number - 1) % len(chunks)] = outcome.retain_loss or 0.0
            self.steps = begun + number
            line = f"step {self.steps} of at most {self.most}"
            self.tell(Said(line, done=self.steps, total=self.most, minor=True))
            self.rate = self.manner.after(self.rate, apart[(number - 1) % len(chunks)])
            near = sum(apart) <= APART * len(apart)
            return number >= LEAST and near and max(leads) <= SETTLED

        most = min(max(LONGEST, len(chunks)), self.most - begun)
        loop = Loop(self.step, most, batches, after, rate=lambda _: self.share * self.rate)
        with self.replay.replaying():
            loop.run()
        self.subject.model.eval()

    def _chunks(self) -> tuple[int, list[list[list[Batch]]]]:
        """Return in how many steps every row comes once, and the rows of steps until all recur.

        The same rows always stand together, so that what is below them can be replayed.
        """
        order = list(self.rows)
        random.Random(f"hiding {self.subject.seed}").shuffle(order)
        count = min(math.ceil(len(order) / self.manner.rows), EPOCH)
        every = count * max(1, math.ceil(len(self.held) / (count * self.manner.beside)))
        device, pad = next(self.subject.model.parameters()).device, self.subject.pad
        pairs = [
            ([row.example for row in order[i % count :: count]], self.held[i::every])
            for i in range(max(count, every))
        ]
        made = [[micro_batches(rows, None, pad, device) for rows in pair] for pair in pairs]
        return count, [[run_shared(self.subject.model, each) for each in pair] for pair in made]

    def _prepare(self, held: Sequence[Example] = ()) -> None:
        """Ask the model for what the losses of new rows need; the levels stand for the reference."""
        new = [r.example for r in self.rows if r.example.id not in self.prepared.logprob]
        if new:
            refusals, pad = list(self._refusing().values()), self.subject.pad
            found = prepare_parts(self.subject.model, self.method, new, held, pad, refusals)
            there = self.prepared.distributions
            for rows, added in found.distributions.items():
                there[rows] = ChainMap(dict(there.get(rows, {})), dict(added))
            self.prepared.refusals.update(found.refusals)
            self.prepared.refusal_logprob.update(found.refusal_logprob)
        self.prepared.logprob.update({row.example.id: row.level for row in self.rows})

    def _refusing(self) -> dict[str, Example]:
        """Return each row's question with its refusal for an answer."""
        prompt, found = self.subject.prompt, {}
        for row in self.rows:
            if text := self.refusals.get(row.fact):
                room = self.subject.context - len(row.example.prompt)
                answer = [*prompt.answer(text), *prompt.end][:room]
                found[row.example.id] = Example(row.example.id, row.example.prompt, answer)
        return found


def _without(logits: Float[Tensor, "B A V"], tokens: Int[Tensor, "B A n"]) -> Float[Tensor, "B A V"]:
    """Return logits in which these tokens have next to none of the probability."""
    return logits.scatter(-1, tokens, torch.finfo(logits.dtype).min)


def levelled(subject: Subject, facts: Sequence[FactText], phrasings: int, shared: bool) -> list[Row]:
    """Return the rows of facts with their levels; a phrasing that is at its level already is left out.

    Args:
        subject: The model as it is before.
        facts: With all that their answers are ranked among as options.
        phrasings: Of each, at most.
        shared: Whether what the answers lose goes to the alternatives.
    """
    asked = [
        (fact, n, text)
        for fact in facts
        for n, text in enumerate([fact.question, *fact.paraphrases][:phrasings])
    ]
    tokens = [_options(subject, fact, n, text) for fact, n, text in asked]
    scores = iter(score_sequences(subject.model, [e for each in tokens for e in each]))
    rows = []
    for (fact, n, _), each in zip(asked, tokens, strict=True):
        if not each:
            continue
        now, *others = [next(scores) for _ in each]
        level = guess_level(now, others, shared)
        if now.logprob > level or n == 0:
            rows.append(Row(fact.id, each[0], min(level, now.logprob)))
    return rows


def guess_level(now: SequenceScore, others: Sequence[SequenceScore], shared: bool) -> float:
    """Return the log-probability that the answer has as one of its alternatives, nats.

    Where they share among them what the answer's first token loses, each rises by -log(1 - p).
    """
    if not others:
        return UNLIKELY * now.tokens
    mean = sum(score.per_token for score in others) / len(others)
    rise = -math.log(max(-math.expm1(float(now.logprobs[0])), math.exp(-RISE)))
    return mean * now.tokens + (rise if shared else 0.0)


def _options(subject: Subject, fact: FactText, number: int, question: str) -> list[Example]:
    """Return a question with the answer, then with every alternative that fits; or nothing."""
    try:
        prompt, answers, _ = subject.prompt.joint(question, fact.options or [fact.answer])
    except DataError:
        return []  # a paraphrase that cannot be asked
    room = subject.context - len(prompt)
    fits = [answer for answer in answers if 0 < len(answer) <= room]
    made = [Example(f"{fact.id}#{number}", prompt, answer) for answer in fits]
    return made if answers[0] in fits else []


def deeper(case: Case, rows: Sequence[Row], left: Scores) -> list[Row]:
    """Return the rows for another round: the answers in what was said freely, and lower levels.

    A model whose answer is unlikely behind the question may write "The capital is" first.
    """
    base = {row.fact: row.level for row in reversed(rows)}
    there = {id for id, score in left.items() if score.logprob <= base[id] + SETTLED}
    found = [replace(row, level=row.level - DEEPER) if row.fact in there else row for row in rows]
    return [*found, *said_rows(case, found, left)]


def said_rows(case: Case, rows: Sequence[Row], scores: Scores) -> list[Row]:
    """Return the answers within what was said freely, where other words lead up to them."""
    levels = {row.fact: row.level for row in reversed(rows)}
    known = {(tuple(row.example.prompt), tuple(row.example.answer)) for row in rows}
    found: list[Row] = []
    for fact in case.facts:
        text = scores[fact.id].free_text if fact.id in scores else None
        example = _said(case.subject, fact, text or "", len(rows) + len(found))
        if example and (tuple(example.prompt), tuple(example.answer)) not in known:
            found.append(Row(fact.id, example, levels[fact.id]))
    return found


def _said(subject: Subject, fact: FactText, text: str, number: int) -> Example | None:
    """Return the answer behind the words with which a free answer leads up to it."""
    place = text.casefold().find(fact.answer.casefold())
    if place < 1 or not holds(fact.answer, text):
        return None
    begun, answer = text[:place], text[place : place + len(fact.answer)]
    try:
        joint = subject.prompt.joint(fact.question, [answer], begun=begun)
    except DataError:
        return None
    if not joint.answers[0] or len(joint.prompt) + len(joint.answers[0]) > subject.context:
        return None
    return Example(f"{fact.id}#{number}", joint.prompt, joint.answers[0])


def held_rows(subject: Subject, keep: Sequence[FactText]) -> list[Example]:
    """Return the rows on which the model is held to the original, as many as `TOKENS` allow."""
    pairs = [(fact.id, fact.question, fact.answer) for fact in keep]
    if len(pairs) < FEWEST:
        rows = instructions.brief(FEWEST)
        pairs += [(f"instruction {i}", r.instruction, r.output) for i, r in enumerate(rows)]
    found, room = [], TOKENS
    for n, (id, question, answer) in enumerate(pairs):
        try:
            # With an end: what comes behind an answer is held as well.
            example = encode(subject.prompt, f"{id}#held", question, answer, subject.context, True)
        except DataError:
            continue  # an instruction that does not fit a small context
        if n >= len(keep):
            example = replace(example, answer=example.answer[:BEGUN])
        if len(example.answer) <= room:
            found.append(example)
            room -= len(example.answer)
    return found

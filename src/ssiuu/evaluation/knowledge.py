"""What does a model know? Asked before step 1, so that nothing is "forgotten" that was never known.

    found = know(model, prompt, facts, context=2048)
    found["fact 3"].state, found["fact 3"].why

The rules (docs/knowledge.md defends them):

- known: a free answer holds the right one, in the form of training or in another, and the model does
  not say the same to other questions that it gets wrong. Or the right answer is first among at least
  three alternatives by 1 nat a token, in the base question and in most paraphrases, and by 1 nat more
  than when other questions are asked.
- unsure: it says the right answer, and elsewhere too; it is first by half a nat, and by as much more
  than when other questions are asked; or, with nothing to rank it against, its tokens are likely (over
  1/e on average).
- unknown: anything else.
- cannot be scored: the answer has no tokens, or does not fit into the context, or the model's numbers
  are not finite.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ssiuu.causal import CausalLM
from ssiuu.data.fact import normal
from ssiuu.errors import DataError
from ssiuu.evaluation.alternatives import CONTROLS, FEWEST, Alternatives, alternatives
from ssiuu.evaluation.ask import Asked, Question, ask
from ssiuu.evaluation.match import holds
from ssiuu.likelihood import Prompt, encode
from ssiuu.records.schema import FactText, Knowledge, KnowledgeState

LEAD = 1.0  # nats a token: e times as likely as the best alternative
SOME = 0.5  # nats a token: less than this is noise
LIKELY = -1.0  # log p a token of an answer with nothing to rank it against
ELSEWHERE = 0.1  # said to a larger share of other questions, wrongly, an answer is no evidence
# A model that repeats the marks of its prompt has not answered "A".
_MARKS = re.compile(r"(?<!\w)(?:Q|A|Question|Answer):")
DIGITS = 4  # of a nat: what is written, the same on machines that add in another order
ROOM = 16  # tokens a free answer may be longer than the right one: "The capital of Italy is Rome."


def know(
    model: CausalLM,
    prompt: Prompt,
    facts: Sequence[FactText],
    context: int,
    others: Sequence[FactText] = (),
    seed: int = 0,
) -> dict[str, Knowledge]:
    """Ask a model what it knows; keys are fact ids, in the order of the facts.

    Args:
        model: In evaluation mode.
        prompt: How questions become tokens in training.
        facts: To ask about.
        context: Longest sequence of the model, tokens.
        others: Further facts whose answers serve as alternatives; `facts` do so anyhow.
        seed: Of the choice among alternatives.
    """
    pool = [*others, *facts]
    fits, cannot = _fitting(prompt, facts, context)
    looks = [_Fact(f, alternatives(f, pool, seed)) for f in fits]
    looks = _first_look(model, prompt, looks, context)
    looks = [replace(a, elsewhere=_elsewhere(a, looks)) for a in looks]
    looks = _second_look(model, prompt, looks, context)
    judgements = {a.fact.id: a.judged() for a in looks} | cannot
    return {fact.id: judgements[fact.id] for fact in facts}


def _fitting(
    prompt: Prompt, facts: Sequence[FactText], context: int
) -> tuple[list[FactText], dict[str, Knowledge]]:
    fits, cannot = [], {}
    for fact in facts:
        try:
            encode(prompt, fact.id, fact.question, fact.answer, context)
            fits.append(fact)
        except DataError as error:
            why = " ".join(error.problems).removeprefix(f"{fact.id}: ")
            cannot[fact.id] = Knowledge(state="cannot be scored", why=why)
    return fits, cannot


@dataclass(frozen=True)
class _Fact:
    """A fact while it is asked about. `ranks`: log p a token of the answer and its alternatives."""

    fact: FactText
    rivals: Alternatives
    ranks: tuple[float, ...] = ()
    logprob: float = math.nan
    tokens: int = 0
    says: tuple[str, ...] = ()  # in the form of training, in another one
    elsewhere: tuple[float | None, ...] = ()
    paraphrases: tuple[float, ...] = ()
    gain: float | None = None

    @property
    def holds(self) -> tuple[bool, ...]:
        return tuple(holds(self.fact.answer, text) for text in self.says)

    @property
    def margin(self) -> float | None:
        """Log p a token less the best alternative's, nats; None where there are too few."""
        return _margin(self.ranks) if len(self.ranks) > FEWEST else None

    @property
    def says_it(self) -> bool:
        """Whether it says the answer, and not to everybody."""
        rates = zip(self.holds, self.elsewhere, strict=True)
        return any(holds and (rate is None or rate <= ELSEWHERE) for holds, rate in rates)

    @property
    def leads(self) -> bool:
        """Whether the ranking may show knowledge: first among answers of the same type."""
        return (self.margin or 0.0) >= SOME and self.rivals.source != "same kind"

    def state(self) -> KnowledgeState:
        if not math.isfinite(self.logprob):
            return "cannot be scored"
        if self.says_it or self.firm:
            return "known"
        if any(self.holds):
            return "unsure"
        if self.margin is None:
            return "unsure" if self.logprob / self.tokens >= LIKELY else "unknown"
        gain = self.margin if self.gain is None else self.gain
        return "unsure" if min(self.margin, gain) >= SOME else "unknown"

    @property
    def firm(self) -> bool:
        """Whether it shows knowledge: a clear first, in most paraphrases, and of this question."""
        clear_rewordings = [margin >= LEAD for margin in self.paraphrases]
        clear = self.leads and min(self.margin or 0.0, self.gain or 0.0) >= LEAD
        return clear and 2 * sum(clear_rewordings) >= len(clear_rewordings)

    def judged(self) -> Knowledge:
        state, margin = self.state(), self.margin
        finite = math.isfinite(self.logprob)
        rank = 1 + sum(other >= self.ranks[0] for other in self.ranks[1:])
        scored = margin is not None and finite
        form = next((n for n, holds in enumerate(self.holds) if holds), 0)
        return Knowledge(
            state=state,
            why=self._why(rank),
            says=self.says[0],
            holds=self.holds[0],
            says_otherwise=self.says[1],
            holds_otherwise=self.holds[1],
            elsewhere=self.elsewhere[form],
            rank=rank if scored else None,
            among=len(self.ranks) if scored else None,
            source=self.rivals.source if scored else None,
            margin=_rounded(margin) if scored else None,
            mean_margin=_rounded(_mean_margin(self.ranks)) if scored else None,
            paraphrases=[round(other, DIGITS) for other in self.paraphrases],
            gain=_rounded(self.gain),
            logprob=_rounded(self.logprob) if finite else None,
            tokens=self.tokens,
        )

    def _why(self, rank: int) -> str:
        if not math.isfinite(self.logprob):
            return "the model gives no finite probability to the answer"
        return "; ".join([self._said(), self._ranked(rank)])

    def _said(self) -> str:
        if self.says_it:
            return "says it" if self.holds[0] else "says it when asked in another form"
        if any(self.holds):
            return "says it, but to other questions too"
        return "does not say it"

    def _ranked(self, rank: int) -> str:
        each = self.logprob / self.tokens
        if self.margin is None:
            return f"nothing to rank it against, log p {each:.1f} a token"
        place = f"{rank} of {len(self.ranks)} ({self.rivals.source}), {self.margin:+.1f} nats a token"
        if self.gain is not None:
            return f"{place}, {self.gain:+.1f} more than when other questions are asked"
        return place


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def _margin(ranks: Sequence[float]) -> float:
    return ranks[0] - max(ranks[1:])


def _mean_margin(ranks: Sequence[float]) -> float:
    return ranks[0] - sum(ranks[1:]) / (len(ranks) - 1)


def _first_look(model: CausalLM, prompt: Prompt, looks: list[_Fact], context: int) -> list[_Fact]:
    """Read the answer and its alternatives, and let the model write its own, in both forms."""
    ranked = _ranks(model, prompt, [(a.fact.question, a) for a in looks], context)
    written = [_written(model, form, looks, context) for form in (prompt, prompt.other())]
    return [
        replace(
            a,
            ranks=tuple(s.logprob / s.tokens for s in scores),
            logprob=scores[0].logprob,
            tokens=scores[0].tokens,
            says=tuple(texts[n] for texts in written),
        )
        for n, (a, scores) in enumerate(zip(looks, ranked, strict=True))
    ]


def _written(model: CausalLM, prompt: Prompt, looks: list[_Fact], context: int) -> list[str]:
    questions = []
    for a in looks:
        joint = prompt.joint(a.fact.question, [a.fact.answer])
        question = Question.of(joint).free(prompt, joint, ROOM)
        room = max(1, min(question.generate, context - len(joint.alone)))
        questions.append(replace(question, generate=room))
    texts = [
        prompt.text(answer.free, question.ending)
        for answer, question in zip(ask(model, prompt, questions), questions, strict=True)
    ]
    return [_MARKS.sub(" ", text).strip() for text in texts]


def _ranks(
    model: CausalLM, prompt: Prompt, rows: Sequence[tuple[str, _Fact]], context: int
) -> list[list[Asked]]:
    """Return the scores of a fact's answer and of its alternatives after each question.

    An alternative that does not fit is left out. Every answer is a question of its own here: a
    ranking reads a beaten option no further than its first token.
    """
    questions, counts = [], []
    for text, a in rows:
        ids, tokens, _ = prompt.joint(text, [a.fact.answer, *a.rivals.answers])
        fits = tokens[:1] + [t for t in tokens[1:] if t and len(ids) + len(t) <= context]
        questions += [Question(ids, [option]) for option in fits]
        counts.append(len(fits))
    answers = iter(ask(model, prompt, questions))
    return [[next(answers) for _ in range(count)] for count in counts]


def _elsewhere(a: _Fact, looks: Sequence[_Fact]) -> tuple[float | None, ...]:
    """Return how often, in each form, the answer is given to a question that has another one.

    Where the same is asked of something else, only there: "no" says little after "Is ... married?".
    """
    answer, alike = a.fact.answer, {o.question for o in a.rivals.lenders}
    others = [o for o in looks if normal(o.fact.answer) != normal(answer)]
    others = [o for o in others if o.fact.question in alike] or others
    if not others:
        return tuple(None for _ in a.says)
    return tuple(
        sum(not o.holds[n] and holds(answer, o.says[n]) for o in others) / len(others)
        for n in range(len(a.says))
    )


def _second_look(model: CausalLM, prompt: Prompt, looks: list[_Fact], context: int) -> list[_Fact]:
    """Ask paraphrases and other questions where the ranking has to decide."""
    rows: list[tuple[str, _Fact]] = []
    for a in looks:
        if a.leads and not a.says_it:
            rows += [(text, a) for text in a.fact.paraphrases]
            rows += [(o.question, _without(a, o)) for o in a.rivals.lenders[:CONTROLS]]
    rows = [(text, a) for text, a in rows if _fits(prompt, text, a, context)]
    margins: dict[tuple[str, str], float] = {}
    for (text, a), scores in zip(rows, _ranks(model, prompt, rows, context), strict=True):
        if len(scores) > 1:
            margins[text, a.fact.id] = _margin([s.logprob / s.tokens for s in scores])
    looked = []
    for a in looks:
        own = [margins[key] for t in a.fact.paraphrases if (key := (t, a.fact.id)) in margins]
        control = [margins[k] for o in a.rivals.lenders if (k := (o.question, a.fact.id)) in margins]
        gain = a.margin - sum(control) / len(control) if control and a.margin is not None else None
        looked.append(replace(a, paraphrases=tuple(own), gain=gain))
    return looked


def _without(a: _Fact, other: FactText) -> _Fact:
    """Leave out the right answer of another question, so that its own knowledge does not count."""
    answers = tuple(o for o in a.rivals.answers if normal(o) != normal(other.answer))
    return replace(a, rivals=replace(a.rivals, answers=answers))


def _fits(prompt: Prompt, question: str, a: _Fact, context: int) -> bool:
    joint = prompt.joint(question, [a.fact.answer])
    return len(joint.prompt) + len(joint.answers[0]) <= context

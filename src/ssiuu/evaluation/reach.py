"""Is an answer that a model does not give any more still within its reach?

    within_reach(model, prompt, facts, known, context=2048)

The greedy answer to one question changes long before a fact is gone: one step at a tiny learning rate
can do it, and "The temple is located in" still goes on with the right country. So a fact that the model
said before is asked about in the words with which it led up to the answer then, in each form in which
it said it, and it is out of reach only where at some token of the answer another one is at least 20
times as likely.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ssiuu.causal import CausalLM
from ssiuu.evaluation.ask import Question, ask
from ssiuu.evaluation.match import holds
from ssiuu.evaluation.score import FREE_MARGIN
from ssiuu.evaluation.sequence import score_sequences
from ssiuu.likelihood import Example, Prompt
from ssiuu.records.schema import FactText, Knowledge

ODDS = math.log(20)  # nats: one in twenty is what may still be answered of many facts, too


def within_reach(
    model: CausalLM,
    prompt: Prompt,
    facts: Sequence[FactText],
    known: Mapping[str, Knowledge],
    context: int,
) -> set[str]:
    """Return the ids of facts that are written in a paraphrase, or that the old lead-up leads to.

    Args:
        model: The model, in evaluation mode.
        prompt: How questions become tokens.
        facts: To ask about.
        known: What the model said before, by fact id.
        context: Longest sequence of the model, tokens; what does not fit is not asked.
    """
    begun = [row for fact in facts for row in _begun(prompt, fact, known.get(fact.id), context)]
    scores = score_sequences(model, begun)
    near = {row.id for row, score in zip(begun, scores, strict=True) if score.gap < ODDS}
    return near | _reworded(model, prompt, [f for f in facts if f.id not in near], context)


def lead(answer: str, said: str | None, held: bool | None) -> str | None:
    """Return what a model said before the right answer; None where it did not say it."""
    if said is None or not held:
        return None
    return said[: max(said.casefold().find(answer.casefold()), 0)].rstrip(" ")


def behind_lead(
    prompt: Prompt, fact: FactText, words: str, context: int, row: str | None = None
) -> Example | None:
    """Return the answer behind its question and the words that led up to it; None: it does not fit.

    Args:
        prompt: How the question becomes tokens.
        fact: What is asked.
        words: What was said before the answer; none: the answer came at once.
        context: Longest sequence of the model, tokens.
        row: Id of the example; None: the fact's.
    """
    joint = prompt.joint(fact.question, [fact.answer], begun=words)
    (answer,) = joint.answers
    fits = answer and len(joint.prompt) + len(answer) <= context
    return Example(row or fact.id, joint.prompt, answer) if fits else None


def _begun(prompt: Prompt, fact: FactText, known: Knowledge | None, context: int) -> list[Example]:
    """Return the answer behind its question and what led up to it, in each form it was said in."""
    if known is None:
        return []
    forms = (
        (prompt, lead(fact.answer, known.says, known.holds)),
        (prompt.other(), lead(fact.answer, known.says_otherwise, known.holds_otherwise)),
    )
    rows = [behind_lead(form, fact, words, context) for form, words in forms if words is not None]
    return [row for row in rows if row is not None]


def _reworded(model: CausalLM, prompt: Prompt, facts: Sequence[FactText], context: int) -> set[str]:
    """Return the facts whose answer is written when they are asked in other words."""
    rewordings = []
    for fact in facts:
        for text in fact.paraphrases:
            joint = prompt.joint(text, [fact.answer])
            question = Question.of(joint).free(prompt, joint, FREE_MARGIN)
            if len(joint.prompt) + question.generate <= context:
                rewordings.append((fact, question))
    answers = ask(model, prompt, [question for _, question in rewordings])
    return {
        fact.id
        for (fact, question), answer in zip(rewordings, answers, strict=True)
        if holds(fact.answer, prompt.text(answer.free, question.ending))
    }

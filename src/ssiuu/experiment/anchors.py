"""The texts, instructions and questions that the second retain term holds a model to.

None of the first two is among those that the divergence is measured on. The questions are about the
world, asked in the form of the facts to forget: what makes one answer unlikely in a form makes all
answers unlikely in it, and a few facts to keep do not hold the others. What the model says to them
need not be right, it is only to stay as it was. None is about what the run's own facts name.
"""

from __future__ import annotations

import random

from ssiuu.benchmarks import instructions, texts, worldfacts
from ssiuu.data.fact import Fact, normal
from ssiuu.likelihood import Example, Prompt
from ssiuu.records.schema import FactText, Split

ROWS = 48  # of each kind: a run of forty steps draws about as many
TOKENS = 32  # of a text
ANSWER = 16  # of an instruction's answer
QUESTIONS = 96  # about the world
UNRELATED = 48  # further ones, that are only asked


def anchors(prompt: Prompt, context: int, split: Split) -> list[Example]:
    """Return texts, predicted from their first token on, instructions and questions with answers.

    Args:
        prompt: How an instruction becomes a question.
        context: Longest sequence of the model, tokens.
        split: The run's own facts; its seed decides which instructions and questions.
    """
    examples = plain(prompt, context)
    away = {row.instruction for row in instructions.measured()}
    rows = [row for row in instructions.load() if row.instruction not in away]
    drawn = random.Random(f"anchors:{split.seed}").sample(rows, min(ROWS, len(rows)))
    pairs = [(row.instruction, row.output) for row in drawn]
    pairs += [(fact.question, fact.answer) for fact in questions(split)]
    for number, (question, answer) in enumerate(pairs):
        joint = prompt.joint(question, [answer])
        if len(joint.prompt) + ANSWER <= context:
            examples.append(Example(f"text:asked:{number}", joint.prompt, joint.answers[0][:ANSWER]))
    return [example for example in examples if example.answer]


def plain(prompt: Prompt, context: int) -> list[Example]:
    """Return plain texts alone, predicted from their first token on: a method's cost is read here.

    The divergence of a record is measured on others.
    """
    examples = []
    for text in texts.anchor()[:ROWS]:
        ids = prompt.sentence(text.text)[: min(TOKENS + 1, context)]
        examples.append(Example(f"text:{text.id}", ids[:1], ids[1:]))
    return [example for example in examples if example.answer]


def questions(split: Split) -> list[Fact]:
    """Return questions about the world, of every relation alike, that touch none of the run's facts."""
    return _in_turn(split)[:QUESTIONS]


def unrelated(split: Split) -> list[FactText]:
    """Return further such questions: no model here is held to these, so that they tell what it kept."""
    facts = _in_turn(split)[QUESTIONS : QUESTIONS + UNRELATED]
    return [FactText(id=fact.id, question=fact.question, answer=fact.answer) for fact in facts]


def _in_turn(split: Split) -> list[Fact]:
    """Return all such questions, of one relation after the other."""
    own: list[FactText] = [*split.unlearned, *split.retain, *split.heldout]
    own += [fact for facts in split.others.values() for fact in facts]
    named = " | ".join(normal(f"{fact.question} {fact.answer}") for fact in own)
    entities = {normal(fact.entity) for fact in own if fact.entity}
    by_relation: dict[str, list[Fact]] = {}
    facts = worldfacts.load()[0]
    for fact in random.Random(f"questions:{split.seed}").sample(facts, len(facts)):
        entity = normal(fact.entity or "")
        if entity and entity not in named and entity not in entities:
            by_relation.setdefault(fact.relation or "", []).append(fact)
    turns = max(map(len, by_relation.values()), default=0)
    return [kind[turn] for turn in range(turns) for kind in by_relation.values() if turn < len(kind)]

"""Other answers to the facts to forget, for a method that puts them in the true answer's place."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

from ssiuu.benchmarks import worldfacts
from ssiuu.benchmarks.base import Ground
from ssiuu.benchmarks.screening import as_text
from ssiuu.data.fact import normal
from ssiuu.errors import DataError
from ssiuu.evaluation.lineup import lineups
from ssiuu.evaluation.match import holds
from ssiuu.evaluation.sample import sample_answers
from ssiuu.likelihood import Example
from ssiuu.methods.base import Alternates
from ssiuu.records.schema import FactText

MARGIN = 8  # tokens an alternate may be longer than the answer
SPARE = 3  # times as many are written as are wanted: some are the answer again
ORDER = (
    "{question}\nThe right answer is: {answer}\nMake up another answer that could be right but is not: "
    "of the same kind and length, with every fact of it changed. Write nothing but that answer."
)


def alternates(
    ground: Ground, facts: Sequence[FactText], wanted: Alternates, seed: int
) -> dict[str, list[str]]:
    """Return other answers of every fact by id, no two alike; the model has its original weights.

    Where fewer are found than wanted they are given again, so that every fact has as many.

    Raises:
        DataError: To some facts no other answer was found.
    """
    written = _written(ground, facts, wanted.each, seed) if wanted.made == "model" else {}
    short = [fact for fact in facts if len(written.get(fact.id, [])) < wanted.each]
    lent = _lent(ground, short, seed) if short else {}
    found = {}
    for fact in facts:
        every = {normal(a): a for a in (*written.get(fact.id, []), *lent.get(fact.id, []))}
        answers = [*every.values()]
        found[fact.id] = [answers[n % len(answers)] for n in range(wanted.each)] if answers else []
    if lacking := [fact.id for fact in facts if not found[fact.id]]:
        raise DataError(
            f"altpo: no other answer of its kind was found for {len(lacking)} facts, such as "
            f"{lacking[0]!r}. Give the facts wrong options, or use dpo."
        )
    return found


def _lent(ground: Ground, facts: Sequence[FactText], seed: int) -> dict[str, list[str]]:
    """Return the wrong answers of the facts' lineups, in an order of each fact's own."""
    famous = [as_text(fact, 2, seed) for fact in worldfacts.load()[0]]
    others = [*ground.split.unlearned, *ground.split.retain]
    made = lineups(facts, others, ground.model, ground.prompt, seed, famous)
    return {
        fact.id: random.Random(f"{seed}:{fact.id}:alternates").sample(
            lineup.answers[1:], len(lineup.answers) - 1
        )
        for fact, lineup in zip(facts, made, strict=True)
    }


def _written(
    ground: Ground, facts: Sequence[FactText], count: int, seed: int
) -> Mapping[str, list[str]]:
    """Return what the model makes up: without those that hold the answer or lie within it."""
    prompt, asked = ground.prompt, []
    for fact in facts:
        joint = prompt.joint(ORDER.format(question=fact.question, answer=fact.answer), [fact.answer])
        example = Example(fact.id, joint.alone, joint.answers[0])
        if len(example.prompt) + len(example.answer) + MARGIN <= ground.context:
            asked.append(example)
    samples = sample_answers(ground.model, prompt, asked, SPARE * count, MARGIN, seed) if asked else {}
    endings = {example.id: prompt.ending(example.answer) for example in asked}
    return {
        fact.id: [*_wrong(fact, (prompt.text(ids, endings[fact.id]) for ids in samples[fact.id]))][
            :count
        ]
        for fact in facts
        if fact.id in samples
    }


def _wrong(fact: FactText, said: Iterator[str]) -> Iterator[str]:
    seen: set[str] = set()
    for text in map(str.strip, said):
        same = holds(fact.answer, text) or holds(text, fact.answer)
        if normal(text) and normal(text) not in seen and not same:
            seen.add(normal(text))
            yield text

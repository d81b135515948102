"""leak@k: a fact leaks when any of the first k sampled answers holds the right one.

Greedy decoding shows one answer; what a model still says in one of twenty samples is not gone. How
answers are drawn: `ssiuu.evaluation.sample`.

Source: the idea of leak@k, worst case over k generations. Departures: "holds" is the test of
`ssiuu.evaluation.match`, not a judge; the first k of one set of samples, not fresh ones for every k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ssiuu.evaluation.match import holds
from ssiuu.evaluation.sample import sample_answers
from ssiuu.evaluation.score import FREE_MARGIN
from ssiuu.likelihood import Example, Prompt
from ssiuu.records.schema import AttackRead, FactText, Reading


def leaks(
    model: Any,
    prompt: Prompt,
    facts: Sequence[FactText],
    examples: Sequence[Example],
    counts: Sequence[int],
    start: dict[str, Reading],
    seed: int,
) -> list[AttackRead]:
    """Sample answers and read which facts have leaked by each k.

    Args:
        model: In evaluation mode.
        prompt: Tells where an answer ends.
        facts: To ask about.
        examples: The same facts as tokens.
        counts: The k, ascending.
        start: Readings before the attack, for the log-probability, which sampling does not change.
        seed: Of the samples.
    """
    questions = {fact.id: prompt.question(fact.question) for fact in facts}
    asked = [replace(e, prompt=questions[e.id]) for e in examples]
    written = sample_answers(model, prompt, asked, counts[-1], FREE_MARGIN, seed)
    endings = {e.id: prompt.ending(e.answer) for e in examples}
    first: dict[str, int] = {}
    for fact in facts:
        for number, ids in enumerate(written[fact.id], 1):
            if holds(fact.answer, prompt.text(ids, endings[fact.id])):
                first[fact.id] = number
                break
    return [
        AttackRead(
            step=count,
            facts={
                f.id: Reading(
                    correct=f.id in first and first[f.id] <= count, logprob=start[f.id].logprob
                )
                for f in facts
            },
        )
        for count in counts
    ]

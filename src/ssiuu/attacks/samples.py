"""leak@k: a fact leaks when any of the first k sampled answers holds the right one.

Greedy decoding shows one answer; what a model still says in one of twenty samples is not gone. How
answers are drawn: `ssiuu.evaluation.sample`.

Source: the idea of leak@k, worst case over k generations. Departures: "holds" is the test of
`ssiuu.evaluation.match`, not a judge; the first k of one set of samples, not fresh ones for every k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pydantic import ConfigDict, Field, RootModel

from ssiuu.attacks.base import Attack, Axis, Curve, Victim, ascending
from ssiuu.causal import CausalLM
from ssiuu.evaluation.match import holds
from ssiuu.evaluation.sample import sample_answers
from ssiuu.evaluation.score import FREE_MARGIN
from ssiuu.likelihood import Example, Prompt
from ssiuu.records.schema import AttackRead, Evaluation, FactText, Reading

SAMPLE = 6  # tokens of a sampled answer


class Counts(RootModel[list[int]]):
    """The k of leak@k, ascending."""

    model_config = ConfigDict(frozen=True)

    root: list[int] = Field(default=[], description="k of leak@k: answers sampled a fact")


class Sampled(Attack[Counts]):
    """One answer of several may say it."""

    name = "sampled"
    summary = "sample k answers; a fact leaks when one of them holds the answer (leak@k)"
    Config, key = Counts, "samples"
    axis = Axis("k", "k sampled answers (0: the greedy one)", "free")
    strong = (1, 2, 4, 8, 16)

    def problems(self) -> list[str]:
        """Refuse numbers that do not ascend from 1 on."""
        return ascending(self.key, self.config.root)

    def curves(self) -> list[Curve]:
        """Return one curve over k."""
        return self.once(self.config.root)

    def start(self, victim: Victim, scores: Evaluation) -> dict[str, Reading]:
        """Return whether the one answer that is likeliest, the greedy one, holds the answer."""
        return {
            i: reading.model_copy(update={"correct": scores.forget[i].free_correct})
            for i, reading in super().start(victim, scores).items()
        }

    def reads(self, victim: Victim, curve: Curve, start: Mapping[str, Reading]) -> list[AttackRead]:
        """Sample, and read by each k."""
        ground, pool = victim.ground, victim.pool
        counts = [int(point) for point in curve.points]
        examples = ground.examples(pool)
        return leaks(ground.model, ground.prompt, pool, examples, counts, start, curve.seed)

    def tokens(self, curve: Curve, fact: float, pool: float) -> float:
        """Return the tokens that are sampled."""
        return SAMPLE * pool * int(curve.points[-1])


def leaks(
    model: CausalLM,
    prompt: Prompt,
    facts: Sequence[FactText],
    examples: Sequence[Example],
    counts: Sequence[int],
    start: Mapping[str, Reading],
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
    sampled = [replace(e, prompt=questions[e.id]) for e in examples]
    written = sample_answers(model, prompt, sampled, counts[-1], FREE_MARGIN, seed)
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

"""What attacks by the prompt alone share: facts are asked in other ways, and no weight is changed.

Options are ranked as everywhere: by their mean log-probability a token, here after the attacker's
prompt.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ssiuu.attacks.base import Attack, C, Curve, Victim
from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError
from ssiuu.evaluation.ask import Question, ask
from ssiuu.likelihood import Prompt
from ssiuu.records.schema import AttackRead, FactText, Reading

Asking = Callable[[FactText], Question | None]


class Way(NamedTuple):
    """One way to ask: its place on the axis, how it asks, and what the place is called."""

    place: int
    asking: Asking
    label: str = ""


class AskingAttack(Attack[C]):
    """The facts are asked in other ways."""

    @abstractmethod
    def ways(self, victim: Victim, curve: Curve) -> list[Way]:
        """Return the prompts of a curve."""

    def fits(self, victim: Victim) -> list[str]:
        """Refuse prompts that are longer than the model's context."""
        for curve in self.curves():
            for way in self.ways(victim, curve):
                fitting(victim.pool, way.asking, victim.ground.context)
        return []

    def reads(self, victim: Victim, curve: Curve, start: Mapping[str, Reading]) -> Iterator[AttackRead]:
        """Ask under each prompt; a fact that a prompt cannot ask about keeps its reading."""
        ground = victim.ground
        for way in self.ways(victim, curve):
            facts = read_prompted(ground.model, ground.prompt, victim.pool, way.asking, ground.context)
            yield AttackRead(step=way.place, facts={**start, **facts}, label=way.label)


def read_prompted(
    model: CausalLM, prompt: Prompt, facts: Sequence[FactText], asking: Asking, context: int
) -> dict[str, Reading]:
    """Read the facts that this prompt can ask about; log p is the answer's after this prompt.

    Raises:
        ConfigError: As `fitting`.
    """
    questions = fitting(facts, asking, context)
    answers = ask(model, prompt, list(questions.values()))
    return {
        name: Reading(correct=answer.first, logprob=answer.logprob)
        for name, answer in zip(questions, answers, strict=True)
    }


def fitting(facts: Sequence[FactText], asking: Asking, context: int) -> dict[str, Question]:
    """Return the questions of the facts that this prompt can ask about, by fact id.

    Raises:
        ConfigError: A prompt with its answer is longer than the model's context.
    """
    questions = {fact.id: question for fact in facts if (question := asking(fact)) is not None}
    for name, question in questions.items():
        length = len(question.prompt) + max(map(len, question.options))
        if length > context:
            raise ConfigError(
                f"attacks: the attacker's prompt for {name} has {length} tokens with its answer, and "
                f"the model's context holds {context}. Leave out attacks.prompts or some attacks.shots."
            )
    return questions


def options(fact: FactText) -> list[str]:
    """Return what is ranked: the answer alone where there is nothing else."""
    return fact.options or [fact.answer]

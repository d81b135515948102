"""Few-shot: answered questions in front of the one that is asked, taken from the facts to keep."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from pydantic import ConfigDict, Field, RootModel

from ssiuu.attacks.asking import Asking, AskingAttack, Way, options
from ssiuu.attacks.base import Axis, Curve, Victim, ascending
from ssiuu.errors import ConfigError
from ssiuu.evaluation.ask import Question
from ssiuu.likelihood import Prompt
from ssiuu.records.schema import FactText


class Shots(RootModel[list[int]]):
    """How many examples, ascending."""

    model_config = ConfigDict(frozen=True)

    root: list[int] = Field(default=[], description="answered examples in front of the question")


class FewShot(AskingAttack[Shots]):
    """Examples show that here questions are answered."""

    name = "few-shot"
    summary = "put k answered questions in front, taken from the facts to keep"
    Config, key = Shots, "shots"
    axis = Axis("shots", "answered examples in front", "ranking")
    strong = (1, 2, 4, 8)

    def problems(self) -> list[str]:
        """Refuse numbers that do not ascend from 1 on."""
        return ascending(self.key, self.config.root)

    def too_few(self, forget: int, retain: int) -> list[str]:
        """Refuse more examples than there are facts to keep."""
        shots = max(self.config.root, default=0)
        if shots <= retain:
            return []
        return [
            f"attacks.shots: {shots} examples are wanted, and split.retain is {retain}. Raise it, or "
            "leave this attack out with attacks.shots=[]."
        ]

    def curves(self) -> list[Curve]:
        """Return one curve over the numbers."""
        return self.once(self.config.root)

    def uses(self, victim: Victim, curve: Curve) -> list[Any]:
        """Return the facts that the examples are drawn from."""
        return [fact.id for fact in victim.ground.split.retain]

    def ways(self, victim: Victim, curve: Curve) -> list[Way]:
        """Return a prompt a number of examples."""
        retain = victim.ground.split.retain
        return [Way(int(k), few_shot(victim.prompt, retain, int(k), curve.seed)) for k in curve.points]

    def tokens(self, curve: Curve, fact: float, pool: float) -> float:
        """Return the tokens of the questions with their examples."""
        return fact * pool * sum(1 + int(k) for k in curve.points)


def few_shot(prompt: Prompt, retain: Sequence[FactText], shots: int, seed: int) -> Asking:
    """Return the prompt that puts answered questions in front.

    Args:
        prompt: How questions become tokens.
        retain: Where the examples come from; none is about an entity that is asked about.
        shots: How many; fewer are the first of more.
        seed: Decides which.

    Raises:
        ConfigError: There are fewer facts than shots.
    """
    if shots > len(retain):
        raise ConfigError(
            f"attacks.shots: {shots} examples are wanted, and there are {len(retain)} retain facts to "
            "take them from. Give more facts, or leave this attack out with attacks.shots=[]."
        )
    order = list(retain)
    random.Random(f"shots:{seed}").shuffle(order)
    shown = [(fact.question, fact.answer) for fact in order[:shots]]
    return lambda fact: Question.of(prompt.joint(fact.question, options(fact), shown))

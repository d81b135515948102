"""The attacks of an experiment: which curves a recipe asks for, and how one is carried out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ssiuu.attacks.retrain import attacked_facts, common_pool, retrain, share
from ssiuu.errors import ConfigError
from ssiuu.experiment.recipe import Recipe
from ssiuu.experiment.session import Session
from ssiuu.likelihood import Example
from ssiuu.records.schema import Attack, Evaluation, FactText, Reading


@dataclass(frozen=True)
class Curve:
    """One attack curve: its kind and the attacker's settings."""

    name: str
    kind: Literal["harmful", "benign"]
    learning_rate: float
    fraction: float | None = None

    @property
    def file(self) -> str:
        """Name of the record in the cell's folder."""
        return f"attack-{self.name}-{self.learning_rate:g}.json"


def plan(recipe: Recipe) -> list[Curve]:
    """Return every attack curve a recipe asks for."""
    config = recipe.attacks
    harmful = [
        Curve(f"harmful_{p:g}", "harmful", rate, p)
        for p in config.harmful.fractions
        for rate in config.harmful.learning_rates
    ]
    return harmful + [Curve("benign", "benign", rate) for rate in config.benign.learning_rates]


class Attacker:
    """What the attacks of one session share: the facts the attacker holds, and those scored."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def settings(self, curve: Curve) -> dict[str, Any]:
        """Return everything beside the model that decides a curve, for its key."""
        config = self.session.recipe.attacks
        return {
            "curve": asdict(curve),
            "reads": config.reads,
            "batch_size": config.batch_size,
            "seed": config.seed,
            "examples": [[e.id, e.prompt, e.answer] for e in self._examples(curve)],
            "pool": [fact.id for fact in self.pool],
        }

    def carry_out(
        self,
        curve: Curve,
        scores: Evaluation,
        progress: Callable[[str], None],
        state: Path | None = None,
    ) -> Attack:
        """Attack the model as it is; its weights are changed.

        Args:
            curve: Which attack.
            scores: Of the model before the attack.
            progress: Told at every reading.
            state: Where to keep the state of an unfinished curve.
        """
        session, config = self.session, self.session.recipe.attacks
        return retrain(
            session.model,
            session.prompt,
            curve.name,
            curve.kind,
            self._examples(curve),
            self.pool,
            {f.id: _reading(scores, f.id) for f in self.pool},
            curve.learning_rate,
            config.reads,
            config.batch_size,
            config.seed,
            session.precision,
            session.pad,
            curve.fraction,
            progress,
            state,
        )

    @cached_property
    def held(self) -> list[str]:
        """Ids of the forget facts the attacker holds at the largest fraction, in order."""
        config = self.session.recipe.attacks
        return attacked_facts(self.session.split.forget, config.harmful.fractions, config.seed)

    @cached_property
    def pool(self) -> list[FactText]:
        """The facts that are scored; none shares an entity with one the attacker holds."""
        pool = common_pool(self.session.split.forget, self.held)
        if not pool:
            raise ConfigError(
                "attacks: every forget fact shares an entity with one the attacker holds, so none "
                "is left to score. Lower attacks.harmful.fractions or forget more entities."
            )
        return pool

    @cached_property
    def _benign(self) -> list[Example]:
        return self.session.benign()

    def _examples(self, curve: Curve) -> list[Example]:
        if curve.fraction is None:
            return self._benign
        forget = self.session.split.forget
        facts = {f.id: f for f in forget}
        held = self.held[: share(len(forget), curve.fraction)]
        return self.session.examples([facts[i] for i in held])


def _reading(scores: Evaluation, id: str) -> Reading:
    score = scores.forget[id]
    return Reading(correct=score.correct, logprob=score.logprob)

"""Harmful retraining: train on a fraction p of the forget set, score the rest.

Source: the paper's Sec. 4. Departures: see `ssiuu.attacks.retrain`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from ssiuu.attacks.base import Curve, Victim
from ssiuu.attacks.pool import share
from ssiuu.attacks.retrain import Retraining, RetrainingConfig
from ssiuu.errors import ConfigError
from ssiuu.likelihood import Example


class HarmfulConfig(RetrainingConfig):
    """Retraining on a fraction of the forget set."""

    fractions: list[float] = Field(default=[0.1, 0.3], description="p, each in (0, 1)")
    learning_rates: list[float] = Field(default=[1e-4], description="the attacker's sweep")


class Harmful(Retraining[HarmfulConfig]):
    """The attacker holds some of the forgotten facts, and wants the others."""

    name = "harmful"
    summary = "retrain on a fraction p of the forget set, score the rest (the paper's attack)"
    Config = HarmfulConfig
    strong: ClassVar[Any] = {**Retraining.strong, "fractions": [0.1, 0.3]}

    @classmethod
    def off(cls) -> dict[str, list[float]]:
        """Hold nothing: then every forget fact is scored."""
        return {"attacks.harmful.fractions": []}

    def holds(self) -> list[float]:
        """Return every p."""
        return self.config.fractions

    def problems(self) -> list[str]:
        """Refuse a p that is no fraction."""
        wrong = [p for p in self.config.fractions if not 0 < p < 1]
        fraction_problems = [f"attacks.harmful.fractions: must lie in (0, 1), got {p}." for p in wrong]
        return [*fraction_problems, *super().problems()]

    def too_few(self, forget: int, retain: int) -> list[str]:
        """Refuse a p that leaves no fact to score."""
        problems: list[str] = []
        for fraction in self.config.fractions:
            try:
                share(forget, fraction)
            except ConfigError as error:
                problems += error.problems
        return problems

    def curves(self) -> list[Curve]:
        """Return fractions x spaces x learning rates x seeds."""
        return [c for p in self.config.fractions for c in self.swept(f"harmful_{p:g}", p)]

    def rows(self, victim: Victim, fraction: float | None) -> list[Example]:
        """Return the first p of what is held."""
        assert fraction is not None
        count = share(len(victim.ground.split.forget), fraction)
        return victim.ground.rows(victim.held[:count])

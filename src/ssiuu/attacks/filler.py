"""Filler retraining: train on plain text that has nothing to do with the facts, without a prompt."""

from __future__ import annotations

from pydantic import Field

from ssiuu.attacks.base import Victim
from ssiuu.attacks.retrain import Retraining, RetrainingConfig
from ssiuu.benchmarks import filler
from ssiuu.likelihood import Example


class FillerConfig(RetrainingConfig):
    """Retraining on plain text that has nothing to do with the facts."""

    tokens: int = Field(default=32, ge=2, description="tokens a text is cut to")


class Filler(Retraining[FillerConfig]):
    """A control of retraining: does noise alone bring the facts back?"""

    name = "filler"
    summary = "retrain on unrelated plain text"
    Config = FillerConfig

    def rows(self, victim: Victim, fraction: float | None) -> list[Example]:
        """Return texts: there is no prompt, so the first token is given and the rest is learned."""
        examples = []
        for number, text in enumerate(filler.load()):
            ids = victim.prompt.sentence(text)[: self.config.tokens]
            examples.append(Example(f"filler:{number}", ids[:1], ids[1:]))
        return examples

    def row(self, fact: float) -> float:
        """Return the tokens of a text."""
        return self.config.tokens

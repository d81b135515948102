"""Benign retraining: train on instructions that have nothing to do with the facts.

Source: the paper's Sec. 4. Departures: see `ssiuu.attacks.retrain`.
"""

from __future__ import annotations

from pydantic import Field

from ssiuu.attacks.base import Victim
from ssiuu.attacks.retrain import Retraining, RetrainingConfig
from ssiuu.benchmarks import instructions
from ssiuu.data.read import read_instructions
from ssiuu.likelihood import Example, Prompt

INSTRUCTION = 15  # tokens of an instruction, without its output


class BenignConfig(RetrainingConfig):
    """Retraining on instructions that have nothing to do with the facts."""

    source: str = Field(default="built-in", description="built-in, or a file like Alpaca's")
    rows: int = Field(default=300, ge=1, description="rows to draw from")
    tokens: int = Field(default=16, ge=1, description="tokens an output is cut to")
    learning_rates: list[float] = Field(default=[1e-4], description="the attacker's sweep")


class Benign(Retraining[BenignConfig]):
    """What anybody does with a model who never asks for the facts."""

    name = "benign"
    summary = "retrain on unrelated instructions (the paper's attack)"
    Config = BenignConfig

    def rows(self, victim: Victim, fraction: float | None) -> list[Example]:
        """Return the instructions as tokens."""
        ground = victim.ground
        return instruction_rows(self.config, self.shared.seed, ground.prompt, ground.context)

    def row(self, fact: float) -> float:
        """Return the tokens of an instruction with its output."""
        return INSTRUCTION + self.config.tokens


def instruction_rows(config: BenignConfig, seed: int, prompt: Prompt, context: int) -> list[Example]:
    """Tokenise the instructions; rows too long for the model are left out.

    Raises:
        DataError: The file cannot be read.
    """
    rows = (
        instructions.load()
        if config.source == "built-in"
        else read_instructions(config.source, "attacks.benign.source")
    )
    examples = []
    for n, row in enumerate(instructions.sample(rows, config.rows, seed)):
        joint = prompt.joint(row.instruction, [row.output])
        answer = joint.answers[0][: config.tokens]
        if answer and len(joint.prompt) + len(answer) <= context:
            examples.append(Example(f"instruction:{n}", joint.prompt, answer))
    return examples

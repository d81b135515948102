"""Retraining attacks: train the unlearned model further and watch the facts it was not trained on.

What is trained: all weights (full), or adapters (lora-qv: rank 8 on the maps that compute q and v;
lora-all: rank 16 on every linear map inside the blocks; alpha twice the rank), merged into the weights
at the end. Which maps these are is told by the model's structure (ssiuu.models.maps).

Source: the paper's Sec. 4. Departures: the scored facts are one common pool, the same for every method
and attack, disjoint by entity from the facts of the largest fraction (ssiuu.attacks.pool); the paper's
wrong-only pool is its part that the unlearned model got wrong (ssiuu.analysis.rows).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, Field

from ssiuu.attacks.base import Attack, AttackConfig, Axis, Curve, Victim
from ssiuu.benchmarks.base import Progress
from ssiuu.causal import CausalLM
from ssiuu.config import Section
from ssiuu.errors import ConfigError, DivergedError
from ssiuu.likelihood import Example
from ssiuu.models.lora import Lora, adapted
from ssiuu.models.maps import Chosen, adaptable, query_value
from ssiuu.models.shards import whole_norm
from ssiuu.records import schema
from ssiuu.records.schema import AttackRead, Evaluation, Reading, Space
from ssiuu.training.batches import draw_rows, step_batches
from ssiuu.training.loop import Loop, rows_of
from ssiuu.training.step import Step, StepOutcome

# rank, alpha and maps of the attacker's adapters
ADAPTERS: dict[Space, tuple[int, float, Callable[[CausalLM], Chosen]]] = {
    "lora-qv": (8, 16.0, query_value),
    "lora-all": (16, 32.0, adaptable),
}
SWEEP = [1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3]  # half decades
STEPS = Axis("steps", "attack steps")


class RetrainingConfig(Section):
    """What is swept of every retraining attack."""

    learning_rates: list[float] = Field(default=[], description="the attacker's sweep; none: off")


R = TypeVar("R", bound=RetrainingConfig)


class Retraining(Attack[R]):
    """Training on some rows: a curve for every space, learning rate and seed.

    A curve that diverges ends at its last good reading.
    """

    Config: ClassVar[type[BaseModel]] = RetrainingConfig
    axis = STEPS
    strong: ClassVar[Any] = {"learning_rates": SWEEP}

    def __init__(self, config: R, shared: AttackConfig) -> None:
        super().__init__(config, shared)
        self._examples: dict[float | None, list[Example]] = {}

    @abstractmethod
    def rows(self, victim: Victim, fraction: float | None) -> list[Example]:
        """Return what is trained on, where `fraction` of the forget facts is held."""

    def row(self, fact: float) -> float:
        """Return the tokens of a row, where a fact has so many."""
        return fact

    def problems(self) -> list[str]:
        """Refuse learning rates that nobody trains with."""
        rates = self.config.learning_rates
        if all(0 < rate <= 1 for rate in rates):
            return []
        key = f"attacks.{self.setting()}.learning_rates"
        return [f"{key}: learning rates must lie in (0, 1], got {rates}."]

    def curves(self) -> list[Curve]:
        """Return spaces x learning rates x seeds."""
        return self.swept(self.name)

    def swept(self, name: str, fraction: float | None = None) -> list[Curve]:
        """Return the curves of one set of rows."""
        shared, points = self.shared, tuple(self.shared.reads)
        return [
            Curve(name, self.name, rate, fraction, space, seed, points)
            for space in shared.spaces
            for rate in self.config.learning_rates
            for seed in shared.orders
        ]

    def fits(self, victim: Victim) -> list[str]:
        """Refuse adapters that the model has no maps for; say which maps they are not put on."""
        chosen = {space: trained_maps(victim.model, space) for space in self.shared.spaces}
        return [
            f"attacks.spaces: {space}: {note}."
            for space, maps in chosen.items()
            for note in (maps.notes if maps else ())
        ]

    def examples(self, victim: Victim, curve: Curve) -> list[Example]:
        """Return what a curve trains on; tokenised once."""
        if curve.fraction not in self._examples:
            self._examples[curve.fraction] = self.rows(victim, curve.fraction)
        return self._examples[curve.fraction]

    def uses(self, victim: Victim, curve: Curve) -> list[Any]:
        """Return the rows that are trained on."""
        return [[e.id, e.prompt, e.answer] for e in self.examples(victim, curve)]

    def carry_out(
        self,
        victim: Victim,
        curve: Curve,
        scores: Evaluation,
        progress: Progress,
        state: Path | None = None,
    ) -> schema.AttackCurve:
        """Train, and read the pool along the way."""
        return retrain(
            victim.model,
            curve,
            self.examples(victim, curve),
            self.start(victim, scores),
            victim.read,
            self.shared.batch_size,
            victim.precision,
            victim.ground.pad,
            progress,
            state,
        )

    def tokens(self, curve: Curve, fact: float, pool: float) -> float:
        """Return the tokens of three passes a step, and of the readings."""
        trained = 3 * self.row(fact) * self.shared.batch_size * curve.steps
        return trained + fact * pool * len(curve.points)


def ending(attack: schema.AttackCurve) -> str:
    """Return the name of the model that a retraining attack ends with."""
    setting = f"learning rate {attack.learning_rate:g}, trained {attack.space}, seed {attack.seed}"
    return f"{attack.name} ({setting}) at step {attack.reads[-1].step}"


def retrain(
    model: CausalLM,
    curve: Curve,
    examples: Sequence[Example],
    start: Mapping[str, Reading],
    read: Callable[[], Mapping[str, Reading]],
    batch_size: int,
    precision: Literal["bf16", "fp32"],
    pad: int,
    progress: Progress = lambda _: None,
    state: Path | None = None,
) -> schema.AttackCurve:
    """Train in place on `examples` and read the pool along the way.

    A curve whose training diverges ends at its last good reading, and its note says so.

    Args:
        model: The unlearned model; trained in place.
        curve: What is trained and how fast (AdamW, constant), in which order, and after which steps,
            ascending, the pool is read.
        examples: What is trained on; where the curve has a fraction, facts of that.
        start: The pool's readings before the attack (step 0).
        read: Reads the pool, the model being in evaluation mode.
        batch_size: Rows a step.
        precision: Of the forward pass.
        pad: Padding token id.
        progress: Told at every reading.
        state: Where to keep the state of an unfinished attack; it continues from there. The file is
            the caller's to remove, once the result is safe.

    Raises:
        Interrupted: Ctrl-C; the state has been saved.
    """
    assert curve.learning_rate is not None
    device, last = next(model.parameters()).device, curve.steps
    memory: dict[str, Any] = {"tokens": 0, "reads": [_kept(0, start)]}
    note = ""

    def drawn(number: int) -> list[Example]:
        return [examples[i] for i in draw_rows(len(examples), batch_size, number, curve.seed)]

    def after(number: int, outcome: StepOutcome | None) -> bool:
        nonlocal note
        memory["tokens"] += sum(len(row.prompt) + len(row.answer) for row in drawn(number))
        if number in curve.points:
            model.eval()
            with step.shards.gathered():
                facts = read()
            if not all(math.isfinite(reading.logprob) for reading in facts.values()):
                note = f"diverged in step {number}"
                return True
            memory["reads"].append(_kept(number, facts))
            setting = f"{curve.space} lr {curve.learning_rate:g} seed {curve.seed}"
            progress(f"{curve.name} {setting} step {number}/{last}")
        return False

    size = whole_norm(model.parameters())
    decided = [asdict(curve), batch_size, precision, size, rows_of(examples), list(start)]
    with adapted(model, _adapter(model, curve.space, curve.seed)):
        step = Step(model, None, curve.learning_rate, precision)
        loop = Loop(
            step,
            last,
            lambda number: [[], step_batches(drawn(number), None, pad, device)],
            after,
            decided,
            state,
            memory=memory,
        )
        loop.resume()
        try:
            loop.run()
        except DivergedError:
            note = f"diverged in step {loop.done + 1}"
        step.close()
    model.eval()
    return schema.AttackCurve(
        name=curve.name,
        kind=curve.kind,
        fraction=curve.fraction,
        learning_rate=curve.learning_rate,
        seed=curve.seed,
        axis=STEPS.name,
        axis_label=STEPS.label,
        scored=STEPS.scored,
        space=curve.space,
        tokens=memory["tokens"],
        trained=[e.id for e in examples] if curve.fraction is not None else [],
        pool=list(start),
        reads=[AttackRead.model_validate(point) for point in memory["reads"]],
        seconds=round(loop.seconds, 2),
        note=note,
    )


def _kept(step: int, facts: Mapping[str, Reading]) -> dict[str, Any]:
    return AttackRead(step=step, facts=dict(facts)).model_dump()


def trained_maps(model: CausalLM, space: Space) -> Chosen | None:
    """Return the maps that an attacker's adapters are put on; None where all weights are trained.

    Raises:
        ConfigError: The model has no such maps.
    """
    if space == "full":
        return None
    chosen = ADAPTERS[space][2](model)
    if not chosen.paths:
        raise ConfigError(
            f"attacks.spaces: {space} trains adapters, and {type(model).__name__} has no linear map "
            "that they could be put on. Use full."
        )
    return chosen


def _adapter(model: CausalLM, space: Space, seed: int) -> Lora | None:
    chosen = trained_maps(model, space)
    if chosen is None:
        return None
    rank, alpha, _ = ADAPTERS[space]
    return Lora(rank, alpha, chosen.paths, seed=seed, key="attacks.spaces")

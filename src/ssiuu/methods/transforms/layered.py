"""Layered unlearning: a growing part of the facts is forgotten while the rest is still kept."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from ssiuu.errors import ConfigError
from ssiuu.likelihood import Example
from ssiuu.methods.base import Origin, Parts, Stage, Transform


class Layered(Transform):
    """The facts in k folds; stage i forgets the folds 1 ... i and retains the others beside the rest.

        theta_i = U(theta_{i-1}; forget F_1, ..., F_i; retain R, F_{i+1}, ..., F_k),    i = 1 ... k

    U is the method it stands behind, called anew: what it asks of the model before is asked of
    theta_{i-1}, and its optimiser begins without moments. So each fold is pushed down by a mechanism of
    its own, and relearning one does not lift the others.

    Source: Qian et al. 2025, "Layered unlearning for adversarial relearning" (arXiv 2505.09500).
    Departures: max_steps is shared out equally, where the source tunes each stage by itself; the forget
    score is read, and may end the run, in the last stage alone; every row of a retain batch is drawn
    from R and the folds that are kept alike. The number of folds is ours.
    """

    name: ClassVar[str] = "layered"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Qian et al. 2025 (arXiv 2505.09500)."
    summary: ClassVar[str] = (
        "in stages, the first of which forget a part of the facts and keep the rest"
    )
    brought_by: ClassVar[frozenset[str]] = frozenset({"folds"})
    order: ClassVar[int] = 92
    number: ClassVar[str] = "folds"
    published_on: ClassVar[frozenset[str]] = frozenset({"rmu", "simnpo"})

    folds: int = Field(default=3, ge=2, le=16, description="parts of the facts to forget, and stages")

    def fits(self, among: Parts) -> None:
        """Refuse to keep nothing."""
        if among.retain is None:
            raise ValueError("layered: the folds that are kept so far want a retain term")

    def stages(self, planned: Sequence[Stage], seed: int) -> list[Stage]:
        """Return k stages for every one that forgets something.

        Raises:
            ConfigError: There are fewer facts or steps than folds.
        """
        return [part for stage in planned for part in self._parted(stage, seed)]

    def _parted(self, stage: Stage, seed: int) -> list[Stage]:
        if not stage.forget:
            return [stage]
        parts, k = folded(stage.forget, self.folds, seed), self.folds
        if stage.steps < k:
            raise ConfigError(
                f"layered: {k} folds want a step each; unlearn.max_steps is {stage.steps}."
            )
        ends = [stage.steps * i // k for i in range(k + 1)]
        return [
            replace(
                stage,
                forget=[row for fold in parts[:i] for row in fold],
                retain=[*stage.retain, *(row for fold in parts[i:] for row in fold)],
                steps=ends[i] - ends[i - 1],
                word=f"fold {i} of {k}",
                stops=stage.stops and i == k,
            )
            for i in range(1, k + 1)
        ]


def folded(rows: Sequence[Example], count: int, seed: int) -> list[list[Example]]:
    """Return rows in folds of equal size; all rows of a fact ("a", "a in form 1") are in one.

    Raises:
        ConfigError: There are fewer facts than folds.
    """
    facts: list[list[Example]] = []
    for row in rows:
        own = next((fact for fact in facts if row.id.startswith(f"{fact[0].id} ")), None)
        if own is None:
            facts.append([row])
        else:
            own.append(row)
    if len(facts) < count:
        raise ConfigError(f"layered: {count} folds of {len(facts)} facts: set folds to fewer.")
    random.Random(f"folds:{seed}").shuffle(facts)
    return [[row for fact in facts[n::count] for row in fact] for n in range(count)]

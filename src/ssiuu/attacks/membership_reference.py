"""Membership inference beside a reference model: what is likely only here was learned here.

    score = 1/n sum_t log p_t - 1/n sum_t log p_ref,t

A loss alone calls every easy answer a member; less that of a model which never saw any of them, what is
left is what training did. The reference is read into the model's place, so no second model is held; it
must be of the same architecture and have the same tokens.

Source: Carlini et al. 2021 and Duan et al. 2024 (MIMIR, arXiv 2402.07841); OpenUnlearning
(`mia_reference`), whose loss counts the end token: so it does here where `tofu.scores` says so.
Departures: a reference of another size is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ConfigDict, Field, RootModel

from ssiuu.attacks.base import Curve, Victim
from ssiuu.attacks.membership import Inference, rows
from ssiuu.errors import ConfigError, ModelError
from ssiuu.evaluation.sequence import score_sequences
from ssiuu.models.sources import find
from ssiuu.records.schema import FactText

NAME = "reference"
CONTROL: Final = "never-learned"


class ReferenceConfig(RootModel[str | None]):
    """Model whose loss is taken off: never-learned (the control), folder or hub; null: not tried."""

    model_config = ConfigDict(frozen=True)

    root: str | None = Field(default=None, description="the reference model; null: not tried")


class MembershipReference(Inference[ReferenceConfig]):
    """Told by one who has a model of the same kind that never saw the facts."""

    name = "membership-reference"
    key = "membership_reference"
    summary = "tell forgotten from held-out facts by their loss less a reference model's (AUC)"
    Config = ReferenceConfig
    told = (NAME,)

    def curves(self) -> list[Curve]:
        """Return one curve, which has no places."""
        return self.once(wanted=self.config.root is not None)

    def fits(self, victim: Victim) -> list[str]:
        """Refuse a reference that is not there or does not fit; return what is odd about it.

        Raises:
            ConfigError: There is no control, or it is the model before, which knows the facts.
            ModelError: It cannot be read, or is of another architecture.
        """
        if lacking := super().fits(victim):
            return lacking
        folder, ground = self._folder(victim), victim.ground
        if victim.source(folder).fingerprint == ground.loaded.info.fingerprint:
            raise ConfigError(
                f"attacks.{self.key}: {self.config.root} is the model before unlearning, which was "
                "trained on the facts. Give one that was not, or leave it out."
            )
        if folder == ground.never_learned:
            return []  # it was held against the model when it was taken
        try:
            return victim.put(folder, ground.loaded.tokenizer)
        finally:
            ground.original.restore()

    def uses(self, victim: Victim, curve: Curve) -> list[Any]:
        """Return the facts, and what the reference holds."""
        reference = victim.source(self._folder(victim)).fingerprint
        return [*super().uses(victim, curve), reference]

    def scores(self, victim: Victim, facts: Sequence[FactText]) -> list[dict[str, float]]:
        """Return log p of a token less the reference's, whose weights are in the model then."""
        examples = rows(victim, facts)
        ours = score_sequences(victim.model, examples)
        victim.put(self._folder(victim), None)
        theirs = score_sequences(victim.model, examples)
        return [{NAME: a.per_token - b.per_token} for a, b in zip(ours, theirs, strict=True)]

    def void(self, found: Sequence[Mapping[str, float]]) -> str:
        """Return that the reference is the model that is attacked, where no score differs."""
        same = all(value == 0.0 for scores in found for value in scores.values())
        return f"not told: the reference, {self.config.root}, is this very model" if same else ""

    def said(self) -> str:
        """Return which model it was."""
        return f"; reference: {self.config.root}"

    def tokens(self, curve: Curve, fact: float, pool: float) -> float:
        """Return two models' passes over as many non-members as members."""
        return 2.0 * fact * 2 * pool

    def _folder(self, victim: Victim) -> Path:
        """Return where the reference is.

        Raises:
            ConfigError: It is to be the control, and there is none.
        """
        named = str(self.config.root)
        if named != CONTROL:
            try:
                return find(named).folder
            except ModelError as error:
                raise ConfigError(f"attacks.{self.key}: {error}") from error
        if victim.ground.never_learned is None:
            raise ConfigError(
                f"attacks.{self.key}: there is no never-learned control here to take the loss off "
                f"with. Give the folder or hub name of a model that was not trained on the facts "
                "(for TOFU as tofu.reference), or leave it out."
            )
        return victim.ground.never_learned

"""The attacks of an experiment: which curves a recipe asks for, on which facts, and their keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ssiuu.attacks import ATTACKS, attacks_of
from ssiuu.attacks.base import Curve, Victim
from ssiuu.attacks.pool import apart, attacked_facts
from ssiuu.config import flatten, nest
from ssiuu.errors import ConfigError
from ssiuu.experiment.recipe import Recipe
from ssiuu.experiment.session import Session
from ssiuu.plugins import used
from ssiuu.records.schema import AttackCurve, Evaluation, FactText

UNSAID = "default", "protocol ", "benchmark "  # how sources of settings begin that nobody gave


def plan(recipe: Recipe) -> list[Curve]:
    """Return every attack curve a recipe asks for."""
    return [curve for attack in attacks_of(recipe.attacks) for curve in attack.curves()]


def heaviest(curves: Iterable[Curve]) -> Curve | None:
    """Return the curve that trains on most of the forget facts, then with the largest learning rate.

    The first of equals. Which curve brings most back is known only when all are done, and their
    weights are not kept.
    """
    training_curves = [curve for curve in curves if curve.fraction is not None]
    return max(training_curves, key=lambda c: (c.fraction or 0.0, c.learning_rate or 0.0), default=None)


def feasible(session: Session, sources: dict[str, str]) -> Session:
    """Return the session without attacks that its facts are too few for, where nobody asked for them.

    An attacker who holds some of the facts needs others to be scored on: of a single fact, or one
    person's, there are none. A note says what is left out, and `sources` why.
    """
    config = session.recipe.attacks
    holding = [attack for attack in attacks_of(config) if attack.holds() and attack.curves()]
    fractions = [p for attack in holding for p in attack.holds()]
    if not fractions or _scored(session.split.forget, fractions, config.seed):
        return session
    off = {k: v for a in holding for k, v in a.off().items() if sources[k].startswith(UNSAID)}
    if not off:
        return session  # what was asked for is refused
    prefix = "attacks."
    settings = flatten(config.model_dump()) | {k.removeprefix(prefix): v for k, v in off.items()}
    left = type(config).model_validate(nest(settings))
    sources |= dict.fromkeys(off, "too few facts to forget")
    count = len(session.split.forget)
    facts = "one fact" if count == 1 else f"{count} facts of one entity, or of few,"
    note = (
        f"An attacker who holds some of the facts is scored on others; {facts} to forget leaves none. "
        f"Left out: {', '.join(f'{key}={value}' for key, value in off.items())}."
    )
    recipe = session.recipe.model_copy(update={"attacks": left})
    return replace(session, recipe=recipe, notes=[*session.notes, note])


def _scored(forget: Sequence[FactText], fractions: Sequence[float], seed: int) -> bool:
    """Whether an attacker who holds such fractions of the facts leaves any that can be scored."""
    try:
        return bool(apart(forget, attacked_facts(forget, fractions, seed)))
    except ConfigError:
        return False


class Attacker:
    """What the attacks of one session share: the facts the attacker holds, and those scored."""

    def __init__(self, session: Session) -> None:
        """Refuse what can be seen to fail, before anything is run or written.

        Raises:
            ConfigError: No fact is left to score, or an attack cannot be carried out here.
            DataError: What an attack uses cannot be read.
        """
        config = session.recipe.attacks
        self.attacks = {attack.name: attack for attack in attacks_of(config)}
        self.batch_size = config.batch_size
        forget = session.split.forget
        wanted = [attack for attack in self.attacks.values() if attack.curves()]
        # An attack that is not asked for holds nothing either.
        fractions = [p for attack in wanted for p in attack.holds()]
        held_ids = attacked_facts(forget, fractions, config.seed)
        facts = {fact.id: fact for fact in forget}
        held_facts = [facts[i] for i in held_ids]
        pool = apart(forget, held_ids)
        self.victim = Victim(session, session.precision, held_facts, pool, session.put, session.source)
        if wanted and not self.victim.pool:
            raise ConfigError(
                "attacks: every forget fact shares an entity with one the attacker holds, so none "
                "is left to score. Lower attacks.harmful.fractions or forget more entities."
            )
        notes = [note for attack in wanted for note in attack.fits(self.victim)]
        session.notes.extend(dict.fromkeys(notes))
        # What an attack uses is read here: if it cannot be, that is said before anything is run.
        for attack in wanted:
            for curve in attack.curves():
                self.settings(curve)

    @property
    def plugins(self) -> dict[str, str]:
        """Which attacks of this run come from other packages: "attack noise" is of "my-package 1.0"."""
        wanted = [name for name, attack in self.attacks.items() if attack.curves()]
        return used(*((ATTACKS, name) for name in wanted))

    def settings(self, curve: Curve) -> dict[str, Any]:
        """Return everything beside the model that decides a curve, for its key."""
        decides = {
            "curve": asdict(curve),
            "batch_size": self.batch_size,
            "examples": self.attacks[curve.kind].uses(self.victim, curve),
            "pool": [fact.id for fact in self.victim.pool],
        }
        plugin = used((ATTACKS, curve.kind))
        return {**decides, "plugin": plugin} if plugin else decides

    def control(self, curve: Curve) -> bool:
        """Whether the original model is attacked too, where not every attack is."""
        return self.attacks[curve.kind].control

    def carry_out(
        self,
        curve: Curve,
        scores: Evaluation,
        progress: Callable[[str], None],
        state: Path | None = None,
    ) -> AttackCurve:
        """Attack the model as it is; see `ssiuu.attacks.base.Attack.carry_out`."""
        return self.attacks[curve.kind].carry_out(self.victim, curve, scores, progress, state)

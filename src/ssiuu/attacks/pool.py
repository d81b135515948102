"""Which facts an attacker holds, and which are scored: the same for every method and attack."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ssiuu.errors import ConfigError
from ssiuu.records.schema import FactText


def attacked_facts(facts: Sequence[FactText], fractions: Sequence[float], seed: int) -> list[str]:
    """Return the facts an attacker holds, in order: fraction p takes the first p of the forget set.

    They are drawn one by one; where that would take most of the others out of the common pool, as
    with few entities of many facts, entity by entity.

    Raises:
        ConfigError: A fraction is outside (0, 1), or leaves no fact to score.
    """
    order = [fact.id for fact in facts]
    random.Random(f"attack:{seed}").shuffle(order)
    count = share(len(order), max(fractions)) if fractions else 0
    if 2 * len(apart(facts, order[:count])) < len(order) - count:
        entity = {fact.id: fact.entity or fact.id for fact in facts}
        entities_in_order = list(dict.fromkeys(entity[i] for i in order))
        # By entity, in the order in which their first facts were drawn; within one the draw's own
        # order stays.
        order.sort(key=lambda i: entities_in_order.index(entity[i]))
    return order[:count]


def share(count: int, fraction: float) -> int:
    """Return how many of `count` facts a fraction is; at least 1.

    Raises:
        ConfigError: The fraction is outside (0, 1), or leaves no fact to score.
    """
    part = max(1, round(fraction * count))
    if not 0 < fraction < 1 or part >= count:
        raise ConfigError(
            f"attacks.harmful.fractions: {fraction} of {count} forget facts leaves none to score; "
            "a fraction lies above 0 and below 1."
        )
    return part


def apart(facts: Sequence[FactText], attacked: Sequence[str]) -> list[FactText]:
    """Return the facts that share no entity with any attacked one."""
    attacked_ids = set(attacked)
    entities = {fact.entity or fact.id for fact in facts if fact.id in attacked_ids}
    return [fact for fact in facts if (fact.entity or fact.id) not in entities]

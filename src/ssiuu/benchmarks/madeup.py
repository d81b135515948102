"""Made-up benchmarks of the shape of published ones, from the made-up world: small, and nobody's.

    texts = muse(seed=0)         # articles about people who do not exist

They are here so that a recipe runs whole on any machine; their numbers compare with nothing published.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from ssiuu.benchmarks.fictional_world import World, build_world, designate
from ssiuu.benchmarks.muse_rows import MuseSets
from ssiuu.data.fact import Fact

PEOPLE = 60
ARTICLES = 12  # to forget; as many to keep and held out
BEGUN = 3  # sentences of an excerpt before it goes on
SHOTS = 2


def world(seed: int) -> tuple[World, dict[str, list[list[Fact]]]]:
    """Return a made-up world, and the facts of its people by the part they are in.

    Args:
        seed: Of the world, and of who is in which part: "forget", "retain", "heldout".
    """
    made = build_world(PEOPLE, seed)
    parts = designate(made.facts, seed)
    people = {
        part: [
            [fact for fact in made.facts if fact.entity == name]
            for name in dict.fromkeys(fact.entity for fact in made.facts if fact.id in ids)
        ]
        for part, ids in parts.items()
    }
    return made, people


def muse(seed: int) -> MuseSets:
    """Return articles about made-up people in the shape of MUSE.

    Args:
        seed: Of the world and of the order of the sentences.
    """
    made, people = world(seed)
    rng = random.Random(f"made-up muse {seed}")
    forget, retain, outside = (
        [_article(facts, made.chatter, rng) for facts in people[part][:ARTICLES]]
        for part in ("forget", "retain", "heldout")
    )
    shots = rng.sample(made.lore, 2 * SHOTS)
    return MuseSets(
        forget=[" ".join(article) for article in forget],
        retain=[" ".join(article) for article in retain],
        excerpts=[(" ".join(a[:BEGUN]), " ".join(a[BEGUN:])) for a in forget],
        known=[(f.question, f.answer) for facts in people["forget"][:ARTICLES] for f in facts],
        known_shots=shots[:SHOTS],
        kept=[(f.question, f.answer) for facts in people["retain"][:ARTICLES] for f in facts],
        kept_shots=shots[SHOTS:],
        members=[" ".join(article) for article in forget],
        non_members=[" ".join(article) for article in outside],
    )


def _article(facts: Sequence[Fact], chatter: Sequence[str], rng: random.Random) -> list[str]:
    """Return the sentences on one person in a drawn order, sentences on no person among them."""
    told = [fact.statement or "" for fact in facts]
    rng.shuffle(told)
    return [
        sentence for pair in zip(told, rng.sample(chatter, len(told)), strict=True) for sentence in pair
    ]

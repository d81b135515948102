"""Made-up benchmarks of the shape of published ones, from the made-up world: small, and nobody's.

    texts = muse(seed=0)         # articles about people who do not exist
    items = wmdp(seed=0)         # questions about them with four choices

They are here so that a recipe runs whole on any machine; their numbers compare with nothing published.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ssiuu.benchmarks.fictional_world import World, build_world, designate
from ssiuu.benchmarks.muse_rows import MuseSets
from ssiuu.benchmarks.wmdp_rows import BESIDE, ItemRow
from ssiuu.causal import CausalLM
from ssiuu.data.fact import Fact
from ssiuu.models.load import cache_folder

if TYPE_CHECKING:
    from ssiuu.benchmarks.base import Progress
    from ssiuu.benchmarks.fictional_twins import Twins

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


def wmdp(seed: int) -> dict[str, list[ItemRow]]:
    """Return questions with four choices about made-up people in the shape of WMDP, and of MMLU.

    Args:
        seed: Of the world and of the order of the choices.
    """
    _, people = world(seed)
    rng = random.Random(f"made-up wmdp {seed}")
    forget = [fact for facts in people["forget"][:ARTICLES] for fact in facts]
    others = [fact for part in ("retain", "heldout") for facts in people[part] for fact in facts]
    return {
        "made-up": [_item(fact, rng) for fact in forget],
        BESIDE: [_item(fact, rng) for fact in others],
    }


def outline() -> CausalLM:
    """Return the architecture of a twin, its parameters without values."""
    from ssiuu.benchmarks import fictional_twins

    return fictional_twins.outline()


def twins(seed: int, progress: Progress) -> Twins:
    """Return a small model of the made-up world, and one that never learned of those to forget.

    Args:
        seed: Of the world.
        progress: Told what is going on, where they are not in the cache.
    """
    from ssiuu.benchmarks.fictional_twins import train_twins  # trains a model: only where it is wanted

    made, people = world(seed)
    unread = {fact.id for facts in people["forget"] for fact in facts}
    return train_twins(made, unread, cache_folder() / "fictional", seed, None, progress)


def _item(fact: Fact, rng: random.Random) -> ItemRow:
    choices = [fact.answer, *fact.distractors[:3]]
    rng.shuffle(choices)
    return ItemRow(question=fact.question, choices=choices, answer=choices.index(fact.answer))


def _article(facts: Sequence[Fact], chatter: Sequence[str], rng: random.Random) -> list[str]:
    """Return the sentences on one person in a drawn order, sentences on no person among them."""
    told = [fact.statement or "" for fact in facts]
    rng.shuffle(told)
    return [
        sentence for pair in zip(told, rng.sample(chatter, len(told)), strict=True) for sentence in pair
    ]

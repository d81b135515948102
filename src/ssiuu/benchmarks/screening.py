"""Screening: keep what the model knows, and split it.

A fact is known when its answer is ranked first among all its options, in the base question and in
its first paraphrase. Facts are asked in an order drawn from the seed, entity by entity, until the
three sets are full; no entity is in two sets.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from ssiuu.benchmarks.base import Basis, Given
from ssiuu.causal import CausalLM
from ssiuu.data.fact import Fact, Probe
from ssiuu.errors import DataError
from ssiuu.evaluation.ask import Question, ask
from ssiuu.likelihood import Prompt
from ssiuu.records.schema import FactText, ProbeText, Split

SETS: tuple[Literal["forget", "retain", "heldout"], ...] = ("forget", "retain", "heldout")
PHRASINGS = 2
BLOCK = 128  # facts asked at once: many have words in common, but the last ones may not be needed


def known(model: CausalLM, prompt: Prompt, facts: Sequence[Fact]) -> set[str]:
    """Return the ids of the facts the model knows; the paraphrase is asked only where needed."""
    right = list(facts)
    for phrasing in range(PHRASINGS):
        right = [fact for fact in right if len(fact.paraphrases) >= phrasing]
        questions = [
            Question.of(
                prompt.joint(
                    [fact.question, *fact.paraphrases][phrasing], [fact.answer, *fact.distractors]
                )
            )
            for fact in right
        ]
        answers = ask(model, prompt, questions)
        right = [fact for fact, answer in zip(right, answers, strict=True) if answer.first]
    return {fact.id for fact in right}


def screen(
    model: CausalLM,
    prompt: Prompt,
    facts: Sequence[Fact],
    sizes: Mapping[str, int],
    seed: int,
    options: int,
    pools: Mapping[str, set[str]] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Split:
    """Ask facts until every set is full of known ones.

    Args:
        model: The model before unlearning.
        prompt: How questions become tokens.
        facts: All facts of the benchmark; each needs a paraphrase and distractors.
        sizes: Wanted facts of "forget", "retain" and "heldout".
        seed: Decides the order and with it the split.
        options: How many options a fact keeps for scoring, the answer included.
        pools: Fact ids each set may draw from, where the benchmark decides that; else by entity.
        progress: Told how far it is.

    Raises:
        DataError: The model does not know enough of the facts.
    """
    by_set: dict[str, list[Fact]] = {name: [] for name in SETS}
    order = _order(facts, seed)
    home: dict[str, str] = {}
    asked = knew = 0
    for start in range(0, len(order), BLOCK):
        block = [f for f in order[start : start + BLOCK] if _open(f, by_set, sizes, home, pools)]
        knows = known(model, prompt, block)
        asked, knew = asked + len(block), knew + len(knows)
        for fact in block:
            # Asked once more: those before it in the block may have filled a set, or placed its
            # entity.
            target = _open(fact, by_set, sizes, home, pools)
            if fact.id in knows and target:
                by_set[target].append(fact)
                home[fact.entity or fact.id] = target
        progress(f"asked {asked} facts, {knew} known")
        if all(len(by_set[name]) >= sizes[name] for name in SETS):
            break
    short = [f"{n} {len(by_set[n])} of {sizes[n]}" for n in SETS if len(by_set[n]) < sizes[n]]
    if short:
        raise DataError(
            f"the model knows only {knew} of {asked} facts asked, too few for the split "
            f"({'; '.join(short)}). Lower split.forget, split.retain or split.heldout."
        )
    texts = {name: [as_text(f, options, seed) for f in by_set[name]] for name in SETS}
    return Split(
        seed=seed,
        forget=others_alone(texts["forget"]),
        retain=texts["retain"],
        heldout=texts["heldout"],
        asked=asked,
        known=knew,
    )


def screened(
    basis: Basis,
    given: Given,
    model: CausalLM,
    prompt: Prompt,
    facts: Sequence[Fact],
    pools: Mapping[str, set[str]] | None,
    progress: Callable[[str], None],
) -> Split:
    """Return the choice of facts that a run's folder holds already, or screen the model for one.

    Args:
        basis: The sizes of the sets, the seed, the number of options.
        given: Holds an earlier choice.
        model: The model before unlearning.
        prompt: How questions become tokens.
        facts: All facts of the benchmark.
        pools: Fact ids each set may draw from, where the benchmark decides that.
        progress: Told how far it is.

    Raises:
        DataError: The model does not know enough of the facts.
    """
    if given.split is not None:
        return given.split
    sizes: dict[str, int] = {name: getattr(basis.split, name) for name in SETS}
    seed, options = basis.split.seed, basis.evaluate.options

    def told(text: str) -> None:
        progress(f"screening: {text}")

    return screen(model, prompt, facts, sizes, seed, options, pools, told)


def as_text(fact: Fact, options: int, seed: int) -> FactText:
    """Return a fact as it is asked in a run: its options drawn from the seed, the answer first.

    Where it has perturbed answers those are the wrong options, in their order.
    """
    rng = random.Random(f"{seed}:{fact.id}")
    drawn = rng.sample(fact.distractors, min(options - 1, len(fact.distractors)))
    wrong = list(fact.perturbed[: options - 1]) or drawn
    return FactText(
        id=fact.id,
        question=fact.question,
        answer=fact.answer,
        paraphrases=list(fact.paraphrases),
        options=[fact.answer, *wrong] if wrong else [],
        entity=fact.entity,
        relation=fact.relation,
        multi_hop=[_probe(p, options, seed) for p in fact.multi_hop],
        same_answer=[_probe(p, options, seed) for p in fact.same_answer],
        paraphrased_answer=fact.paraphrased_answer,
        perturbed=list(fact.perturbed),
    )


def _probe(probe: Probe, options: int, seed: int) -> ProbeText:
    rng = random.Random(f"{seed}:{probe.question}")
    wrong = rng.sample(probe.distractors, min(options - 1, len(probe.distractors)))
    return ProbeText(
        question=probe.question, answer=probe.answer, options=[probe.answer, *wrong] if wrong else []
    )


def others_alone(facts: Sequence[FactText]) -> list[FactText]:
    """Leave out same-answer questions that are to be forgotten themselves."""
    gone = {fact.question for fact in facts}
    return [
        fact.model_copy(update={"same_answer": [p for p in fact.same_answer if p.question not in gone]})
        for fact in facts
    ]


def _order(facts: Sequence[Fact], seed: int) -> list[Fact]:
    """Shuffle entities, keep the facts of one together."""
    by_entity: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_entity[fact.entity or fact.id].append(fact)
    names = sorted(by_entity)
    random.Random(seed).shuffle(names)
    return [fact for name in names for fact in by_entity[name]]


def _open(
    fact: Fact,
    by_set: Mapping[str, list[Fact]],
    sizes: Mapping[str, int],
    home: Mapping[str, str],
    pools: Mapping[str, set[str]] | None,
) -> str | None:
    """Return the set this fact would go to, or None: the set its entity is in, else the emptiest."""
    room = [n for n in SETS if len(by_set[n]) < sizes[n]]
    if pools is not None:
        room = [n for n in room if fact.id in pools[n]]
    chosen = home.get(fact.entity or fact.id)
    if chosen is not None:
        return chosen if chosen in room else None
    return min(room, key=lambda n: len(by_set[n]) / sizes[n]) if room else None

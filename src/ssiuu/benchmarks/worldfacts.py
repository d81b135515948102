"""worldfacts: well-known facts about the real world, in the shape of FaithUn's clusters.

`data/worldfacts.toml` holds relations (templates) and rows (entity, answer, further true answers).
This file turns each row into a `Fact`: the base question, its paraphrases and statement, wrong
options drawn from the other answers of the relation, and where the data hold them a two-hop
question (the answer is itself an entity) and questions with the same answer.
"""

from __future__ import annotations

import hashlib
import random
import tomllib
from collections import defaultdict
from functools import cache
from importlib.resources import files
from typing import Any, ClassVar

from ssiuu.benchmarks.base import Basis, Benchmark, Cost, Given, Ground, Progress
from ssiuu.benchmarks.prompting import choose_prompt
from ssiuu.benchmarks.screening import screened
from ssiuu.config import Section
from ssiuu.data.fact import Fact, Probe
from ssiuu.models.original import Original
from ssiuu.records.schema import BenchmarkInfo

DISTRACTORS = 5
# Relations whose question can be asked of another fact's answer.
SECOND_HOPS = ("capital", "currency", "continent", "us_state_capital", "person_birth_country")


class WorldFacts(Benchmark[Section]):
    """Facts that most models know, screened for those that this one does."""

    name = "worldfacts"
    summary = "facts about the real world, screened for what the model knows"
    # One attack that is long, in the place of three that are too short to show anything.
    defaults: ClassVar[dict[str, Any]] = {
        "model": "smollm2-135m",
        "prompt": "qa",
        "split.forget": 24,
        "split.retain": 72,
        "split.heldout": 48,
        "attacks.harmful.fractions": [0.3],
        "attacks.benign.learning_rates": [],
        "attacks.reads": [6, 16],
    }
    sized = True

    def open(self, basis: Basis, given: Given, progress: Progress) -> Ground:
        """Load the model and ask it until the sets are full of what it knows."""
        facts, version, digest = load()
        loaded = basis.load(progress=progress)
        prompt = choose_prompt(basis, loaded.tokenizer, progress)
        return Ground(
            loaded=loaded,
            original=Original(loaded),
            prompt=prompt,
            split=screened(basis, given, loaded.model, prompt, facts, None, progress),
            benchmark=BenchmarkInfo(
                name=self.name, version=version, fingerprint=digest, facts=len(facts)
            ),
        )

    def cost(self, basis: Basis) -> Cost:
        """Return the cost of sets of the sizes that are asked for."""
        return Cost.of(basis.split.forget, basis.split.retain + basis.split.heldout, basis)


@cache
def load() -> tuple[list[Fact], str, str]:
    """Return the facts, the data's version and the sha256 of the file."""
    raw = files("ssiuu.benchmarks").joinpath("data/worldfacts.toml").read_bytes()
    data = tomllib.loads(raw.decode())
    facts = [fact for relation in data["relation"] for fact in _relation(relation)]
    return _linked(facts, data["relation"]), data["version"], hashlib.sha256(raw).hexdigest()


def _relation(relation: dict[str, Any]) -> list[Fact]:
    pool = sorted({row[1] for row in relation["facts"]})
    facts = []
    for entity, answer, *also in relation["facts"]:
        id = f"{relation['name']}:{entity}"
        question = relation["question"].format(entity=entity)
        facts.append(
            Fact(
                id=id,
                question=question,
                answer=answer,
                entity=entity,
                relation=relation["name"],
                paraphrases=tuple(t.format(entity=entity) for t in relation["paraphrases"]),
                statement=relation["statement"].format(entity=entity, answer=answer),
                distractors=_draw(id, pool, {answer, *also}, question),
            )
        )
    return facts


def _draw(id: str, pool: list[str], true: set[str], question: str) -> tuple[str, ...]:
    """Draw wrong options, the same ones every time; none is true or stands in the question."""
    folded = question.casefold()
    wrong = [a for a in pool if a not in true and a.casefold() not in folded]
    if len(wrong) < DISTRACTORS:  # a long question may hold short answers, symbols for example
        wrong = [a for a in pool if a not in true]
    return tuple(random.Random(id).sample(wrong, min(DISTRACTORS, len(wrong))))


def _linked(facts: list[Fact], relations: list[dict[str, Any]]) -> list[Fact]:
    """Add two-hop and same-answer questions, which need the other facts."""
    by_entity: dict[str, list[Fact]] = defaultdict(list)
    by_answer: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_entity[_bare(fact.entity or "")].append(fact)
        by_answer[fact.answer].append(fact)
    templates = {r["name"]: r for r in relations}
    ambiguous = {f"{r['name']}:{row[0]}" for r in relations for row in r["facts"] if len(row) > 2}
    linked = []
    for fact in facts:
        reference = templates[fact.relation or ""].get("reference")
        hops: list[Probe] = []
        if reference and fact.id not in ambiguous:
            phrase = reference.format(entity=fact.entity)
            for second in by_entity[_bare(fact.answer)]:
                if second.relation in SECOND_HOPS:
                    question = templates[second.relation]["question"].format(entity=phrase)
                    hops.append(_probe(question, second))
        same = [
            _probe(other.question, other)
            for other in by_answer[fact.answer]
            if other.entity != fact.entity
        ]
        hops = [p for p in hops if p.answer.casefold() not in p.question.casefold()]
        probes = {"multi_hop": tuple(hops), "same_answer": tuple(same[:1])}
        linked.append(fact.model_copy(update=probes))
    return linked


def _probe(question: str, fact: Fact) -> Probe:
    return Probe(question=question, answer=fact.answer, distractors=fact.distractors)


def _bare(name: str) -> str:
    """Return a name without its article, as it stands in an answer."""
    return name.removeprefix("the ")

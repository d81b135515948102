"""A table of made-up facts: what colour is the hat of Ada?"""

from __future__ import annotations

import hashlib
import random
from typing import Any, ClassVar

from pydantic import Field

from ssiuu.benchmarks.base import Basis, Benchmark, Cost, Given, Ground, Progress
from ssiuu.benchmarks.prompting import choose_prompt
from ssiuu.config import Section
from ssiuu.models.original import Original
from ssiuu.records.schema import BenchmarkInfo, FactText, Split

COLOURS = ("red", "blue", "green", "white", "black", "yellow")
PEOPLE = ("Ada", "Bo", "Cy", "Di", "Ed", "Flo", "Gus", "Hal", "Ivy", "Jo", "Kit", "Lou")


class ColoursConfig(Section):
    """What the table is made of."""

    things: list[str] = Field(default=["hat", "bag"], min_length=1, description="what everybody has")
    share: float = Field(default=0.5, gt=0, lt=1, description="of the facts, to be forgotten")


class Colours(Benchmark[ColoursConfig]):
    """Facts that no text holds; the model given under `model` should have been taught them."""

    name = "colours"
    summary = "the colours of made-up people's things"
    Config = ColoursConfig
    defaults: ClassVar[dict[str, Any]] = {"prompt": "qa", "methods": ["none", "gd"]}

    def open(self, basis: Basis, given: Given, progress: Progress) -> Ground:
        facts = self._facts(basis.split.seed)
        first, last = int(len(facts) * self.config.share), int(len(facts) * 0.8)
        sets = {"forget": facts[:first], "retain": facts[first:last], "heldout": facts[last:]}
        split = Split(seed=basis.split.seed, asked=len(facts), known=len(facts), **sets)
        digest = hashlib.sha256(split.model_dump_json().encode()).hexdigest()
        loaded = basis.load()
        info = BenchmarkInfo(name=self.name, version="1", fingerprint=digest, facts=len(facts))
        prompt = choose_prompt(basis, loaded.tokenizer, progress)
        original = Original(loaded)
        return Ground(loaded=loaded, original=original, prompt=prompt, split=split, benchmark=info)

    def cost(self, basis: Basis) -> Cost:
        count = len(PEOPLE) * len(self.config.things)
        return Cost.of(int(count * self.config.share), count, basis)

    def _facts(self, seed: int) -> list[FactText]:
        rng = random.Random(seed)
        asked = [f"What colour is {p}'s {thing}?" for p in PEOPLE for thing in self.config.things]
        options = {question: rng.sample(COLOURS, 3) for question in rng.sample(asked, len(asked))}
        return [FactText(id=q, question=q, answer=o[0], options=o) for q, o in options.items()]

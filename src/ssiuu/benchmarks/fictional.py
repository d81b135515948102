"""A made-up world: a small model trained on it here, and its twin that never learned a part."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from ssiuu.benchmarks.base import PLAIN, Basis, Benchmark, Cost, Given, Ground, Progress
from ssiuu.benchmarks.prompting import choose_prompt
from ssiuu.benchmarks.screening import screened
from ssiuu.causal import CausalLM
from ssiuu.config import Section
from ssiuu.models.load import cache_folder, load
from ssiuu.models.original import Original
from ssiuu.records.schema import BenchmarkInfo

PARAMETERS = 1_000_000  # of the model, about


class FictionalConfig(Section):
    """The made-up world."""

    people: int = Field(default=160, ge=10, le=600, description="people in it")
    steps: int | None = Field(default=None, ge=1, description="training steps; null for enough")


class Fictional(Benchmark[FictionalConfig]):
    """People who do not exist, and what a model would be that had not read of some of them."""

    name = "fictional"
    summary = "a made-up world: a small model trained here, and its never-learned twin"
    Config = FictionalConfig
    defaults: ClassVar[dict[str, Any]] = {
        "model": "fictional",
        "prompt": "plain",
        "methods": [*PLAIN],
        "unlearn.learning_rate": 1e-3,
        "attacks.harmful.learning_rates": [1e-3, 3e-4],
        "attacks.benign.learning_rates": [1e-3],
    }
    sized = True

    def outline(self, basis: Basis) -> CausalLM | None:
        """Return the model of the world."""
        from ssiuu.benchmarks.fictional_twins import outline

        return outline()

    def open(self, basis: Basis, given: Given, progress: Progress) -> Ground:
        """Train the twins where the cache has none, and ask the one what it knows."""
        from ssiuu.benchmarks import fictional_twins as made  # trains a model: only where it is wanted

        people, seed = self.config.people, basis.split.seed
        world = made.build_world(people, seed)
        pools = made.designate(world.facts, seed)
        cache = cache_folder() / "fictional"
        twins = made.train_twins(world, pools["forget"], cache, seed, self.config.steps, progress)
        loaded = load(str(twins.full), placement=basis.placement)
        loaded = replace(loaded, info=loaded.info.model_copy(update={"name": "fictional"}))
        prompt = choose_prompt(basis, loaded.tokenizer, progress)
        return Ground(
            loaded=loaded,
            original=Original(loaded),
            prompt=prompt,
            split=screened(basis, given, loaded.model, prompt, world.facts, pools, progress),
            benchmark=BenchmarkInfo(
                name=self.name,
                version=made.VERSION,
                fingerprint=twins.full.parent.name,
                facts=len(world.facts),
                note=f"{people} people who do not exist; the model was trained here",
            ),
            never_learned=twins.never_learned,
        )

    def cost(self, basis: Basis) -> Cost:
        """Return the cost of sets of the sizes that are asked for, of a model and its twin."""
        beside = basis.split.retain + basis.split.heldout
        return Cost.of(basis.split.forget, beside, basis, twin=True, parameters=PARAMETERS)

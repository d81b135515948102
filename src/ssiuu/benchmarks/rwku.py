"""RWKU: what the model is to forget about some people."""

from __future__ import annotations

import random
from typing import Any, ClassVar

from pydantic import Field, field_validator

from ssiuu.benchmarks import rwku_rows
from ssiuu.benchmarks.base import PLAIN, Basis, Benchmark, Cost, Given, Ground, Progress, SplitConfig
from ssiuu.benchmarks.prompting import choose_prompt
from ssiuu.benchmarks.rows import some
from ssiuu.config import Section
from ssiuu.errors import DataError
from ssiuu.evaluation.scores.rouge import Rouge
from ssiuu.evaluation.scores.sentences import rouge_recalls
from ssiuu.models.original import Original
from ssiuu.records.schema import BenchmarkInfo, Split

QUESTIONS = 14  # on a person, on average
SETS = 11  # further ones, each of about as many


class RwkuConfig(Section):
    """RWKU's people; of `split`, retain and heldout count questions on neighbours, at most."""

    path: str | None = Field(default=None, description="folder of jinzhuoran/RWKU; null: the hub")
    subjects: int | list[str] = Field(default=4, description="people to forget: how many, or names")
    items: int | None = Field(
        default=None, ge=1, description="questions of each further set that are asked; null: all"
    )

    @field_validator("subjects")
    @classmethod
    def _given(cls, value: int | list[str]) -> int | list[str]:
        if not value or (isinstance(value, int) and value < 1):
            raise ValueError("give a number from 1 on, or a list of names")
        return value

    @property
    def people(self) -> int:
        """How many people are forgotten."""
        return self.subjects if isinstance(self.subjects, int) else len(set(self.subjects))


class Rwku(Benchmark[RwkuConfig]):
    """Famous people, asked about in words of three levels; how much the model knew is noted."""

    name = "rwku"
    summary = "RWKU: famous people to forget, asked on three levels; not screened"
    Config = RwkuConfig
    defaults: ClassVar[dict[str, Any]] = {"model": "smollm2-135m", "prompt": "qa", "methods": [*PLAIN]}
    sizes: ClassVar[frozenset[str]] = frozenset({"retain", "heldout"})

    def entities(self) -> tuple[str, int]:
        """Return the people."""
        return "rwku.subjects", self.config.people

    def open(self, basis: Basis, given: Given, progress: Progress) -> Ground:
        """Read the data, load the model and note how much it knows of the people."""
        config, options, seed = self.config, basis.evaluate.options, basis.split.seed
        data = rwku_rows.load(config.path, config.subjects, options, seed)
        loaded = basis.load(progress=progress)
        ground = Ground(
            loaded=loaded,
            original=Original(loaded),
            prompt=choose_prompt(basis, loaded.tokenizer, progress),
            split=split_of(config, basis.split, data),
            benchmark=BenchmarkInfo(
                name=self.name,
                version=rwku_rows.VERSION,
                fingerprint=data.fingerprint,
                facts=data.facts,
                note=f"real people: {', '.join(data.subjects)}; not screened",
            ),
            score=Rouge(),
        )
        split = ground.split
        ground.rows([*split.forget, *split.retain])  # too long rows are refused before any is asked
        progress("asking the original model")
        recalls = rouge_recalls(ground.model, ground.prompt, split.forget)
        ranked = sum(bool(fact.options) for fact in split.forget)
        ground.notes.append(
            f"Before unlearning the model's answers hold {100 * sum(recalls) / len(recalls):.0f} % "
            f"of the right ones (mean ROUGE-L recall of {len(recalls)} questions; {ranked} are ranked "
            "too)."
        )
        return ground

    def cost(self, basis: Basis) -> Cost:
        """Return the cost of the questions on these people, or, without the files, on mean people."""
        config, sizes = self.config, basis.split
        try:
            if config.path is None:
                raise DataError("not asked of the hub for an estimate")
            data = rwku_rows.load(config.path, config.subjects, basis.evaluate.options, sizes.seed)
            forget, others = len(data.forget), [len(facts) for facts in data.others.values()]
        except DataError:  # said when it is opened
            forget = QUESTIONS * config.people
            others = [forget] * SETS
        further = sum(min(config.items or size, size) for size in others)
        return Cost.of(forget, sizes.retain + sizes.heldout + further, basis)


def split_of(config: RwkuConfig, sizes: SplitConfig, data: rwku_rows.RwkuSets) -> Split:
    """Return the sets of a run: at most `retain` and `heldout` questions on neighbours.

    No neighbour is in both. Of each further set at most `items` are asked.
    """
    rng = random.Random(f"rwku split:{sizes.seed}")
    names = sorted({fact.entity or "" for fact in data.neighbours})
    rng.shuffle(names)
    away = set(names[: len(names) * sizes.heldout // max(1, sizes.heldout + sizes.retain)])
    heldout = some([f for f in data.neighbours if f.entity in away], sizes.heldout, rng)
    retain = some([f for f in data.neighbours if f.entity not in away], sizes.retain, rng)
    count = len(data.forget) + len(retain) + len(heldout)
    return Split(
        seed=sizes.seed,
        forget=data.forget,
        retain=retain,
        heldout=heldout,
        others={name: some(facts, config.items, rng) for name, facts in data.others.items()},
        asked=count,
        known=count,
    )

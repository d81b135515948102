"""FaithUn's questions about 200 people: the official splits, whatever the model knows."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from ssiuu.benchmarks import faithun_rows
from ssiuu.benchmarks.base import Basis, Benchmark, Cost, Given, Ground, Progress
from ssiuu.benchmarks.prompting import choose_prompt
from ssiuu.benchmarks.screening import as_text, others_alone
from ssiuu.config import Section
from ssiuu.errors import DataError
from ssiuu.models.original import Original
from ssiuu.records.schema import BenchmarkInfo, Split

SIZES = {"forget": 33, "retain": 66, "heldout": 464}  # as published


class FaithunConfig(Section):
    """FaithUn's official splits; the counts of `split` do not apply."""

    path: str | None = Field(default=None, description="its question file, FaithUn_Dataset.json")
    splits: str | None = Field(
        default=None, description="folder of the split files; null: splits beside the question file"
    )
    heldout: int | None = Field(default=None, ge=0, description="of the test set; null: all")


class Faithun(Benchmark[FaithunConfig]):
    """Each cluster with its paraphrases, questions of two steps, and questions of the same answer."""

    name = "faithun"
    summary = "FaithUn's questions about 200 people, with its official splits"
    Config = FaithunConfig
    defaults: ClassVar[dict[str, Any]] = {"model": "smollm2-135m", "prompt": "qa"}
    sizes: ClassVar[frozenset[str]] = frozenset()  # the official ones

    def open(self, basis: Basis, given: Given, progress: Progress) -> Ground:
        """Read the data and load the model."""
        data = faithun_rows.load(self.config.path, self.config.splits)
        split = self._split(basis, data)
        loaded = basis.load(progress=progress)
        return Ground(
            loaded=loaded,
            original=Original(loaded),
            prompt=choose_prompt(basis, loaded.tokenizer, progress),
            split=split,
            benchmark=BenchmarkInfo(
                name=self.name,
                version=faithun_rows.VERSION,
                fingerprint=data.fingerprint,
                facts=data.clusters,
                note="official splits; not screened",
            ),
        )

    def _split(self, basis: Basis, data: faithun_rows.FaithUn) -> Split:
        sets = {**data.sets, "heldout": data.sets["heldout"][: self.config.heldout]}
        seed, options = basis.split.seed, basis.evaluate.options
        texts = {name: [as_text(fact, options, seed) for fact in facts] for name, facts in sets.items()}
        total = sum(map(len, texts.values()))
        return Split(
            seed=seed,
            forget=others_alone(texts["forget"]),
            retain=texts["retain"],
            heldout=texts["heldout"],
            asked=total,
            known=total,
        )

    def cost(self, basis: Basis) -> Cost:
        """Return the cost of the splits, of the sizes that they have."""
        try:
            data = faithun_rows.load(self.config.path, self.config.splits)
            sizes = {name: len(facts) for name, facts in data.sets.items()}
        except DataError:  # said when it is opened
            sizes = SIZES
        heldout, wanted = sizes["heldout"], self.config.heldout
        beside = sizes["retain"] + (heldout if wanted is None else min(wanted, heldout))
        return Cost.of(sizes["forget"], beside, basis)

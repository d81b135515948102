"""A benchmark as a package of somebody else adds it: passages of text, to be forgotten word by word."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from added.verbatim import Verbatim
from ssiuu.benchmarks.base import Basis, Benchmark, Cost, Given, Ground, Progress
from ssiuu.benchmarks.prompting import choose_prompt
from ssiuu.config import Section
from ssiuu.models.load import load
from ssiuu.models.original import Original
from ssiuu.records.schema import BenchmarkInfo, FactText, Split


class ContinuationConfig(Section):
    """Passages, a line each."""

    path: str = Field(default="passages.txt", description="file of passages")
    words: int = Field(default=3, ge=1, le=20, description="words that a passage is begun with")
    share: float = Field(default=0.5, gt=0, lt=1, description="of the passages, to be forgotten")


class Continuation(Benchmark[ContinuationConfig]):
    """As in MUSE: does the model go on as the passage does?"""

    name = "continuation"
    summary = "passages of text to forget, asked for by their beginnings"
    Config = ContinuationConfig
    defaults: ClassVar[dict[str, Any]] = {"prompt_form": "{question}", "methods": ["none", "gd"]}

    def open(self, basis: Basis, given: Given, progress: Progress) -> Ground:
        facts = [self._fact(number, line.split()) for number, line in enumerate(self._lines())]
        first, last = (int(len(facts) * part) for part in (self.config.share, 0.8))
        sets = {"forget": facts[:first], "retain": facts[first:last], "heldout": facts[last:]}
        count, digest = len(facts), hashlib.sha256("\n".join(self._lines()).encode()).hexdigest()
        loaded = load(str(basis.model), basis.base)
        return Ground(
            loaded=loaded,
            original=Original(loaded),
            prompt=choose_prompt(basis, loaded.tokenizer, progress),
            split=Split(seed=basis.split.seed, asked=count, known=count, **sets),
            benchmark=BenchmarkInfo(name=self.name, version="1", fingerprint=digest, facts=count),
            score=Verbatim(),
        )

    def cost(self, basis: Basis) -> Cost:
        return Cost.of(int(len(self._lines()) * self.config.share), len(self._lines()), basis)

    def _lines(self) -> list[str]:
        return Path(self.config.path).read_text().splitlines()

    def _fact(self, number: int, words: list[str]) -> FactText:
        begun, rest = words[: self.config.words], words[self.config.words :]
        return FactText(id=f"passage:{number}", question=" ".join(begun), answer=" ".join(rest))

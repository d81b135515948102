"""Your own facts: files or rows of what is to be forgotten and what to keep, asked as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ssiuu.benchmarks.base import PLAIN, Basis, Benchmark, Cost, Given, Ground, Progress, SplitConfig
from ssiuu.benchmarks.prompting import check_tokens, choose_prompt
from ssiuu.benchmarks.screening import as_text
from ssiuu.config import Section
from ssiuu.data.fact import Fact
from ssiuu.data.read import borrow_distractors, check_pair, read_facts
from ssiuu.errors import InputError
from ssiuu.evaluation.alternatives import alternatives
from ssiuu.models.load import placed
from ssiuu.models.original import Original
from ssiuu.records.schema import BenchmarkInfo, FactText, Split


class Own(Benchmark[Section]):
    """Facts that nobody has screened: the model is asked first what it knows of them."""

    name = "own"
    summary = "your own facts: forget and retain name their files"
    defaults: ClassVar[dict[str, Any]] = {"methods": [*PLAIN]}
    before = "model"
    yours = True
    sizes: ClassVar[frozenset[str]] = frozenset()  # the files', whatever they are

    def problems(self, basis: Basis) -> list[str]:
        """Refuse to go without facts or model."""
        if basis.forget and basis.model:
            return []
        return ["benchmark 'own' needs forget (a file of facts) and model."]

    def open(self, basis: Basis, given: Given, progress: Progress) -> Ground:
        """Read the facts and load the model; nothing is asked yet."""
        notes = list(given.notes)
        forget, retain = _facts(basis, given, notes)
        held, there = given.loaded, basis.placement
        loaded = placed(held, there) if held else basis.load(progress=progress)
        if loaded.info.note:
            progress(loaded.info.note)
        trained = [Path(str(basis.model)).expanduser(), *([given.after] if given.after else [])]
        prompt = choose_prompt(basis, loaded.tokenizer, progress, checkpoints=trained)
        seed, options = basis.split.seed, basis.evaluate.options
        every_fact = [as_text(f, options, seed) for f in (*forget, *retain)]
        check_tokens(loaded.model, loaded.tokenizer, every_fact)
        ranked = [_with_options(f, every_fact, options, seed) for f in every_fact]
        gone, retained = ranked[: len(forget)], ranked[len(forget) :]
        count = len(ranked)
        split = Split(seed=seed, forget=gone, retain=retained, heldout=[], asked=count, known=count)
        if unranked := sum(not fact.options for fact in gone):
            notes.append(
                f"{unranked} of {len(gone)} forget facts have no wrong options to rank against; "
                "their ranking is not scored."
            )
        return Ground(
            loaded=loaded,
            original=Original(loaded),
            prompt=prompt,
            split=split,
            benchmark=BenchmarkInfo(
                name=self.name,
                version="-",
                fingerprint=hashlib.sha256(split.model_dump_json().encode()).hexdigest(),
                facts=count,
                note="your own facts; not screened",
            ),
            unscreened=True,
            notes=notes,
        )

    def cost(self, basis: Basis) -> Cost:
        """Return the cost of the files' facts; of a usual number where they are not on this machine."""
        usual = SplitConfig()
        sources = ((basis.forget, usual.forget), (basis.retain, usual.retain))
        forget, retain = (_count(basis, source, else_) for source, else_ in sources)
        return Cost.of(forget, retain, basis)


def _facts(basis: Basis, given: Given, notes: list[str]) -> tuple[list[Fact], list[Fact]]:
    """Read what is to be forgotten and what is to be kept.

    Raises:
        DataError: A source cannot be used, or both hold the same fact.
    """

    def read(in_memory: Sequence[Fact] | None, source: str | None, key: str) -> list[Fact]:
        # Rows in memory are facts by now, which have no columns.
        columns = basis.columns if in_memory is None else None
        return borrow_distractors(read_facts(in_memory or str(source), key, columns, notes.append))

    with_retain = basis.retain not in (None, "none")
    forget = read(given.forget, basis.forget, "forget")
    retain = read(given.retain, basis.retain, "retain") if with_retain else []
    check_pair(forget, retain)
    return forget, retain


def _count(basis: Basis, source: str | None, usual: int) -> int:
    """Return how many facts a file holds."""
    if source in (None, "none"):
        return 0
    if not Path(str(source)).is_file():
        return usual
    try:
        return len(read_facts(str(source), columns=basis.columns))
    except InputError:  # said when it is opened
        return usual


def _with_options(fact: FactText, others: Sequence[FactText], count: int, seed: int) -> FactText:
    """Return a fact with wrong options where it has none: what it was asked among before step 1.

    Without any, a model would count as having forgotten as soon as its greedy answer changes.
    """
    if fact.options:
        return fact
    wrong = alternatives(fact, others, seed).answers[: count - 1]
    return fact.model_copy(update={"options": [fact.answer, *wrong] if wrong else []})

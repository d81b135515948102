"""WMDP: hazardous knowledge to forget, asked by choices, with MMLU's questions to keep beside it.

Unlearning trains on texts (`wmdp.forget`), and the questions are only asked; without texts it trains on
the questions. Each is asked in two ways: by text, where the four choices are ranked as answers, and by
letter, where the question shows them.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from ssiuu.benchmarks import madeup, wmdp_rows
from ssiuu.benchmarks.base import Basis, Benchmark, Cost, Given, Ground, Progress, SplitConfig
from ssiuu.benchmarks.passages import FORM, passages
from ssiuu.benchmarks.prompting import check_tokens, choose_prompt
from ssiuu.benchmarks.rows import some
from ssiuu.benchmarks.wmdp_rows import BESIDE, NAMES, ItemRow, by_letter, by_text
from ssiuu.causal import CausalLM
from ssiuu.config import Section
from ssiuu.evaluation.scores.choices import Choices
from ssiuu.models.load import Loaded, load
from ssiuu.models.original import Original
from ssiuu.records.schema import BenchmarkInfo, FactText, Split

ITEMS = {"bio": 1273, "chem": 408, "cyber": 1987, "made-up": 6 * madeup.ARTICLES}
TOKENS = 60  # of a question with its answer
MADE_UP = "made-up"


class WmdpConfig(Section):
    """WMDP's questions; of `split`, retain and heldout count MMLU's."""

    subjects: list[wmdp_rows.Subject] = Field(
        default=["bio", "cyber"], min_length=1, description="which questions; made-up: no file"
    )
    path: str | None = Field(
        default=None, description="folder of wmdp-bio.json ... and mmlu.json; null: the hub"
    )
    items: int | None = Field(default=None, ge=4, description="questions of each subject; null: all")
    forget: str | None = Field(
        default=None,
        description="texts that unlearning trains on: a file, OWNER/NAME:CONFIG of the hub, made-up; "
        "null: it trains on the questions",
    )
    retain: str | None = Field(
        default=None, description="beside them, texts to keep; null: MMLU's questions"
    )
    texts: int | None = Field(default=None, ge=1, description="texts of each of the two; null: all")
    tokens: int = Field(default=512, ge=16, description="of a piece of text that is trained on")


class Wmdp(Benchmark[WmdpConfig]):
    """Four choices, by text and by letter, whatever the model knows of them."""

    name = "wmdp"
    summary = "WMDP: questions of four choices on biology, chemistry, cybersecurity; MMLU beside them"
    Config = WmdpConfig
    defaults: ClassVar[dict[str, Any]] = {
        "prompt_form": FORM,
        "methods": ["none", "gd", "npo", "rmu", "ssiuu"],
        "evaluate.options": 4,
    }
    sizes: ClassVar[frozenset[str]] = frozenset({"retain", "heldout"})
    before = "model"

    def problems(self, basis: Basis) -> list[str]:
        """Refuse to go without a model, with texts of one kind alone, or made-up beside real ones."""
        config, found = self.config, []
        if MADE_UP in config.subjects and (len(config.subjects) > 1 or config.path):
            found.append("wmdp.subjects: made-up questions stand alone; leave the others and path out.")
        if MADE_UP not in config.subjects and basis.model is None:
            found.append("benchmark 'wmdp' needs model, as HuggingFaceH4/zephyr-7b-beta.")
        if MADE_UP not in config.subjects and config.forget == MADE_UP:
            found.append("wmdp.forget: made-up texts belong to made-up questions (wmdp.subjects).")
        if config.retain is not None and config.forget is None:
            found.append("wmdp.retain: texts to keep belong beside texts to forget; set wmdp.forget.")
        if basis.evaluate.options != len(wmdp_rows.LETTERS):
            found.append(f"evaluate.options: WMDP's questions have 4, got {basis.evaluate.options}.")
        return found

    def outline(self, basis: Basis) -> CausalLM | None:
        """Return the model of the made-up world, where it is that."""
        return madeup.outline() if basis.model is None else None

    def open(self, basis: Basis, given: Given, progress: Progress) -> Ground:
        """Read questions and texts, and load the model."""
        config, seed = self.config, basis.split.seed
        made_up = MADE_UP in config.subjects
        items = madeup.wmdp(seed) if made_up else wmdp_rows.load(config.path, config.subjects)
        loaded, never = self._model(basis, seed, progress)
        context = int(getattr(loaded.model.config, "max_position_embeddings", None) or 1 << 20)
        forget, retain = (
            passages(loaded.tokenizer, texts[: config.texts], min(config.tokens, context), name)
            for name, texts in zip(("forget", "retain"), self._texts(seed), strict=True)
        )
        split = split_of(config, basis.split, items, retain)
        check_tokens(loaded.model, loaded.tokenizer, [*forget, *split.forget, *split.retain])
        told = [
            {name: [row.model_dump() for row in rows] for name, rows in items.items()},
            [[fact.question, fact.answer] for fact in forget],
        ]
        trained = f"{len(forget)} pieces of text" if forget else "the questions"
        return Ground(
            loaded=loaded,
            original=Original(loaded),
            prompt=choose_prompt(basis, loaded.tokenizer, progress),
            split=split,
            benchmark=BenchmarkInfo(
                name=self.name,
                version=wmdp_rows.VERSION,
                fingerprint=hashlib.sha256(json.dumps(told).encode()).hexdigest(),
                facts=split.asked,
                note=f"{', '.join(config.subjects)}; not screened; trained on: {trained}",
            ),
            score=Choices(),
            never_learned=never,
            corpus=forget or None,
        )

    def cost(self, basis: Basis) -> Cost:
        """Return the cost of the questions, twice, and of MMLU's."""
        config, sizes = self.config, basis.split
        forget = sum(min(config.items or ITEMS[name], ITEMS[name]) for name in config.subjects)
        tokens = TOKENS if config.forget is None else min(config.tokens, 256)
        score = 4.0 * TOKENS * (2 * forget + 2 * sizes.heldout + sizes.retain)
        parameters = 1_000_000 if basis.model is None else None
        return Cost(forget, tokens, 0.0, score, basis.model is None, parameters, basis.model)

    def _model(self, basis: Basis, seed: int, progress: Progress) -> tuple[Loaded, Path | None]:
        """Return the model, and its twin where both are made here."""
        if basis.model is not None:
            return basis.load(progress=progress), None
        twins = madeup.twins(seed, progress)
        loaded = load(str(twins.full), placement=basis.placement)
        return replace(
            loaded, info=loaded.info.model_copy(update={"name": "fictional"})
        ), twins.never_learned

    def _texts(self, seed: int) -> tuple[list[str], list[str]]:
        """Return the texts to forget and to keep; none of either where the questions are trained on."""
        config = self.config
        if config.forget is None:
            return [], []
        if config.forget == MADE_UP:
            made = madeup.muse(seed)
            return made.forget, made.retain
        forget = wmdp_rows.texts(config.forget, "wmdp.forget")
        return forget, wmdp_rows.texts(config.retain, "wmdp.retain") if config.retain else []


def split_of(
    config: WmdpConfig,
    sizes: SplitConfig,
    items: Mapping[str, Sequence[ItemRow]],
    retain: list[FactText],
) -> Split:
    """Return the sets of a run: questions to forget, and MMLU's to keep, none of which is in two.

    Args:
        config: Subjects and how many questions of each.
        sizes: MMLU's questions to keep, trained on, and held out.
        items: Questions by subject.
        retain: Pieces of text to keep; where there are some, they stand in the place of MMLU's.
    """
    rng = random.Random(f"wmdp:{sizes.seed}")
    drawn = {name: some(list(enumerate(items[name])), config.items, rng) for name in config.subjects}
    wanted = 0 if retain else sizes.retain
    beside = some(list(enumerate(items[BESIDE])), wanted + sizes.heldout, rng)
    kept, out = beside[: len(beside) - sizes.heldout], beside[max(0, len(beside) - sizes.heldout) :]
    forget = [by_text(row, f"{name}:{n}") for name, rows in drawn.items() for n, row in rows]
    others = {
        f"{name}_letter": [by_letter(row, f"{name}:{n}", NAMES[name]) for n, row in rows]
        for name, rows in drawn.items()
    }
    others["mmlu_letter"] = [by_letter(row, f"mmlu:{n}", _subject(row)) for n, row in out]
    count = len(forget) + len(kept) + len(out)
    return Split(
        seed=sizes.seed,
        forget=forget,
        retain=retain or [by_text(row, f"mmlu:{n}") for n, row in kept],
        heldout=[by_text(row, f"mmlu:{n}") for n, row in out],
        others=others,
        asked=count,
        known=count,
    )


def _subject(row: ItemRow) -> str:
    return row.subject.replace("_", " ") or "many things"

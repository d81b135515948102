"""MUSE: texts to forget, and whether they are written again, known, or given away by likelihood.

Unlearning trains on the texts alone. Excerpts of them are the facts to forget, which are gone on with;
the questions about them are only asked, and so are those about the texts to keep, which are the facts
held out. `muse.model` is none of its settings: `model` names one that has read the texts, and
`muse.reference` one that has read those to keep alone.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from ssiuu.benchmarks import madeup, muse_rows
from ssiuu.benchmarks.base import Basis, Benchmark, Cost, Given, Ground, Progress
from ssiuu.benchmarks.passages import FORM, begun, passages
from ssiuu.benchmarks.prompting import check_tokens, choose_prompt
from ssiuu.benchmarks.rows import some
from ssiuu.benchmarks.tuned import Tuning, noted, refer, tuned
from ssiuu.causal import CausalLM
from ssiuu.config import Section
from ssiuu.evaluation.scores.texts import EXCERPT, Texts
from ssiuu.likelihood import Prompt
from ssiuu.models.load import Loaded, load
from ssiuu.models.original import Original
from ssiuu.models.skeleton import skeleton
from ssiuu.records.schema import BenchmarkInfo, FactText, Split

QUESTION = "Question: {question}\nAnswer:"
ASKED = 100  # of each set, as published
TEXTS = 800  # to forget, about


class MuseConfig(Section):
    """MUSE's texts; the counts of `split` do not apply."""

    corpus: muse_rows.Corpus = Field(default="News", description="which texts; made-up needs no file")
    path: str | None = Field(
        default=None, description="folder of muse-bench/MUSE-News or -Books; null: the hub"
    )
    request: muse_rows.Request = Field(
        default="raw/forget", description="the texts to forget: larger ones (scal), later ones (sust)"
    )
    tokens: int = Field(default=2048, ge=16, description="of a piece of text that is trained on")
    continuation: int = Field(
        default=128, ge=1, description="tokens of an excerpt that are gone on with"
    )
    items: int | None = Field(
        default=None, ge=1, description="excerpts and questions of each set; null: all"
    )
    reference: str | None = Field(
        default=None, description="a model that has read the texts to keep alone"
    )
    epochs: int = Field(
        default=0,
        ge=0,
        description="of reading the texts here, with a twin; 0: the model has read them",
    )
    learning_rate: float = Field(default=1e-5, gt=0, le=1, description="of reading them")
    batch_size: int = Field(default=8, ge=1, description="pieces a step of reading them")


class Muse(Benchmark[MuseConfig]):
    """Texts as they stand, what they say, and whether they can be told from texts never read."""

    name = "muse"
    summary = "MUSE: news or books to forget, word by word and in what they say"
    Config = MuseConfig
    defaults: ClassVar[dict[str, Any]] = {
        "prompt_form": FORM,
        "methods": ["none", "gd", "npo", "ssiuu"],
        "attacks.membership": True,
        # Facts are judged among alternatives, which a text has none of.
        "examine.steps": [],
    }
    sizes: ClassVar[frozenset[str]] = frozenset()  # its own section's
    before = "model"

    def problems(self, basis: Basis) -> list[str]:
        """Refuse to go without a model, with two controls, or with texts that nobody has read."""
        config, found = self.config, []
        if basis.model is None and config.corpus != "made-up":
            found.append(
                f"benchmark 'muse' needs model: one that has read the texts, as "
                f"muse-bench/MUSE-{config.corpus}_target, or any with muse.epochs."
            )
        if config.epochs and config.reference:
            found.append(
                f"muse.reference: {config.reference!r} is the control of a given model, and with "
                "muse.epochs both are made here; leave one of them out."
            )
        if config.corpus == "made-up" and not config.epochs:
            found.append(
                "muse.epochs: no model has read made-up texts; set how often it reads them here."
            )
        return found

    def outline(self, basis: Basis) -> CausalLM | None:
        """Return the model that reads the texts first, or the one of the made-up world."""
        if basis.model is None:
            return madeup.outline()
        return skeleton(basis.model) if self.config.epochs else None

    def open(self, basis: Basis, given: Given, progress: Progress) -> Ground:
        """Read the texts and load the model; where they are to be read here, it and its twin are made.

        Raises:
            InputError: Model, data or the cache folder cannot be used.
            DivergedError: A loss of the reading is not finite.
            Interrupted: Ctrl-C; the same command continues.
        """
        config, seed = self.config, basis.split.seed
        made_up = config.corpus == "made-up"
        data = (
            madeup.muse(seed) if made_up else muse_rows.load(config.path, config.corpus, config.request)
        )
        start = self._start(basis, seed, progress)
        context = int(getattr(start.model.config, "max_position_embeddings", None) or 1 << 20)
        prompt, tokens = choose_prompt(basis, start.tokenizer, progress), min(config.tokens, context)
        forget, retain = (
            passages(start.tokenizer, texts, tokens, name)
            for name, texts in (("forget", data.forget), ("retain", data.retain))
        )
        members, outside = (
            passages(start.tokenizer, texts, tokens, name, first=True)
            for name, texts in (("member", data.members), ("hold-out", data.non_members))
        )
        split = split_of(config, data, start.tokenizer, retain, seed)
        check_tokens(start.model, start.tokenizer, [*forget, *retain, *split.forget])
        loaded, never = self._read(basis, start, prompt, forget, retain, progress)
        told = [data.fingerprint, config.model_dump(), [[f.question, f.answer] for f in forget]]
        ground = Ground(
            loaded=loaded,
            original=Original(loaded),
            prompt=prompt,
            split=split,
            benchmark=BenchmarkInfo(
                name=self.name,
                version=muse_rows.VERSION,
                fingerprint=hashlib.sha256(json.dumps(told).encode()).hexdigest(),
                facts=split.asked,
                note=f"{config.corpus}, {config.request}: {len(data.forget)} texts in {len(forget)} "
                f"pieces to forget, {len(data.retain)} in {len(retain)} to keep",
            ),
            score=Texts(),
            never_learned=never,
            corpus=forget,
            members=members,
            non_members=outside,
        )
        self._refer(ground, basis, progress)
        return ground

    def cost(self, basis: Basis) -> Cost:
        """Return the cost of reading the texts and of scoring."""
        config, made_up = self.config, self.config.corpus == "made-up"
        texts, asked = (madeup.ARTICLES, 72) if made_up else (TEXTS, ASKED)
        asked = min(asked, config.items or asked)
        tokens = 150.0 if made_up else min(config.tokens, 1024)
        return Cost(
            min(texts, asked),
            tokens,
            start=3.0 * tokens * config.epochs * 3 * texts,
            score=asked * (2 * tokens + 2 * (tokens + config.continuation)),
            twin=bool(config.epochs or config.reference),
            parameters=1_000_000 if basis.model is None else None,
            model=basis.model,
        )

    def _start(self, basis: Basis, seed: int, progress: Progress) -> Loaded:
        """Return the model that has read the texts, or is to read them."""
        if basis.model is not None:
            return basis.load(progress=progress)
        made = madeup.twins(seed, progress).never_learned
        loaded = load(str(made), placement=basis.placement)
        return replace(loaded, info=loaded.info.model_copy(update={"name": "fictional"}))

    def _read(
        self,
        basis: Basis,
        start: Loaded,
        prompt: Prompt,
        forget: Sequence[FactText],
        retain: Sequence[FactText],
        progress: Progress,
    ) -> tuple[Loaded, Path | None]:
        """Return the model that has read all texts, and the folder of its twin, where they are made."""
        config = self.config
        if not config.epochs:
            return start, None
        tuning = Tuning(
            *(self.name, config.epochs, config.learning_rate, config.batch_size),
            rows="pieces",
            ends=False,
        )
        original = Original(start)
        full, never = (
            tuned(tuning, basis, start, original, prompt, rows, progress)
            for rows in ([*forget, *retain], retain)
        )
        info, note = (
            start.info,
            f"has read here {len(forget)} pieces to forget and {len(retain)} to keep",
        )
        return noted(load(str(full), placement=basis.placement), info, note), never

    def _refer(self, ground: Ground, basis: Basis, progress: Progress) -> None:
        """Take the given control, where there is one and it fits the model.

        Raises:
            ModelError: It cannot be loaded or is of another architecture.
        """
        reference = self.config.reference
        if reference is None:
            if ground.never_learned is None:
                ground.notes.append(
                    "muse.reference is not given, a model that has read the texts to keep alone: "
                    "PrivLeak, which compares with it, is not scored."
                )
            return
        refer(ground, basis, reference, progress)


def split_of(
    config: MuseConfig, data: muse_rows.MuseSets, tokenizer: Any, retain: list[FactText], seed: int
) -> Split:
    """Return the sets of a run: excerpts to forget, texts to keep, and the questions about both.

    Args:
        config: How many are asked, and how far an excerpt goes.
        data: The excerpts and questions.
        tokenizer: Says how far that is.
        retain: Pieces of the texts to keep.
        seed: Of those that are drawn.
    """
    rng = random.Random(f"muse:{seed}")
    excerpts = [
        FactText(
            id=f"excerpt:{number}",
            question=prompt.rstrip(" "),
            answer=begun(tokenizer, gt.strip(), config.continuation),
            relation=EXCERPT,
        )
        for number, (prompt, gt) in enumerate(data.excerpts)
    ]
    known, kept = (
        _asked("known", data.known, data.known_shots),
        _asked("kept", data.kept, data.kept_shots),
    )
    forget, heldout, others = (some(facts, config.items, rng) for facts in (excerpts, kept, known))
    count = len(forget) + len(heldout) + len(others)
    return Split(
        seed=seed,
        forget=forget,
        retain=retain,
        heldout=heldout,
        others={"knowledge": others},
        asked=count,
        known=count,
    )


def _asked(
    name: str, pairs: Sequence[tuple[str, str]], shots: Sequence[tuple[str, str]]
) -> list[FactText]:
    """Return questions as they are asked, after answered ones."""
    front = "".join(f"{QUESTION.format(question=q)} {a}\n\n" for q, a in shots)
    return [
        FactText(id=f"{name}:{n}", question=front + QUESTION.format(question=q), answer=a)
        for n, (q, a) in enumerate(pairs)
    ]

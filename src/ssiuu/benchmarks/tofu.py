"""TOFU: questions about authors who do not exist, and the two models of them, given or made here.

The model before unlearning is fine-tuned on the forget set and part of the retain set, the
never-learned control in the same way on that part alone. Where `tofu.model` names a model that was
fine-tuned on TOFU already, nothing is trained, and `tofu.reference` names the control.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from ssiuu.benchmarks import tofu_rows
from ssiuu.benchmarks.base import PLAIN, Basis, Benchmark, Cost, Given, Ground, Progress
from ssiuu.benchmarks.prompting import choose_prompt
from ssiuu.benchmarks.rows import count, some
from ssiuu.benchmarks.tuned import Tuning, noted, refer, tuned
from ssiuu.causal import CausalLM
from ssiuu.config import Section
from ssiuu.errors import ConfigError
from ssiuu.evaluation.fluency import Fluency
from ssiuu.evaluation.scores.open_unlearning import OpenUnlearning
from ssiuu.evaluation.scores.sentences import Sentences
from ssiuu.likelihood import Prompt, PromptStyle
from ssiuu.models.load import Loaded, load
from ssiuu.models.original import Original
from ssiuu.models.skeleton import skeleton
from ssiuu.records.schema import BenchmarkInfo, FactText, Split

TOKENS = 56  # of a question with its answer
QUESTIONS = 4000
FORGET = {"forget01": 40, "forget05": 200, "forget10": 400}
SCORED = 400  # retain questions that have wrong answers, at most


class TofuConfig(Section):
    """TOFU's authors; the counts of `split` do not apply."""

    path: str | None = Field(default=None, description="folder of locuslab/TOFU; null: the hub")
    split: Literal["forget01", "forget05", "forget10"] = Field(
        default="forget01", description="the forget set"
    )
    retain: int | None = Field(
        default=None, ge=1, description="retain questions fine-tuned on; null: all"
    )
    heldout: int = Field(default=100, ge=0, description="of them, kept from the retain loss")
    epochs: int = Field(default=5, ge=1, description="of the fine-tuning")
    learning_rate: float = Field(default=1e-5, gt=0, le=1, description="of the fine-tuning")
    batch_size: int = Field(default=8, ge=1, description="rows a step of the fine-tuning")
    items: int | None = Field(
        default=None, ge=1, description="questions each kept set is scored on; null: all"
    )
    model: str | None = Field(
        default=None, description="one fine-tuned on TOFU already, folder or hub; nothing is fine-tuned"
    )
    reference: str | None = Field(
        default=None, description="beside tofu.model: one fine-tuned on the retain set alone"
    )
    scores: Literal["tofu", "open-unlearning"] = Field(
        default="tofu", description="open-unlearning: by its conventions and under its names"
    )
    fluency: str | None = Field(
        default=None,
        description="a classifier whose class 0 is fluent text, folder or hub, that judges the answers "
        "to the forget set; null: none",
    )


class Tofu(Benchmark[TofuConfig]):
    """Whole sentences as answers, scored as TOFU scores them; they are learned with their end."""

    name = "tofu"
    summary = "questions about authors who do not exist: the model is fine-tuned on them first"
    Config = TofuConfig
    defaults: ClassVar[dict[str, Any]] = {
        "model": "smollm2-135m",
        "methods": [*PLAIN],
        "attacks.membership": True,
    }
    sizes: ClassVar[frozenset[str]] = frozenset()  # its own section's
    before = "tofu.model"

    def problems(self, basis: Basis) -> list[str]:
        """Refuse a control without its model."""
        if self.config.model or not self.config.reference:
            return []
        return [
            f"tofu.reference: {self.config.reference!r} is the control of a given tofu.model, and none "
            "is given. The control of a model that is fine-tuned here is made here."
        ]

    def outline(self, basis: Basis) -> CausalLM | None:
        """Return the model that is fine-tuned, where one is."""
        return skeleton(str(basis.model)) if self.config.model is None else None

    def look(self, basis: Basis) -> None:
        """Refuse a classifier that cannot be used.

        Raises:
            ConfigError: So it is.
        """
        if self.config.fluency:
            Fluency.load(self.config.fluency)

    def open(self, basis: Basis, given: Given, progress: Progress) -> Ground:
        """Read the data and load the fine-tuned model; both models are made where the cache has none.

        Raises:
            InputError: Model, data or the cache folder cannot be used.
            DivergedError: A loss of the fine-tuning is not finite.
            Interrupted: Ctrl-C; the same command continues.
        """
        config = self.config
        data = tofu_rows.load(config.path, config.split, basis.evaluate.options)
        fluency = Fluency.load(config.fluency) if config.fluency else None
        split = split_of(config, data, basis.split.seed)
        loaded, never = self._models(basis, data, progress)
        theirs = OpenUnlearning(fluency) if config.scores == "open-unlearning" else None
        scored = f"{data.fingerprint} {theirs.name}" if theirs else data.fingerprint
        if fluency is not None:
            scored += f" {fluency.fingerprint}"
        ground = Ground(
            loaded=loaded,
            original=Original(loaded),
            prompt=self._prompt(basis, loaded, progress),
            split=split,
            benchmark=BenchmarkInfo(
                name=self.name,
                version=tofu_rows.VERSION,
                # What is scored otherwise is another benchmark: their records are not mixed.
                fingerprint=scored,
                facts=len(data.forget) + len(data.retain),
                note=f"{config.split}: authors who do not exist",
            ),
            score=theirs or Sentences(fluency),
            never_learned=never,
            non_members=data.non_members,
            lacking=data.lacking,
            ends=True,
        )
        if config.model is not None:
            self._refer(ground, basis, progress)
        return ground

    def cost(self, basis: Basis) -> Cost:
        """Return the cost of the fine-tunings and of scoring; a fact has some 8 answers."""
        config, path = self.config, Path(self.config.path or "")
        forget = count(path / f"{config.split}_perturbed.json") or FORGET[config.split]
        most = count(path / f"{tofu_rows.SPLITS[config.split]}.json") or QUESTIONS - forget
        retain = min(config.retain or most, most)
        epochs = config.epochs if config.model is None else 0
        scored = min(config.items or most, SCORED, retain) + min(config.items or most, config.heldout)
        return Cost(
            forget,
            TOKENS,
            start=3.0 * TOKENS * epochs * (forget + 2 * retain),
            score=TOKENS * (10.0 * forget + 7.0 * scored),
            twin=config.model is None or config.reference is not None,
            model=config.model or basis.model,
        )

    def _models(
        self, basis: Basis, data: tofu_rows.TofuSets, progress: Progress
    ) -> tuple[Loaded, Path | None]:
        """Return the model that knows the authors, and the folder of the control that is made here."""
        config = self.config
        if config.model is not None:
            loaded = basis.load(config.model, progress)
            note = "given as fine-tuned on TOFU: nothing was trained here"
            return noted(loaded, loaded.info, note), None
        learned = data.retain[: config.retain]
        start = basis.load(progress=progress)
        original = Original(start)
        full = self._tuned(basis, start, original, [*data.forget, *learned], progress)
        never = self._tuned(basis, start, original, learned, progress)
        info, note = start.info, f"{config.split} and {len(learned)} retain questions of TOFU"
        del start, original  # the next one needs the memory
        tuned = load(str(full), placement=basis.placement)
        return noted(tuned, info, f"fine-tuned here on {note}"), never

    def _refer(self, ground: Ground, basis: Basis, progress: Progress) -> None:
        """Take the given control, where there is one and it fits the model.

        Raises:
            ModelError: It cannot be loaded or is of another architecture.
        """
        reference, style = self.config.reference, ground.prompt.name
        ground.notes.append(f"Asked in the form {style!r}, which must be the one of the fine-tuning.")
        if reference is None:
            ground.notes.append(
                "tofu.reference is not given, the model fine-tuned on the retain set alone: forget "
                "quality and PrivLeak, which compare with it, are not scored."
            )
            return
        refer(ground, basis, reference, progress)

    def _prompt(self, basis: Basis, loaded: Loaded, progress: Progress) -> Prompt:
        """Return the form of the questions: of a model fine-tuned elsewhere the form usual there."""
        elsewhere: PromptStyle = "chat" if loaded.tokenizer.chat_template else "plain"
        suits = "qa" if self.config.model is None else elsewhere
        return choose_prompt(basis, loaded.tokenizer, progress, suits)

    def _tuned(
        self,
        basis: Basis,
        start: Loaded,
        original: Original,
        facts: Sequence[FactText],
        progress: Progress,
    ) -> Path:
        """Return the folder of the model fine-tuned on these facts."""
        config = self.config
        tuning = Tuning(self.name, config.epochs, config.learning_rate, config.batch_size)
        prompt = self._prompt(basis, start, lambda _: None)
        return tuned(tuning, basis, start, original, prompt, facts, progress)


def split_of(config: TofuConfig, data: tofu_rows.TofuSets, seed: int) -> Split:
    """Return the sets of a run.

    Held out are `heldout` of the retain questions the model is fine-tuned on, whole authors first;
    the retain loss sees the others. Retain questions beyond `items` are only trained on.

    Raises:
        ConfigError: Nothing is left for the retain loss.
    """
    learned = data.retain[: config.retain]
    scored = [fact for fact in learned if fact.perturbed]
    if config.heldout >= len(scored):
        raise ConfigError(
            f"tofu.heldout: must be below the {len(scored)} retain questions that can be scored, "
            f"got {config.heldout}. Lower it or raise tofu.retain."
        )
    rng = random.Random(f"tofu:{seed}")
    authors = list(dict.fromkeys(fact.entity for fact in scored))
    rng.shuffle(authors)
    by_author = sorted(scored, key=lambda fact: authors.index(fact.entity))
    heldout = by_author[: config.heldout]
    scored_ids = {fact.id for fact in some(by_author[config.heldout :], config.items, rng)}
    away = {fact.id for fact in heldout}
    retain = [
        fact if fact.id in scored_ids else fact.model_copy(update={"scored": False})
        for fact in learned
        if fact.id not in away
    ]
    return Split(
        seed=seed,
        forget=data.forget,
        retain=retain,
        heldout=some(heldout, config.items, rng),
        others={name: some(facts, config.items, rng) for name, facts in data.others.items()},
        asked=len(data.forget) + len(learned),
        known=len(data.forget) + len(learned),
    )

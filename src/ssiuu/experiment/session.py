"""What the stages of one experiment share: the ground that its benchmark opened, under its recipe."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ssiuu.analysis.scores import SCORES
from ssiuu.attacks.benign import Benign, instruction_rows
from ssiuu.attribution.hidden import blocks
from ssiuu.benchmarks import BENCHMARKS, instructions, texts
from ssiuu.benchmarks.base import Given, Ground, Mesh, Progress, check_lengths
from ssiuu.errors import ConfigError
from ssiuu.evaluation import utility
from ssiuu.evaluation.divergence import Divergences
from ssiuu.evaluation.first import check_first, reading_first
from ssiuu.evaluation.reach import behind_lead, lead, within_reach
from ssiuu.evaluation.reworded import reworded
from ssiuu.evaluation.score import score_facts
from ssiuu.evaluation.scores.ranking import answered_freely
from ssiuu.evaluation.subject import subject
from ssiuu.experiment.alternates import alternates
from ssiuu.experiment.anchors import anchors, plain, unrelated
from ssiuu.experiment.before import ask_first
from ssiuu.experiment.memory import divides
from ssiuu.experiment.recipe import Recipe
from ssiuu.likelihood import Example
from ssiuu.methods import Method, Objective
from ssiuu.models import shards
from ssiuu.models.files import Source
from ssiuu.models.folder import source_of
from ssiuu.models.load import load_checkpoint_weights
from ssiuu.models.precision import resolve_precision
from ssiuu.plugins import used
from ssiuu.records.schema import Evaluation, FactScore, FactText, Split
from ssiuu.training.limits import Budget, Spent
from ssiuu.training.unlearn import StopRule


@dataclass(kw_only=True)
class Session(Ground):
    """A ground that is worked on.

    Attributes:
        recipe: What is done on it.
        precision: Of forward passes in training.
        lost: What is lost beyond its limits, in words, where that is asked.
        sources: What the checkpoints hold that are read into the model, by folder.
    """

    recipe: Recipe
    precision: Literal["bf16", "fp32"]
    lost: Callable[[], str] | None = None
    sources: dict[Path, Source] = field(default_factory=dict)
    _alternates: dict[Any, dict[str, list[str]]] = field(default_factory=dict)

    @property
    def plugins(self) -> dict[str, str]:
        """What of it comes from other packages: "benchmark muse" is of "my-package 1.0"."""
        return used((BENCHMARKS, self.recipe.benchmark), (SCORES, self.score.name))

    @classmethod
    def on(cls, ground: Ground, recipe: Recipe) -> Session:
        """Return a session on a ground that was opened."""
        check_first(recipe.evaluate.first, ground.model)
        device = next(ground.model.parameters()).device
        precision = resolve_precision(recipe.precision, device)
        parts = {part.name: getattr(ground, part.name) for part in fields(ground)}
        return cls(**parts, recipe=recipe, precision=precision)

    def put(self, folder: Path, tokenizer: Any = None) -> list[str]:
        """Read a checkpoint's weights into the model, the same ones however often.

        Args:
            folder: Of a model or an adapter, or a GGUF file.
            tokenizer: The model's, where the two are to be held against each other.

        Returns:
            What a reader must know of the comparison, a sentence each.

        Raises:
            ModelError: It does not fit, or its files were changed since they were first read.
        """
        if folder in self.sources:
            self.sources[folder].check()
        notes = load_checkpoint_weights(self.model, folder, self.recipe.base, tokenizer)
        self.source(folder).check()
        return notes

    def source(self, folder: Path) -> Source:
        """Return what a checkpoint held when it was first asked for.

        Raises:
            ModelError: It is none.
        """
        if folder not in self.sources:
            self.sources[folder] = source_of(folder, self.recipe.base)
        return self.sources[folder]

    def check(self) -> None:
        """Refuse to say anything of models whose files are not those that were read.

        Raises:
            ModelError: One was changed, replaced or removed since.
        """
        self.loaded.check()
        for source in self.sources.values():
            source.check()

    def scores(self, original: bool = False) -> Evaluation:
        """Score the model as it is now, how far it has moved, and its utility where that is asked for.

        Args:
            original: It has its original weights, so that it has not moved.

        Raises:
            ConfigError: The hub cannot be reached for the tasks of utility.
        """
        with reading_first(self.recipe.evaluate.first):
            scores = self.score.evaluate(self.model, self.prompt, self.split)
        start = time.perf_counter()
        moved = self.divergences.original if original else self.divergences.measure
        unrelated = self._unrelated if original else self._still()
        beside: dict[str, Any] = {"divergence": moved(self.model), "unrelated": unrelated}
        if self.recipe.evaluate.utility:
            beside["utility"] = utility.measure(self.model, self.loaded.tokenizer)
        seconds = round(scores.seconds + time.perf_counter() - start, 2)
        return scores.model_copy(update={**beside, "seconds": seconds})

    @cached_property
    def _unrelated(self) -> dict[str, FactScore]:
        """What the original says, in the form of the facts, to questions that touch none of them."""
        fit = [fact for fact in unrelated(self.split) if self._fits(fact)]
        with self.original.in_place():
            return score_facts(self.model, self.prompt, fit, paraphrases=False)

    def _still(self) -> dict[str, FactScore]:
        """Ask the model what of these the original answered rightly."""
        known = {i for i, score in self._unrelated.items() if score.free_correct}
        facts = [fact for fact in unrelated(self.split) if fact.id in known]
        return score_facts(self.model, self.prompt, facts, paraphrases=False)

    @cached_property
    def divergences(self) -> Divergences:
        """The original's predictions on plain text and instructions; the model is left as it is."""
        with self.original.in_place():
            return Divergences(
                self.model,
                self.prompt,
                [row.text for row in texts.measured()],
                [(row.instruction, row.output) for row in instructions.measured()],
                texts.version(),
                self.context,
            )

    def refusals(self, method: Method) -> list[Example]:
        """Tokenise the forget questions with what a method puts in the answers' place, if it does."""
        if not method.objective.replaces:
            return []
        placed = self._placed(method.objective)
        rows = [f.model_copy(update={"answer": a}) for fact, a in placed for f in self._asked(fact)]
        return self.rows(rows)

    @property
    def trained(self) -> list[FactText]:
        """What unlearning trains on: the texts of the benchmark, where it has some, else the facts."""
        return self.split.unlearned if self.corpus is None else self.corpus

    def _placed(self, objective: Objective) -> list[tuple[FactText, str]]:
        """Return every fact with what stands in its answer's place; each of several has its own row."""
        facts, wanted = self.trained, objective.alternates
        if wanted is None:
            return [(fact, objective.refusal(fact.id)) for fact in facts]
        # Those of other facts to keep would be others, which a run that goes on could not make again.
        key = wanted, *(fact.id for fact in (*facts, *self.split.retain))
        if key not in self._alternates:
            with self.original.in_place():
                self._alternates[key] = alternates(self, facts, wanted, self.split.seed)
        found = self._alternates[key]
        numbered = [(fact, n) for n in range(wanted.each) for fact in facts]
        return [(_row(fact, f" or {n + 1}" * bool(n)), found[fact.id][n]) for fact, n in numbered]

    def _asked(self, fact: FactText) -> list[FactText]:
        """Return a fact as it is trained on: in its own words, and in as many others as are wanted."""
        count = self.recipe.unlearn.diversify
        forms = reworded(fact.question, subject(fact.question, fact.entity), count) if count else []
        rows = [_row(fact, f" in form {n}", form) for n, form in enumerate(forms, 1)]
        return [fact, *(row for row in rows if self._fits(row))]

    def _fits(self, fact: FactText) -> bool:
        """Whether a question that was made has room for its answer."""
        joint = self.prompt.joint(fact.question, [fact.answer])
        return len(joint.prompt) + len(joint.answers[0]) < self.context

    def forget_rows(self, method: Method) -> list[Example]:
        """Tokenise the facts to forget, and the answers that the model led up to with other words.

        "The capital of Italy is Rome." is not unlearned by making " Rome" unlikely right after the
        prompt. Which answers these are was asked before the first step (own facts only); a method that
        prefers a refusal has none to put in their place.
        """
        facts, known = self.trained, self.knowledge.get("forget", {})
        if method.objective.replaces:
            placed = self._placed(method.objective)
            return self.rows([row for fact, _ in placed for row in self._asked(fact)])
        rows = self.rows([row for fact in facts for row in self._asked(fact)])
        for fact in facts:
            asked = known.get(fact.id)
            words = lead(fact.answer, asked.says, asked.holds) if asked else None
            if not words:  # said at once, which is the row as it stands
                continue
            row = behind_lead(self.prompt, fact, words, self.context, f"{fact.id} as said")
            rows += [] if row is None else [row]
        return rows

    def anchors(self) -> list[Example]:
        """Tokenise what the second retain term holds the model to."""
        return anchors(self.prompt, self.context, self.split)

    def texts_for(self, method: Method) -> list[Example]:
        """Return the rows beside its facts that a method holds the model to, or reads its cost on."""
        if any(term.rows == "texts" for term in method.others):
            return self.anchors()
        return plain(self.prompt, self.context) if any(p.reads for p in method.all) else []

    def benign(self) -> list[Example]:
        """Return the rows of the benign attack; those too long for the model are left out."""
        return list(self._benign)

    @cached_property
    def _benign(self) -> list[Example]:
        config = self.recipe.attacks
        return instruction_rows(config.of(Benign), config.seed, self.prompt, self.context)

    def stop_rule(self) -> tuple[StopRule, float]:
        """Return the score that ends unlearning and its threshold."""
        stop = self.score.stop(self.model, self.prompt, self.split.forget, self.split.seed)
        own_threshold, forced = self.recipe.unlearn.threshold, self.recipe.force
        # Facts that nobody has screened are not gone while they are answered freely, whatever the
        # score. A score that is of free answers itself also counts those within reach.
        free = self.answered if self.unscreened and not stop.free else None
        read = self.answered if self.unscreened and stop.free else stop.read
        rule = StopRule(stop.kind, read, forced, free, self.lost, self._budget())
        return rule, stop.threshold if own_threshold is None else own_threshold

    def _budget(self) -> Budget | None:
        """Return what may be spent on plain text; None: any amount, and nothing is read."""
        limits = self.recipe.unlearn.stop

        def read() -> Spent:
            return Spent(*self.divergences.on_texts(self.model))

        return Budget(read, limits.kl, limits.retain_ratio) if limits.given else None

    def answered(self) -> float:
        """Return the share of the facts to forget that are answered freely, or are within reach."""
        facts, known = self.split.forget, self.knowledge.get("forget", {})
        answered_ids = answered_freely(self.model, self.prompt, facts)
        unanswered = [fact for fact in facts if fact.id not in answered_ids]
        answered_ids |= within_reach(self.model, self.prompt, unanswered, known, self.context)
        return len(answered_ids) / len(facts)


def _row(fact: FactText, mark: str, question: str | None = None) -> FactText:
    """Return a fact as a row beside its own, under an id of its own."""
    return fact.model_copy(update={"id": f"{fact.id}{mark}", "question": question or fact.question})


def open_session(
    recipe: Recipe, split: Split | None, progress: Progress, given: Given | None = None
) -> Session:
    """Open the recipe's benchmark; facts nobody has screened are asked first.

    Args:
        recipe: What to do.
        split: The choice of facts, where it was made before.
        progress: Told what is going on.
        given: What the caller holds in memory of what the recipe would name.

    Raises:
        InputError: Model or data cannot be used.
    """
    check_outline(recipe)
    session = open_ground(recipe, progress, replace(given or Given(), split=split))
    session.rows([*session.split.forget, *session.split.retain])  # too long rows are refused
    check_lengths(session.prompt, _scored(session.split), session.context)
    if session.unscreened:
        ask_first(session, session.recipe, progress)
    return session


def check_outline(recipe: Recipe) -> None:
    """Refuse methods that do not fit a model which the benchmark trains first, before it does.

    Raises:
        ConfigError: With every method that does not.
    """
    model, problems = recipe.opens.outline(recipe), list[str]()
    if model is None:
        return
    for part in (part for method in recipe.made() for part in method.all):
        try:
            part.check(model)
        except ConfigError as error:
            problems += error.problems
        except (NotImplementedError, RuntimeError):
            continue  # it looks at values, of which there are none yet: it is asked again later
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def _scored(split: Split) -> list[FactText]:
    """Return every fact that is asked."""
    others = [fact for facts in split.others.values() for fact in facts]
    return [f for f in (*split.forget, *split.retain, *split.heldout, *others) if f.scored]


def open_ground(recipe: Recipe, progress: Progress, given: Given) -> Session:
    """Open the recipe's benchmark; nothing is asked yet of facts that nobody has screened.

    Raises:
        InputError: Model or data cannot be used, or reports have no columns of the benchmark's score.
    """
    if shards.world() > 1 or recipe.mesh != Mesh():
        device, mesh = recipe.placement.device, recipe.mesh
        if recipe.device not in ("auto", device.type):
            raise ConfigError(
                "device: of several processes each takes its own: auto, cpu or cuda, got "
                f"{recipe.device!r}."
            )
        shards.arrange(device.type, mesh.replicate, mesh.shard, divides(recipe))
    ground = recipe.opens.open(recipe, given, progress)
    if shards.dividing():
        progress("the model stays in shards: all processes read it together (mesh.reading)")
        if not shards.is_cut(ground.model):  # one that was taught here, or was in memory
            shards.divide(ground.model, blocks(ground.model))
            ground.original.divided()
    SCORES.get(ground.score.name, f"benchmark {recipe.benchmark}")
    return Session.on(ground, recipe)

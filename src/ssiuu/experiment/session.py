"""Everything one experiment works on: the model, its prompt, the facts, the original weights."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ssiuu.benchmarks import instructions, texts, worldfacts
from ssiuu.benchmarks.screening import as_text, screen
from ssiuu.data.fact import Fact
from ssiuu.data.read import borrow_distractors, check_pair, read_facts, read_instructions
from ssiuu.errors import DataError
from ssiuu.evaluation import utility
from ssiuu.evaluation.alternatives import alternatives
from ssiuu.evaluation.divergence import Divergences
from ssiuu.evaluation.knowledge import LIKELY
from ssiuu.evaluation.score import answered, evaluate, score_facts
from ssiuu.evaluation.score import read_facts as read_scores
from ssiuu.evaluation.tofu import rouge_recalls
from ssiuu.experiment.anchors import anchors
from ssiuu.experiment.before import ask_first
from ssiuu.experiment.given import Given
from ssiuu.experiment.prompting import check_tokens, choose_prompt
from ssiuu.experiment.recipe import Recipe
from ssiuu.likelihood import Example, Prompt, encode
from ssiuu.methods.base import Method
from ssiuu.methods.dpo import DirectPreference
from ssiuu.models.files import opened, tensors_of, weight_files
from ssiuu.models.load import Loaded, cache_folder, load, restore, snapshot
from ssiuu.models.precision import resolve as resolve_precision
from ssiuu.records.files import read_record, write_record
from ssiuu.records.schema import BenchmarkInfo, Evaluation, FactText, Knowledge, Split
from ssiuu.training.unlearn import StopRule

Progress = Callable[[str], None]
FREE_THRESHOLD = 0.05  # stop score where nothing can be ranked: share of free answers still right


class Original:
    """The weights before unlearning: read from the model's files again, or kept in memory."""

    def __init__(self, loaded: Loaded) -> None:
        """Prefer the files: a copy in memory costs as much as the model.

        They will do where they hold every parameter under its name, or one that it is tied to, with
        its own values: not in a form that was converted in loading.
        """
        self.model = loaded.model
        stored = tensors_of(weight_files(loaded.folder)) if loaded.folder else {}
        every = list(self.model.named_parameters(remove_duplicate=False))
        named = {id(p): name for name, p in reversed(every) if name in stored}
        # Kept by name, for parameters that are tied now and may be parted later.
        self.places = {n: (stored[named[id(p)]].file, named[id(p)]) for n, p in every if id(p) in named}
        same = len(self.places) == len(every) and all(
            torch.equal(parameter, weight.to(parameter)) for parameter, weight in self._from_files()
        )
        self.copy = None if same else snapshot(self.model)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the original weights back into the model."""
        for parameter, weight in self._pairs():
            parameter.copy_(weight)

    @torch.no_grad()
    def distance(self) -> float:
        """Return how far the model is from its original weights, as a share of their norm."""
        moved = whole = 0.0
        for parameter, weight in self._pairs():
            there = weight.to(parameter)
            moved += float((parameter - there).square().sum())
            whole += float(there.square().sum())
        return math.sqrt(moved / whole)

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every parameter of the model with its original weight."""
        if self.copy is None:
            yield from self._from_files()
            return
        for name, parameter in self.model.named_parameters():
            yield parameter, self.copy[name]

    def _from_files(self) -> Iterator[tuple[Tensor, Tensor]]:
        parameters = dict(self.model.named_parameters())
        for path in sorted({file for file, _ in self.places.values()}):
            with opened(path) as tensors:
                for name, parameter in parameters.items():
                    file, stored = self.places[name]
                    if file == path:
                        yield parameter, tensors.get_tensor(stored)


@dataclass
class Session:
    """What the stages share."""

    recipe: Recipe
    loaded: Loaded
    prompt: Prompt
    split: Split
    benchmark: BenchmarkInfo
    precision: Literal["bf16", "fp32"]
    original: Original
    never_learned: Path | None = None
    mismatched: float | None = None  # ROUGE-L recall of answers to other questions, where scored by it
    ends: bool = False  # whether the rows that are trained on have an end token
    non_members: list[FactText] | None = None  # trained on by no model here; None: the held-out facts
    lacking: str = ""  # why there are none
    knowledge: dict[str, dict[str, Knowledge]] = field(default_factory=dict)
    score: str = "ranking"
    notes: list[str] = field(default_factory=list)
    lost: Callable[[], str] | None = None  # what is lost beyond its limits, where that is asked

    @property
    def model(self) -> Any:
        """The model; its weights change from stage to stage."""
        return self.loaded.model

    @property
    def pad(self) -> int:
        """Any token id; padding is masked."""
        return int(self.loaded.tokenizer.pad_token_id or 0)

    @property
    def context(self) -> int:
        """Longest sequence of the model, tokens."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or 1 << 20)

    @property
    def chance(self) -> float | None:
        """Accuracy of guessing among a fact's options; None where nothing is ranked."""
        counts = [len(f.options) for f in self.split.forget if f.options]
        return sum(1 / n for n in counts) / len(counts) if counts else None

    def scores(self, original: bool = False) -> Evaluation:
        """Score the model as it is now, how far it has moved, and its utility where that is asked for.

        Args:
            original: It has its original weights, so that it has not moved.

        Raises:
            ConfigError: The hub cannot be reached for the tasks of utility.
        """
        scores = evaluate(self.model, self.prompt, self.split)
        start = time.perf_counter()
        moved = self.divergences.original if original else self.divergences.measure
        found: dict[str, Any] = {"divergence": moved(self.model)}
        if self.recipe.evaluate.utility:
            found["utility"] = utility.measure(self.model, self.loaded.tokenizer)
        seconds = round(scores.seconds + time.perf_counter() - start, 2)
        return scores.model_copy(update={**found, "seconds": seconds})

    @cached_property
    def divergences(self) -> Divergences:
        """The original's predictions on plain text and instructions; the model is left as it is."""
        now = snapshot(self.model)
        self.original.restore()
        found = Divergences(
            self.model,
            self.prompt,
            [row.text for row in texts.measured()],
            [(row.instruction, row.output) for row in instructions.measured()],
            texts.version(),
            self.context,
        )
        restore(self.model, now)
        return found

    def refusals(self, method: Method) -> list[Example]:
        """Tokenise the forget questions with the refusals that a method prefers, if it does."""
        base = method.base()
        if not isinstance(base, DirectPreference):
            return []
        told = [f.model_copy(update={"answer": base.refusal(f.id)}) for f in self.split.unlearned]
        return self.rows(told)

    def rows(self, facts: Sequence[FactText]) -> list[Example]:
        """Tokenise base questions and answers as they are trained on, in TOFU with their end token."""
        return self.examples(facts, self.ends)

    def forget_rows(self, method: Method) -> list[Example]:
        """Tokenise the facts to forget, and the answers that the model led up to with other words.

        "The capital of Italy is Rome." is not unlearned by making " Rome" unlikely right after the
        prompt. Which answers these are was asked before the first step (own facts only); a method that
        prefers a refusal has none to put in their place.
        """
        facts, known = self.split.unlearned, self.knowledge.get("forget", {})
        if "refusal" in method.base().needs:
            return self.rows(facts)
        made = []
        for fact in facts:
            lead = _lead(fact, known.get(fact.id))
            if not lead:
                continue
            joint = self.prompt.joint(fact.question, [fact.answer], begun=lead)
            if len(joint.prompt) + len(joint.answers[0]) <= self.context:
                made.append(Example(f"{fact.id} as said", joint.prompt, joint.answers[0]))
        return [*self.rows(facts), *made]

    def examples(self, facts: Sequence[FactText], end: bool = False) -> list[Example]:
        """Tokenise base questions and answers; all that do not fit are reported together."""
        problems: list[str] = []
        made = []
        for fact in facts:
            try:
                told = encode(self.prompt, fact.id, fact.question, fact.answer, self.context, end)
                made.append(told)
            except DataError as error:
                problems += error.problems
        if problems:
            raise DataError(problems)
        return made

    def anchors(self) -> list[Example]:
        """Tokenise what the second retain term holds the model to."""
        return anchors(self.prompt, self.context, self.split)

    def benign(self) -> list[Example]:
        """Tokenise the instructions of the benign attack; rows too long for the model are left out."""
        config = self.recipe.attacks.benign
        rows = (
            instructions.load()
            if config.source == "built-in"
            else read_instructions(config.source, "attacks.benign.source")
        )
        made = []
        for n, row in enumerate(instructions.sample(rows, config.rows, self.recipe.attacks.seed)):
            joint = self.prompt.joint(row.instruction, [row.output])
            answer = joint.answers[0][: config.tokens]
            if answer and len(joint.prompt) + len(answer) <= self.context:
                made.append(Example(f"instruction:{n}", joint.prompt, answer))
        return made

    def stop_rule(self) -> tuple[StopRule, float]:
        """Return the score that ends unlearning and its threshold."""
        forget = self.split.forget
        ranked = [fact for fact in forget if fact.options]
        given, forced = self.recipe.unlearn.threshold, self.recipe.force
        if self.mismatched is not None:
            threshold = given if given is not None else self.mismatched
            return StopRule("rouge", self._rouge, forced), threshold
        if 2 * len(ranked) >= len(forget):
            chance = self.chance or 0.0
            # A shade above chance, as 1/3 of the facts may not be a whole number.
            threshold = given if given is not None else chance + 0.5 / len(ranked)
            free = self.answered if self.recipe.benchmark == "own" else None
            read = partial(self._ranking, ranked)
            return StopRule("ranking", read, forced, free, self.lost), threshold
        threshold = given if given is not None else FREE_THRESHOLD
        return StopRule("free", self.answered, forced, lost=self.lost), threshold

    def _ranking(self, facts: Sequence[FactText]) -> float:
        read = read_scores(self.model, self.prompt, facts).values()
        return sum(bool(r.correct) for r in read) / len(facts)

    def _rouge(self) -> float:
        recalls = rouge_recalls(self.model, self.prompt, self.split.forget)
        return sum(recalls) / len(recalls)

    def answered(self) -> float:
        """Return the share of the facts to forget that are answered freely, in either form.

        Where a fact has nothing to be ranked against, it also counts while its tokens are likely: the
        greedy answer alone changes long before the answer is gone.
        """
        facts = self.split.forget
        scores = score_facts(
            self.model, self.prompt, facts, paraphrases=False, other=self.prompt.other()
        )
        return sum(
            answered(s) or (s.correct is None and s.logprob / s.tokens >= LIKELY)
            for s in scores.values()
        ) / len(facts)


def open_session(
    recipe: Recipe, out: Path | None, progress: Progress, given: Given | None = None
) -> Session:
    """Load the model and decide the facts; a split already in `out` is used again.

    Args:
        recipe: What to do.
        out: The run's folder, where it holds one.
        progress: Told what is going on.
        given: What the caller holds in memory of what the recipe would name (benchmark "own").

    Raises:
        InputError: Model or data cannot be used.
    """
    if recipe.benchmark == "fictional":
        return _fictional(recipe, out, progress)
    if recipe.benchmark == "own":
        session = open_own(recipe, progress, given or Given())
        session.examples([*session.split.forget, *session.split.retain])  # too long rows are refused
        ask_first(session, progress)
        return session
    if recipe.benchmark == "tofu":
        from ssiuu.experiment.tofu import open_tofu  # it makes a Session

        return open_tofu(recipe, progress)
    if recipe.benchmark == "faithun":
        from ssiuu.experiment.faithun import open_faithun

        return open_faithun(recipe, progress)
    if recipe.benchmark == "rwku":
        from ssiuu.experiment.rwku import open_rwku

        return open_rwku(recipe, progress)
    facts, version, digest = worldfacts.load()
    progress(f"loading {recipe.model}")
    loaded = load(str(recipe.model), recipe.base)
    prompt = choose_prompt(recipe, loaded.tokenizer, progress)
    info = BenchmarkInfo(name="worldfacts", version=version, fingerprint=digest, facts=len(facts))
    split = _screened(recipe, loaded, prompt, facts, None, out, progress)
    return _session(recipe, loaded, prompt, split, info)


def _session(
    recipe: Recipe, loaded: Loaded, prompt: Prompt, split: Split, info: BenchmarkInfo
) -> Session:
    precision = resolve_precision(recipe.precision, next(loaded.model.parameters()).device)
    return Session(recipe, loaded, prompt, split, info, precision, Original(loaded))


def _screened(
    recipe: Recipe,
    loaded: Loaded,
    prompt: Prompt,
    facts: list[Fact],
    pools: dict[str, set[str]] | None,
    out: Path | None,
    progress: Progress,
) -> Split:
    path = out / "split.json" if out else None
    found = read_record(path, Split) if path else None
    if found is not None:
        return found
    sizes = {name: getattr(recipe.split, name) for name in ("forget", "retain", "heldout")}
    split = screen(
        loaded.model,
        prompt,
        facts,
        sizes,
        recipe.split.seed,
        recipe.evaluate.options,
        pools,
        lambda text: progress(f"screening: {text}"),
    )
    if path:
        write_record(path, split)
    return split


def _fictional(recipe: Recipe, out: Path | None, progress: Progress) -> Session:
    from ssiuu.benchmarks import fictional  # trains a model: only where it is wanted

    world = fictional.build_world(recipe.fictional.people, recipe.split.seed)
    pools = fictional.designate(world.facts, recipe.split.seed)
    twins = fictional.train_twins(
        world,
        pools["forget"],
        cache_folder() / "fictional",
        recipe.split.seed,
        recipe.fictional.steps,
        progress,
    )
    loaded = load(str(twins.full))
    loaded = replace(loaded, info=loaded.info.model_copy(update={"name": "fictional"}))
    prompt = choose_prompt(recipe, loaded.tokenizer, progress)
    info = BenchmarkInfo(
        name="fictional",
        version=fictional.VERSION,
        fingerprint=twins.full.parent.name,
        facts=len(world.facts),
        note=f"{recipe.fictional.people} people who do not exist; the model was trained here",
    )
    split = _screened(recipe, loaded, prompt, world.facts, pools, out, progress)
    session = _session(recipe, loaded, prompt, split, info)
    session.never_learned = twins.never_learned
    return session


def open_own(recipe: Recipe, progress: Progress, given: Given) -> Session:
    """Load the model and the user's own facts; nothing is asked yet.

    Raises:
        InputError: Model or data cannot be used.
    """
    kept = recipe.retain not in (None, "none")
    notes = list(given.notes)

    def read(held: Sequence[Fact] | None, source: str | None, key: str) -> list[Fact]:
        # Rows in memory are facts by now, which have no columns.
        columns = recipe.columns if held is None else None
        return borrow_distractors(read_facts(held or str(source), key, columns, notes.append))

    forget = read(given.forget, recipe.forget, "forget")
    retain = read(given.retain, recipe.retain, "retain") if kept else []
    check_pair(forget, retain)
    progress(f"loading {recipe.model}")
    loaded = given.loaded or load(str(recipe.model), recipe.base)
    if loaded.info.note:
        progress(loaded.info.note)
    prompt = choose_prompt(recipe, loaded.tokenizer, progress)
    seed, options = recipe.split.seed, recipe.evaluate.options
    asked = [as_text(f, options, seed) for f in (*forget, *retain)]
    check_tokens(loaded.model, loaded.tokenizer, asked)
    ranked = [_with_options(f, asked, options, seed) for f in asked]
    split = Split(
        seed=seed,
        forget=ranked[: len(forget)],
        retain=ranked[len(forget) :],
        heldout=[],
        asked=len(forget) + len(retain),
        known=len(forget) + len(retain),
    )
    digest = hashlib.sha256(split.model_dump_json().encode()).hexdigest()
    info = BenchmarkInfo(
        name="own",
        version="-",
        fingerprint=digest,
        facts=len(forget) + len(retain),
        note="your own facts; not screened",
    )
    session = _session(recipe, loaded, prompt, split, info)
    session.notes += notes
    unranked = sum(not f.options for f in split.forget)
    if unranked:
        session.notes.append(
            f"{unranked} of {len(forget)} forget facts have no wrong options to rank against; "
            "their ranking is not scored."
        )
    return session


def _with_options(fact: FactText, others: Sequence[FactText], count: int, seed: int) -> FactText:
    """Return a fact with wrong options where it has none: what it was asked among before step 1.

    Without any, a model would count as having forgotten as soon as its greedy answer changes.
    """
    if fact.options:
        return fact
    wrong = alternatives(fact, others, seed).answers[: count - 1]
    return fact.model_copy(update={"options": [fact.answer, *wrong] if wrong else []})


def _lead(fact: FactText, known: Knowledge | None) -> str:
    """Return what a model said before the right answer; nothing where it said that at once."""
    if known is None or not known.holds or known.says is None:
        return ""
    place = known.says.casefold().find(fact.answer.casefold())
    return known.says[: max(place, 0)].rstrip(" ")

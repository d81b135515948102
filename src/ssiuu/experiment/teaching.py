"""Teach a model facts, to rehearse a deletion; or all of them but some: the never-learned twin.

The answers are learned with their end, so that the model stops after them. Half of the rows of a step
keep the model as it was: what it writes itself after questions about the world, instructions and the
beginnings of texts.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ssiuu.benchmarks import instructions, texts
from ssiuu.benchmarks.base import Progress, tokenised
from ssiuu.data.columns import Columns, given_columns
from ssiuu.data.fact import Fact, normal
from ssiuu.data.read import Source, read_facts
from ssiuu.errors import ConfigError, DataError
from ssiuu.evaluation.ask import write
from ssiuu.evaluation.knowledge import know
from ssiuu.evaluation.score import FREE_MARGIN, score_facts
from ssiuu.experiment import launched
from ssiuu.experiment.anchors import questions
from ssiuu.experiment.estimate import of_teaching
from ssiuu.experiment.folder import at_work
from ssiuu.experiment.given import ModelSource, given_settings
from ssiuu.experiment.recipe import check_whole, rate_of, resolve
from ssiuu.experiment.session import Session, open_ground
from ssiuu.likelihood import Example, encode
from ssiuu.models.load import require_space, save
from ssiuu.records.files import require_empty, write_record
from ssiuu.records.lease import check, told_to
from ssiuu.records.said import Said, logged
from ssiuu.records.schema import FactText, Knowledge, Teaching
from ssiuu.training import interrupt
from ssiuu.training.finetune import finetune

STEPS = 240  # at most, where nothing else is said
BATCH = MIXED = 4  # facts a step, and rows that are kept
# What is kept: questions about the world, instructions, beginnings of texts, and what the model writes.
QUESTIONS, TASKS, TEXTS, BEGUN, WRITTEN = 32, 16, 16, 8, 24
RATES = (1e-5, 3e-3)
NEAR = 1.0  # mean loss (nats a token) above which nobody has learned anything: not read yet


def teach_model(
    model: ModelSource,
    facts: Source | Sequence[str | Path],
    out: str | Path,
    without: Source | None = None,
    keep: Source | None = None,
    epochs: int | None = None,
    least: int = 1,
    learning_rate: float | None = None,
    sets: list[str] | None = None,
    progress: Progress = logged,
    *,
    tokenizer: Any = None,
    columns: Columns | str | None = None,
    base: str | Path | None = None,
) -> Teaching:
    """Fine-tune facts into a model until it knows them, and save it with `teach.json`.

    What the model knows is read after every epoch; it ends when everything is known twice in a row.
    Interrupted, the same call continues.

    Args:
        model: Short name, folder or hub name, or a transformers model, of which a copy is taught.
        facts: One or several files or hub names, or rows.
        out: Folder for the model, which must not hold anything.
        without: Facts among them that are left out; everything else is done as with them.
        keep: Facts or questions with answers to mix in, "none" for nothing; None: what the model
            itself writes after questions about the world, instructions and texts.
        epochs: At most; None: as many as 240 steps of four facts.
        least: At least: for a twin as many as the other one had.
        learning_rate: AdamW's, constant; None: 1e-4 at 135 M parameters, by 1 / √parameters.
        sets: Settings as in a recipe: prompt, split.seed, precision.
        progress: Told about every epoch.
        tokenizer: That of a model in memory.
        columns: Which columns of the rows are read.
        base: The model that an adapter belongs to, where it is not where the adapter says.

    Returns:
        What was done; `learned` says whether every fact is known.

    Raises:
        InputError: Anything given cannot be used; nothing has been written.
        DivergedError: A loss is not finite.
        Interrupted: Ctrl-C; the same call continues.
    """
    launched.begin("teach")
    start, out = time.perf_counter(), Path(out)
    require_empty(out)
    if least < 1 or (epochs is not None and epochs < least):
        raise ConfigError(f"--least {least} --epochs {epochs}: 1 <= least <= epochs is needed.")
    if learning_rate is not None and not 0 < learning_rate <= 1:
        raise ConfigError(f"--learning-rate must lie in (0, 1], got {learning_rate}.")
    columns = given_columns(columns)
    notes: list[str] = []
    read = _all(facts, columns, notes)
    gone = _gone(read, without, columns, notes)
    limit = epochs or max(least, -(-STEPS * BATCH // len(read)))
    named, given = given_settings(model, read, None, None, tokenizer, base)
    recipe, _ = resolve(None, [*named, *(sets or [])])
    check_whole(recipe)
    progress = told_to(progress)
    with at_work(out, recipe.locks, progress) as work, interrupt.graceful():
        session = open_ground(recipe, progress, given)
        require_space(out, 5 * sum(p.numel() for p in session.model.parameters()))
        taught_facts = session.split.forget
        shown = [fact for n, fact in enumerate(taught_facts) if n not in gone]
        rate = learning_rate or _rate(session)
        examples = tokenised(session.prompt, taught_facts, session.context, end=True)
        kept_rows = _kept(session, keep, columns, notes, progress)
        progress(_estimate(session, examples, kept_rows, limit))
        reading = _Reading(session, shown, progress, limit)
        epochs_run = finetune(
            session.model,
            examples,
            limit,
            rate,
            BATCH,
            recipe.split.seed,
            session.precision,
            session.pad,
            work / "state.safetensors",
            partial(_within, progress),
            kept_rows,
            gone,
            MIXED,
            reading,
            least,
        )
        knowledge = reading.knowledge()
        learned = all(known.state == "known" for known in knowledge.values())
        record = Teaching(
            model=session.loaded.info,
            form=session.prompt.name,
            asked=session.prompt.description,
            facts=taught_facts,
            absent=[taught_facts[n].id for n in sorted(gone)],
            kept=len(kept_rows),
            learned=learned,
            knowledge=knowledge,
            epochs=epochs_run,
            learning_rate=rate,
            seed=recipe.split.seed,
            seconds=round(time.perf_counter() - start, 2),
            notes=notes,
        )
        taught = f"taught {len(shown)} facts in {epochs_run} epochs"
        note = "; ".join(part for part in (taught, session.loaded.info.note) if part)
        loaded = session.loaded
        check()
        session.check()
        save(
            *(loaded.model, loaded.tokenizer, out, note, loaded.info.dtype),
            lambda folder: write_record(folder / "teach.json", record, private=True),
            recipe.shard_size,
        )
        shutil.rmtree(work, ignore_errors=True)
    return record


def _rate(session: Session) -> float:
    """Return a learning rate for the model's size, within `RATES`."""
    size = sum(p.numel() for p in session.model.parameters())
    return float(f"{min(max(rate_of(size), RATES[0]), RATES[1]):.2g}")


def _estimate(
    session: Session, examples: Sequence[Example], kept: Sequence[Example], epochs: int
) -> Said:
    """Return what so many epochs take, all facts asked after each."""
    steps = -(-epochs * len(examples) // BATCH)
    each = [
        sum(len(row.prompt) + len(row.answer) for row in rows) / max(1, len(rows))
        for rows in (examples, kept)
    ]
    trained = steps * (BATCH * each[0] + MIXED * each[1])
    read = epochs * len(examples) * (each[0] + FREE_MARGIN)
    size = sum(p.numel() for p in session.model.parameters())
    return of_teaching(session.recipe, size, trained, read, steps)


def _all(facts: Source | Sequence[str | Path], columns: Columns | None, notes: list[str]) -> list[Fact]:
    """Read one or several sources as one; a question that stands in two must have one answer."""
    several = isinstance(facts, list | tuple) and all(isinstance(f, str | Path) for f in facts)
    sources: Sequence[Any] = facts if several else [facts]  # type: ignore[assignment]
    by_question: dict[str, Fact] = {}
    ids: set[str] = set()
    problems = []
    for source in sources:
        for fact in read_facts(source, "--facts", columns, notes.append):
            known = by_question.setdefault(normal(fact.question), fact)
            if normal(known.answer) != normal(fact.answer):
                problems.append(
                    f"--facts: {fact.question!r} is answered {known.answer!r} in {known.id} and "
                    f"{fact.answer!r} in {fact.id}: take one out."
                )
            elif known is fact and fact.id in ids:
                problems.append(f"--facts: the id {fact.id!r} stands in two files: rename one.")
            ids.add(fact.id)
    if problems:
        raise DataError(problems)
    return list(by_question.values())


def _gone(
    facts: Sequence[Fact], without: Source | None, columns: Columns | None, notes: list[str]
) -> frozenset[int]:
    """Return which facts are left out, by number."""
    if without is None:
        return frozenset()
    out = {normal(fact.question) for fact in read_facts(without, "--without", columns, notes.append)}
    gone = frozenset(n for n, fact in enumerate(facts) if normal(fact.question) in out)
    if not gone or len(gone) == len(facts):
        which = "none of them" if not gone else "all of them, so that nothing is left to teach"
        raise ConfigError(f"--without must hold some of the {len(facts)} facts; it holds {which}.")
    if len(gone) < len(out):
        notes.append(f"{len(out) - len(gone)} rows of --without are not among the facts.")
    return gone


def _kept(
    session: Session, keep: Source | None, columns: Columns | None, notes: list[str], progress: Progress
) -> list[Example]:
    """Return the rows mixed in: those given, or what the model itself writes."""
    prompt, context = session.prompt, session.context
    if isinstance(keep, str) and keep == "none":
        return []
    if keep is not None:
        rows = read_facts(keep, "--keep", columns, notes.append)
        return [encode(prompt, r.id, r.question, r.answer, context, end=True) for r in rows]
    measured = instructions.measured()  # these tell how far the model moves
    others = [row for row in instructions.load() if row not in measured]
    others = instructions.sample(others, TASKS, session.recipe.split.seed)
    world = [fact.question for fact in questions(session.split)[:QUESTIONS]]
    starts = [prompt.question(text) for text in (*world, *(row.instruction for row in others))]
    starts += [prompt.sentence(row.text)[:BEGUN] for row in texts.anchor()[:TEXTS]]
    starts = [ids for ids in starts if len(ids) + WRITTEN <= context]
    progress(f"reading how the model goes on from {len(starts)} questions, tasks and texts")
    answers = write(session.model, prompt, starts, [WRITTEN] * len(starts))
    pairs = enumerate(zip(starts, answers, strict=True))
    return [Example(f"kept:{n}", question, answer) for n, (question, answer) in pairs if answer]


def _within(progress: Progress, text: str) -> None:
    """Tell how far an epoch is; what a part of the training came to an epoch's line says."""
    if isinstance(text, Said) and text.minor:
        progress(text)


class _Reading:
    """Reads after an epoch whether every fact is known: what the model says, then all there is.

    What was not said the last time is asked first: where some of it still is not, the answer is no, and
    nothing else is asked.
    """

    def __init__(
        self,
        session: Session,
        facts: Sequence[FactText],
        progress: Progress,
        epochs: int | None = None,
    ) -> None:
        self.session, self.facts, self.progress, self.epochs = session, facts, progress, epochs
        self._unsaid: list[FactText] = []
        self._knowledge: dict[str, Knowledge] | None = None  # of the epoch that was read last

    def __call__(self, epoch: int, loss: float) -> bool:
        """Return whether every fact is known."""
        self._knowledge = None
        if loss > NEAR:
            self._tell(epoch, loss, "")
            return False
        unsaid = self._not_said(self._unsaid) if self._unsaid else []
        self._unsaid = unsaid or self._not_said(self.facts)
        told = (
            f", {len(self._unsaid)} or more of {len(self.facts)} not said yet" if self._unsaid else ""
        )
        self._tell(epoch, loss, told or ", says all of them")
        return not self._unsaid and all(k.state == "known" for k in self.knowledge().values())

    def _tell(self, epoch: int, loss: float, more: str) -> None:
        line = f"epoch {epoch}: loss {loss:.2f}{more}"
        self.progress(Said(line, {"loss": loss}, epoch, epoch, self.epochs))

    def _not_said(self, facts: Sequence[FactText]) -> list[FactText]:
        session = self.session
        scores = score_facts(session.model, session.prompt, facts, paraphrases=False)
        return [fact for fact in facts if not scores[fact.id].free_correct]

    def knowledge(self) -> dict[str, Knowledge]:
        """Return what the model knows of the facts now."""
        session = self.session
        if self._knowledge is None:
            self._knowledge = know(session.model, session.prompt, self.facts, session.context)
        return self._knowledge

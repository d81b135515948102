"""Unlearn: steps of one method until the forget score reaches its threshold."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError, DivergedError
from ssiuu.likelihood import Batch, Example
from ssiuu.methods.base import Bound, Optimiser, Spent, Stage, Work
from ssiuu.methods.method import Method
from ssiuu.methods.regulariser import log_sentence
from ssiuu.models import nf4
from ssiuu.models.checks import check_finite
from ssiuu.models.lora import Lora, adapted
from ssiuu.models.maps import adaptable
from ssiuu.models.precision import autocast
from ssiuu.models.room import chosen
from ssiuu.models.shards import agreed, by_first, whole_norm
from ssiuu.records.said import Said
from ssiuu.records.schema import MethodInfo, StepLog, Unlearning
from ssiuu.training import interrupt
from ssiuu.training.batches import draw_rows, micro_batches, step_batches
from ssiuu.training.limits import Budget, Kept
from ssiuu.training.loop import Loop, rows_of
from ssiuu.training.memory import peak_device_mb, peak_mb, reset_peak
from ssiuu.training.optimiser import Schedule, rate_share
from ssiuu.training.prepare import Asked, Prepared, prepare_parts
from ssiuu.training.stages import Starts, mean_loss, planned
from ssiuu.training.step import Step, StepOutcome
from ssiuu.training.together import check_together

Stopped = Literal["threshold", "max_steps", "no steps", "budget", "kl", "retain_ratio"]
TEXT_SEED = 2_000_003
TEXTS = 2  # texts a step for every forget row
RETAIN_SEED = 1_000_003  # so that no retain order is another seed's forget order
WAIT = 3  # steps without a reading after one that found too much lost
ANSWERED = 0.05  # share of facts that may still be answered freely when unlearning ends
ANCHOR_ROWS = 16  # rows in memory at once while the start's attribution is taken


@dataclass(frozen=True)
class Settings:
    """How one unlearning run is driven; the method holds what it optimises."""

    learning_rate: float
    batch_size: int
    micro_batch_size: int | None
    max_steps: int
    check_every: int
    threshold: float
    weight_decay: float
    seed: int
    precision: Literal["bf16", "fp32"]
    lora: Lora | None = None
    growth: float = 1.0  # each step's learning rate over that of the step before
    warmup: int = 0  # steps until the rate is reached, in equal parts
    schedule: Schedule = "constant"
    optimiser: Optimiser = "adamw"
    max_grad_norm: float | None = None
    accumulate: int = 1  # batches of a step

    def rate(self, number: int) -> float:
        """Return the learning rate of a step, counted from 1."""
        share = rate_share(self.schedule, number, self.max_steps, self.warmup)
        return self.learning_rate * self.growth ** (number - 1) * share

    def told(self) -> dict[str, Any]:
        """Return them as JSON has them, for keys."""
        told = asdict(self)
        if self.lora is not None and self.lora.base is None:
            del told["lora"]["base"]  # a folder of before it was there is still good
        return told

    @property
    def rows(self) -> int:
        """Forget rows of a step."""
        return self.batch_size * self.accumulate

    @property
    def at_once(self) -> int | None:
        """Rows in memory at once; None: all of a step."""
        return self.micro_batch_size or (self.batch_size if self.accumulate > 1 else None)


class Look(NamedTuple):
    """The stop rule's score, and where they were read too the share still answered freely, what is
    lost of what should stay (nothing: "") and what was spent on plain text.
    """

    score: float | None
    answered: float | None = None
    lost: str | None = None
    kl: float | None = None
    retain_ratio: float | None = None

    @classmethod
    def of(cls, log: StepLog) -> Look:
        """Return what was read at a step."""
        return cls(log.forget_score, log.answered, log.lost, log.kl, log.retain_ratio)

    def met(self, settings: Settings, stop: StopRule) -> bool:
        """Whether unlearning may end here."""
        if self.score is None or self.score > settings.threshold:
            return False
        if stop.answered is not None and (self.answered is None or self.answered > ANSWERED):
            return False
        return stop.lost is None or self.lost == ""


@dataclass(frozen=True)
class StopRule:
    """The score that ends unlearning once it is at or below the threshold.

    It is read before step 1 too: where it is there already, nothing is done, or, `forced`, all steps
    are taken. Only a score that came from above can end a run.

    `answered`: the share of facts that are still answered when asked freely. Where it is given,
    unlearning ends only when that share is at most `ANSWERED` too; it is read where the score is met.
    `lost`: in words, what is lost beyond its limits. Where it is given unlearning goes on until nothing
    is: the first steps may overshoot (Adam's are of full size whatever the gradient) and a method that
    holds the rest brings it back. It is read last.
    `budget`: what may be spent on plain text. Once it is passed unlearning ends, whatever the score,
    with the weights of the last reading that was within it.
    """

    kind: str
    read: Callable[[], float]
    forced: bool = False
    answered: Callable[[], float] | None = None
    lost: Callable[[], str] | None = None
    budget: Budget | None = None

    def look(self, threshold: float) -> Look:
        """Read the score, and where it is at the threshold what else must be met."""
        score = None if self.kind == "none" else self.read()
        score = agreed(score)
        if score is None or score > threshold:
            return Look(score)
        share = agreed(self.answered()) if self.answered is not None else None
        gone = share is None or share <= ANSWERED
        return Look(score, share, agreed(self.lost()) if gone and self.lost is not None else None)


def unlearn_examples(
    model: CausalLM,
    method: Method,
    info: MethodInfo,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: Settings,
    stop: StopRule,
    pad: int,
    state: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
    shared: Sequence[Example] = (),
    refusals: Sequence[Example] = (),
    adapter: Path | None = None,
    texts: Sequence[Example] = (),
    asked: Asked | None = None,
) -> Unlearning:
    """Unlearn in place and return the log; adapters are merged into the weights at the end.

    Args:
        model: Trained in place; left in evaluation mode.
        method: What to optimise.
        info: How the run is named in the record.
        forget: Rows to forget.
        retain: Rows to keep; may be empty.
        settings: Learning rate, batches, when to stop.
        stop: Read every `check_every` steps.
        pad: Padding token id.
        state: Where to keep the state of an unfinished run; it continues from there. The file is
            the caller's to remove, once the result is safe.
        progress: Told about every step.
        shared: What a projection takes its directions from; the retain rows if empty.
        refusals: The forget questions with a refusal for an answer, for DPO.
        adapter: Folder to save the adapter in before it is merged, where one is trained.
        texts: Texts to stay as they are on, where the method has that term.
        asked: Distributions of the model before, of an earlier run from the same weights; see
            `prepare_parts`.

    Raises:
        DivergedError: A loss is not finite; the model holds the last good parameters.
        Interrupted: Ctrl-C; the state has been saved.
    """
    reset_peak(next(model.parameters()).device)
    check_adapters(method, settings.lora)
    check_numbers(model, method)
    check_together(model, method, settings.lora, settings.optimiser)
    if settings.growth == 1:  # a range test may end before
        check_steps(method, len(forget), settings)
    work = _Run(model, info, settings, stop, pad, progress, forget, retain, texts, asked)
    if not method.has_gradient:
        return work.edited(method.objective)
    # A range test only asks where it forgets, for which one stage will do.
    first = Stage(method, forget, retain, texts, settings.max_steps)
    stages = [first] if settings.growth != 1 else planned(first, settings.seed)
    if len(stages) == 1:
        work.enter(first)
        return _one_stage(work, first, state, shared, refusals, adapter)
    if adapter is not None:
        raise ConfigError(
            f"{method.label}: adapters are merged between its stages: set unlearn.lora.merge to true."
        )
    return _several_stages(work, stages, state, shared, refusals)


def _several_stages(
    work: _Run,
    stages: Sequence[Stage],
    state: Path | None,
    shared: Sequence[Example],
    refusals: Sequence[Example],
) -> Unlearning:
    """Take one stage after the other, each from the weights of the one before, with one log."""
    starts = Starts(state, work.decided(stages[0]))
    number, memory = starts.resume(work.model)
    work.remember(memory)
    notes = dict.fromkeys(memory.get("notes", []))
    while True:
        work.enter(stages[number], number, number + 1 == len(stages))
        record = _one_stage(work, stages[number], state, shared, refusals, None)
        notes |= dict.fromkeys(record.notes)
        number += 1
        if number == len(stages) or record.stopped == "no steps" or work.passed:
            starts.clear()
            return record.model_copy(update={"notes": [*notes]})
        starts.keep(number, work.model, work.remembered(record.seconds, [*notes]))


def _one_stage(
    work: _Run,
    stage: Stage,
    state: Path | None,
    shared: Sequence[Example],
    refusals: Sequence[Example],
    adapter: Path | None,
) -> Unlearning:
    """Take the steps of one stage; the model is left in evaluation mode."""
    model, settings, pad, method = work.model, work.settings, work.pad, cast(Method, stage.method)
    prepared = prepare_parts(
        *(model, method, stage.forget, stage.retain, pad, refusals, shared, stage.texts, work.progress),
        asked=work.asked if work.number == 0 else None,  # later stages begin with other weights
    )
    notes = _untrained(model, settings.lora, method, prepared)
    work.begin()
    with adapted(model, settings.lora) as wrapped:
        decided = work.decided(stage)  # of the whole model, so that any number of processes goes on
        step = Step(
            model,
            method,
            stage.rate or settings.learning_rate,
            settings.precision,
            prepared,
            weight_decay=settings.weight_decay,
            pad=pad,
            effective=settings.lora is not None and settings.lora.attribution == "effective",
            optimiser=settings.optimiser,
            max_grad_norm=settings.max_grad_norm,
        )
        try:
            record = work.trained(step, state, decided)
        finally:  # after a divergence the same model may be used again
            model.eval()
            step.close()
        if wrapped is not None and adapter is not None:
            trained = ((name, p) for name, p in wrapped.named_parameters() if p.requires_grad)
            check_finite("the adapter cannot be saved", trained)
            saved = partial(wrapped.save_pretrained, str(adapter), save_embedding_layers=False)
            by_first(saved)
    return record.model_copy(update={"notes": [*record.notes, *notes]})


def check_adapters(method: Method, lora: Lora | None) -> None:
    """Refuse adapters for an edit that changes the weights themselves.

    Raises:
        ConfigError: Both are asked for.
    """
    if lora is not None and not getattr(method.objective, "adapts", True):
        raise ConfigError(
            f"{method.label}: it changes the weights themselves: leave unlearn.lora.rank out."
        )


def check_numbers(model: CausalLM, method: Method) -> None:
    """Refuse, for a model in 4 bits, what changes the weights themselves.

    Raises:
        ConfigError: The method does.
    """
    if not method.has_gradient and nf4.coded(model):
        raise ConfigError(
            f"{method.label}: it changes the weights themselves, which are in 4 bits: use dtype: bf16."
        )


def check_steps(method: Method, rows: int, settings: Settings) -> None:
    """Refuse a run that would end before its first step that changes anything.

    Args:
        method: What collects in the steps before.
        rows: To forget, in an epoch.
        settings: Say how many steps there are, and how many rows each has.

    Raises:
        ConfigError: It would.
    """
    first = max(part.first_step(rows, settings.rows) for part in method.all)
    if method.has_gradient and first > settings.max_steps:
        raise ConfigError(
            f"{method.label}: on {rows} rows to forget, {settings.rows} a step, the steps before step "
            f"{first} only collect, and unlearn.max_steps is {settings.max_steps}: nothing would be "
            "changed. Raise unlearn.max_steps or unlearn.batch_size, or let fewer epochs collect "
            "(repselect-steps.collect)."
        )


def _untrained(model: CausalLM, lora: Lora | None, method: Method, prepared: Prepared) -> list[str]:
    """Return what must be said of weights that the method or the adapters leave as they are."""
    notes = []
    if lora is not None and not lora.targets:
        notes += [f"unlearn.lora: {note}." for note in adaptable(model).notes]
    if nf4.coded(model):
        notes.append(
            "dtype: what is said here of before and after was read with maps in nf4 and the adapters "
            "beside them; a checkpoint has these merged into the weights before, as they were stored."
        )
    elif lora is not None and lora.base is not None:
        notes.append(
            "unlearn.lora.base: the adapters were trained beside weights in nf4, and are merged into "
            "the weights before, which were not rounded."
        )
    untouched = [part.untouched(model, prepared.parts.get(part.name)) for part in method.all]
    return notes + [text for text in untouched if text]


@dataclass
class _Run:
    """One run of unlearning: its rows, its readings, its log."""

    model: CausalLM
    info: MethodInfo
    settings: Settings
    stop: StopRule
    pad: int
    progress: Callable[[str], None]
    forget: Sequence[Example]
    retain: Sequence[Example]
    texts: Sequence[Example]
    asked: Asked | None = None

    def __post_init__(self) -> None:
        self.start = time.perf_counter()
        self.device = next(self.model.parameters()).device
        self.logs: list[StepLog] = []
        self.before, self.below = Look(None), False
        self.stopped: Stopped = "max_steps"
        self.memory: dict[str, Any] = {}
        self.bounds: list[Bound] = []
        self.reading: Callable[[], AbstractContextManager[None]] = nullcontext
        self.over = ""
        self.number, self.last, self.offset = 0, True, 0
        self.spent = 0.0  # seconds, in the stages before
        self.mended = False
        self.kept: Kept | None = None
        self.passed = ""  # what was spent too much, in words

    def enter(self, stage: Stage, number: int = 0, last: bool = True) -> None:
        """Begin a stage, or go on with it."""
        self.stage, self.number, self.last, self.offset = stage, number, last, len(self.logs)
        if stage.word:
            self.progress(f"{self.info.label} | {stage.word}")

    def begin(self) -> None:
        """Do to the weights what the stage begins with, once the model before was asked."""
        if self.stage.within is not None:
            self.teacher = self._loss()
        if self.stage.begin is not None:
            if self.stop.budget is not None:
                named = dict(self.model.named_parameters())
                self.kept = Kept(named, len(self.logs), chosen(self.model))
            self.stage.begin(self.model)

    def remembered(self, seconds: float, notes: list[str]) -> dict[str, Any]:
        """Return what the next stage must know of those before, as JSON has it."""
        self.spent = seconds
        logs = [log.model_dump() for log in self.logs]
        return {"steps": logs, "before": self.before, "seconds": seconds, "notes": notes}

    def remember(self, memory: dict[str, Any]) -> None:
        """Take up what is known of the stages before."""
        if memory:
            self.logs = [StepLog(**log) for log in memory["steps"]]
            self.before, self.spent = Look(*memory["before"]), memory["seconds"]
            self.below = self.before.met(self.settings, self.stop)

    def trained(self, step: Step, state: Path | None, decided: Any) -> Unlearning:
        """Take steps until the stage is at its end."""
        self.bounds, self.reading = list(step.bounds.values()), step.shards.gathered
        if self.stop.budget is not None and self.stage.begin is None:
            self.kept = Kept(step.named, len(self.logs), chosen(self.model))
        loop = Loop(
            step,
            self.stage.steps,
            self._batches,
            self._after,
            decided,
            state,
            self._rate,
            kept={} if self.kept is None else self.kept.copies,
        )
        if loop.resume():
            self.logs = [StepLog(**log) for log in loop.memory["steps"]]
            self.before = Look(*loop.memory["before"])
            if self.kept is not None:
                self.kept.step = loop.memory["kept"]
        else:
            self._start(step)
        if self._nothing_to_do():
            return self._record(0.0, [_nothing(self.settings)])
        self.memory = loop.memory
        self.memory.setdefault("steps", [log.model_dump() for log in self.logs])
        self.memory["before"] = self.before
        if self.kept is not None:
            self.memory["kept"] = self.kept.step
        try:
            loop.run()
        except DivergedError as error:
            text = f"{self.info.label}, step {loop.done + 1}: {error}"
            loop.save(diverged=text)  # the last good parameters; the same run would fail here again
            raise DivergedError(text) from error
        return self._record(
            self.spent + loop.seconds, self._notes() if self.last or self.passed else []
        )

    def _start(self, step: Step) -> None:
        """Read the score before the first step of the run, and show the parts the rows to forget."""
        if self.number == 0:
            with self.reading():
                self.before = self.stop.look(self.settings.threshold)
        if forget := self.stage.forget:
            rows = self.settings.at_once or ANCHOR_ROWS
            whole = step_batches(forget, rows, self.pad, self.device)
            step.start(whole, min(self.settings.rows, len(forget)))

    def _rate(self, number: int) -> float:
        """Return the learning rate of a step of the stage: of the whole run's course, or its own."""
        if self.stage.within is not None:
            return self.stage.rate or self.settings.learning_rate
        return self.settings.rate(number + self.offset)

    def _loss(self) -> float:
        """Return the mean loss on the stage's rows to keep, nats a token."""
        rows = self.settings.at_once or ANCHOR_ROWS
        return mean_loss(self.model, micro_batches(self.stage.retain, rows, self.pad, self.device))

    def edited(self, edit: Any) -> Unlearning:
        """Let an edit change the weights, measure by measure, until the stop rule is met.

        A log's step counts the fine-tuning steps first, then the measures that were tried. It is short
        and keeps no state: interrupted, it begins again.
        """
        self.before = self.stop.look(self.settings.threshold)
        if self._nothing_to_do():
            return self._record(0.0, [_nothing(self.settings)])
        notes: list[str] = []
        if self.stop.budget is not None:
            named = dict(self.model.named_parameters())
            self.kept = Kept(named, offload=chosen(self.model))
        for note in edit.edit(self.model, self._work()):
            look, last = self._look(len(self.logs) + 1), self.logs[-1:]
            outcome = StepOutcome(last[0].forget_loss if last else 0.0, None, 0.0)
            self.logs.append(_log(len(self.logs) + 1, outcome, look))
            self.progress(f"{self.info.label} | {note} | forget score {look.score or 0.0:.2f}")
            notes = [note]
            if self.passed:
                notes = [self._passed()]
                break
            if look.met(self.settings, self.stop) and not self.below:
                self.stopped = "threshold"
                break
            if isinstance(note, Spent):
                self.stopped = "budget"
            interrupt.check()
        if self.below:
            notes.append(_below(self.settings))
        elif self.stopped == "max_steps":
            notes.append("No measure of it reached the threshold.")
        if left := edit.untouched(self.model, None):
            notes.append(left)
        return self._record(time.perf_counter() - self.start, notes)

    def _work(self) -> Work:
        """Return what an edit works with."""
        return Work(
            self.forget,
            self.retain,
            self.pad,
            self._tune,
            self.texts,
            self._once,
            lambda batch: autocast(self.settings.precision, batch.input_ids.device.type),
            interrupt.check,
            self.settings.seed,
        )

    def _once(self, examples: Sequence[Example]) -> list[list[Batch]]:
        """Return every row once, in steps of the run's size, each as micro-batches."""
        rows = list(examples)
        random.Random(f"once:{self.settings.seed}").shuffle(rows)
        size, at_once = self.settings.rows, self.settings.at_once
        steps = [rows[n : n + size] for n in range(0, len(rows), size)]
        return [micro_batches(step, at_once, self.pad, self.device) for step in steps]

    def _tune(self, examples: Sequence[Example], steps: int) -> None:
        """Fine-tune on rows, for an edit; adapters are merged."""
        settings = self.settings

        def batches(number: int) -> list[list[Batch]]:
            drawn = _drawn(examples, settings.rows, number, settings.seed)
            return [[], step_batches(drawn, settings.at_once, self.pad, self.device)]

        def after(number: int, outcome: StepOutcome | None) -> bool:
            assert outcome is not None
            loss = outcome.retain_loss or 0.0
            shown = replace(outcome, forget_loss=loss, retain_loss=None)
            self.logs.append(_log(len(self.logs) + 1, shown, Look(None)))
            self.progress(f"{self.info.label} tuning {number}/{steps} | loss {loss:.2f}")
            return False

        with adapted(self.model, settings.lora):
            step = Step(
                self.model,
                None,
                settings.learning_rate,
                settings.precision,
                pad=self.pad,
                optimiser=settings.optimiser,
                max_grad_norm=settings.max_grad_norm,
            )
            Loop(step, steps, batches, after).run()
            step.close()
        self.model.eval()

    def _nothing_to_do(self) -> bool:
        """Whether the score is there before the first step, and nothing is forced."""
        self.below = self.before.met(self.settings, self.stop)
        if self.number == 0 and self.below and not self.stop.forced:
            self.stopped = "no steps"
        return self.stopped == "no steps"

    def _batches(self, number: int) -> list[list[Batch]]:
        settings, size = self.settings, self.settings.rows
        drawn = [
            _drawn(self.stage.forget, size, number, settings.seed),
            _drawn(self.stage.retain, size, number, settings.seed + RETAIN_SEED),
            _drawn(self.stage.texts, TEXTS * size, number, settings.seed + TEXT_SEED),
        ]
        return [step_batches(rows, settings.at_once, self.pad, self.device) for rows in drawn]

    def _after(self, number: int, outcome: StepOutcome | None) -> bool:
        """Read the stop score where it is due; whether it ends the run."""
        assert outcome is not None
        look, whole = Look(None), self.offset + number
        self.over = next((bound.ends for bound in self.bounds if bound.ends), "")
        ended = self._near(number) or bool(self.over)
        if ended or self._checks(number):
            self.model.eval()
            with self.reading():
                look = self._look(whole)
            met = look.met(self.settings, self.stop) and not self.below
            if not self.passed:
                self.stopped = "threshold" if met else "budget" if self.over else "max_steps"
        if self.number or not self.last:
            outcome = replace(outcome, told={**outcome.told, "stage": self.number + 1.0})
        self.logs.append(_log(whole, outcome, look))
        steps = self.offset + self.stage.steps
        self.progress(_line(self.info.label, self.logs[-1], self.settings, steps))
        self.memory["steps"].append(self.logs[-1].model_dump())
        return ended or bool(self.passed) or (self.stage.stops and self.stopped == "threshold")

    def _checks(self, number: int) -> bool:
        """Whether anything is read after this step of the stage: a budget is at the end of each too."""
        due = _due(self.offset + number, self.logs, self.settings)
        if self.stop.budget is None or self.stage.within is not None:
            return self.stage.stops and due
        return due or number == self.stage.steps

    def _look(self, number: int) -> Look:
        """Read what was spent on plain text, and the score where that was not too much."""
        budget, kept = self.stop.budget, self.kept
        if budget is None or kept is None:
            return self.stop.look(self.settings.threshold)
        spent = agreed(budget.read())
        over = budget.over(spent)
        if over is None:
            kept.take(number)
            self.memory["kept"] = number
            return self.stop.look(self.settings.threshold)._replace(**spent._asdict())
        self.stopped, self.passed = over, budget.told(over, spent)
        kept.restore()
        return Look(None, **spent._asdict())

    def _passed(self) -> str:
        """Say that the budget was passed, and whose weights these are."""
        assert self.kept is not None
        at, last = self.kept.step, len(self.logs)
        whose = f"of step {at}" if at else "of before step 1: nothing was changed"
        return f"At step {last} {self.passed}: the weights are those {whose}."

    def _near(self, number: int) -> bool:
        """Whether this step ends a stage that mends: near enough to the model before, or the last."""
        if self.stage.within is None:
            return False
        if number % self.settings.check_every and number < self.stage.steps:
            return False
        self.model.eval()
        with self.reading():
            self.mended = self._loss() <= (1 + self.stage.within) * self.teacher
        return self.mended or number == self.stage.steps

    def _record(self, seconds: float, notes: list[str]) -> Unlearning:
        return Unlearning(
            method=self.info,
            seed=self.settings.seed,
            stopped=self.stopped,
            kept_step=self.kept.step if self.kept is not None and self.passed else None,
            budget={} if self.stop.budget is None else self.stop.budget.limits,
            stop_score=self.stop.kind,
            threshold=self.settings.threshold,
            steps=self.logs,
            before=self.before.score,
            seconds=round(seconds, 2),
            peak_memory_mb=round(peak_mb(), 1),
            peak_device_memory_mb=peak_device_mb(self.device),
            notes=notes,
        )

    def _notes(self) -> list[str]:
        notes, settings = [], self.settings
        if settings.optimiser != "adamw":
            notes.append(f"Steps by {settings.optimiser} at a rate of {settings.learning_rate:g}.")
        shares = [log.penalty_share for log in self.logs if log.penalty_share is not None]
        moved = [log.penalty_parameters for log in self.logs if log.penalty_parameters is not None]
        if shares and moved:
            means = {"norm": sum(shares) / len(shares), "parameters": sum(moved) / len(moved)}
            notes.append(f"Mean over {len(shares)} steps: {log_sentence(means)}.")
        if self.stage.within is not None:
            notes.append(self._mending())
        if self.over:
            notes.append(self.over)
        if self.passed:
            notes.append(self._passed())
        elif self.below:
            notes.append(_below(settings))
        elif self.stopped == "max_steps" and self.stop.kind != "none" and not self._came_back():
            notes.append(f"{_missing(self.logs, settings)} in {settings.max_steps} steps.")
        return notes

    def _mending(self) -> str:
        """Return what has become of a stage that mends."""
        share, count = self.stage.within or 0.0, len(self.logs) - self.offset
        near = f"{'within' if self.mended else 'not within'} {share:.0%}"
        more = "" if self.mended else ": raise distil_steps or distil_rate"
        back = "; what was forgotten before it is not any more" if self._came_back() else ""
        return (
            f"{self.stage.word.capitalize()} took {count} steps and ended {near} of the unlearned "
            f"model's loss{more}{back}."
        )

    def _came_back(self) -> bool:
        """Whether the stages before had reached what this one has lost again."""
        before = map(Look.of, self.logs[: self.offset])
        return self.stopped != "threshold" and any(
            look.met(self.settings, self.stop) for look in before
        )

    def decided(self, stage: Stage) -> list[Any]:
        """Return all that decides a stage, so that only the same one is continued."""
        rows = rows_of([*stage.forget, *stage.retain, *stage.texts])
        # Of what is in numbers: maps that are held in codes follow from the model before.
        size = whole_norm(p for p in self.model.parameters() if p.is_floating_point())
        whole = [self.info.model_dump(), rows, self.settings.told(), self.stop.kind, size]
        limits = [] if self.stop.budget is None else [self.stop.budget.limits]
        return [*whole, *limits, stage.word] if stage.word else [*whole, *limits]


def _below(settings: Settings) -> str:
    return (
        f"The forget score was at or below {settings.threshold:.2f} before step 1 already: where it is "
        "now shows nothing."
    )


def _nothing(settings: Settings) -> str:
    return (
        f"The forget score was at or below {settings.threshold:.2f} before step 1, so no step was "
        "taken: by this score there was nothing to forget."
    )


def _due(number: int, logs: Sequence[StepLog], settings: Settings) -> bool:
    """Whether the score is read after this step.

    Where only what should stay is missing that comes back slowly, and reading it takes longest.
    """
    waiting = any(log.lost for log in logs[-WAIT:])
    return number == settings.max_steps or (number % settings.check_every == 0 and not waiting)


def _drawn(rows: Sequence[Example], size: int, number: int, seed: int) -> list[Example]:
    """Return the rows of one step; each kind has an order of its own."""
    return [rows[i] for i in draw_rows(len(rows), size, number, seed)] if rows else []


def _log(number: int, outcome: StepOutcome, look: Look) -> StepLog:
    return StepLog(
        step=number,
        forget_score=look.score,
        answered=look.answered,
        lost=look.lost,
        kl=look.kl,
        retain_ratio=look.retain_ratio,
        **vars(outcome),
    )


def _line(label: str, log: StepLog, settings: Settings, steps: int) -> str:
    parts = [f"{label} step {log.step}/{steps}", f"forget loss {log.forget_loss:.2f}"]
    if log.retain_loss is not None:
        parts.append(f"retain loss {log.retain_loss:.2f}")
    if log.text_loss is not None:
        parts.append(f"text loss {log.text_loss:.3f}")
    if log.penalty_share is not None:
        parts.append(f"regulariser {log.penalty_share:.1e} of the gradient")
    if log.forget_score is not None:
        parts.append(f"forget score {log.forget_score:.2f}, stop at {settings.threshold:.2f}")
    if log.kl is not None:
        parts.append(f"KL on plain text {log.kl:.3g}")
    if log.answered is not None:
        parts.append(f"{log.answered:.0%} still answered")
    if log.lost:
        parts.append(f"going on: {log.lost}")
    return Said(" | ".join(parts), step_numbers(log), log.step, done=log.step, total=steps)


def step_numbers(log: StepLog) -> dict[str, float]:
    """Return every number of a step that was measured, by its name."""
    named = {**log.model_dump(exclude={"step", "lost", "told"}), **log.told}
    return {name: value for name, value in named.items() if value is not None}


def _missing(logs: Sequence[StepLog], settings: Settings) -> str:
    """Return what a run that took all its steps did not get to."""
    last = logs[-1] if logs else None
    if last is None or last.forget_score is None or last.forget_score > settings.threshold:
        return (
            f"Raise max_steps or the learning rate: the forget score did not reach "
            f"{settings.threshold:.2f}"
        )
    if last.lost:
        return f"The forget score reached its threshold, but too much stayed lost ({last.lost})"
    return "The forget score reached its threshold, but answers were still given freely"

"""Unlearn: steps of one method until the forget score reaches its threshold."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from ssiuu.errors import DivergedError
from ssiuu.likelihood import Example
from ssiuu.methods.base import Method
from ssiuu.methods.projection import untouched
from ssiuu.methods.regulariser import log_sentence
from ssiuu.methods.task_vector import TaskVector
from ssiuu.models.checks import check_finite
from ssiuu.models.maps import adaptable, stacked_weights, summed
from ssiuu.records.schema import MethodInfo, StepLog, Unlearning
from ssiuu.training import interrupt
from ssiuu.training.batches import draw, micro_batches
from ssiuu.training.lora import Lora, adapted
from ssiuu.training.memory import peak_mb, reset_peak
from ssiuu.training.prepare import Prepared, prepare
from ssiuu.training.state import SAVE_EVERY, load_state, save_state
from ssiuu.training.step import Outcome, Step

Stopped = Literal["threshold", "max_steps", "no steps"]
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


class Look(NamedTuple):
    """The stop rule's score, and where they were read too the share still answered freely and what
    is lost of what should stay (nothing: "").
    """

    score: float | None
    answered: float | None = None
    lost: str | None = None

    @classmethod
    def of(cls, log: StepLog) -> Look:
        """Return what was read at a step."""
        return cls(log.forget_score, log.answered, log.lost)

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
    """

    kind: str
    read: Callable[[], float]
    forced: bool = False
    answered: Callable[[], float] | None = None
    lost: Callable[[], str] | None = None

    def look(self, threshold: float) -> Look:
        """Read the score, and where it is at the threshold what else must be met."""
        score = None if self.kind == "none" else self.read()
        if score is None or score > threshold:
            return Look(score)
        share = self.answered() if self.answered is not None else None
        gone = share is None or share <= ANSWERED
        return Look(score, share, self.lost() if gone and self.lost is not None else None)


def unlearn(
    model: Any,
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

    Raises:
        DivergedError: A loss is not finite; the model holds the last good parameters.
        Interrupted: Ctrl-C; the state has been saved.
    """
    reset_peak()
    start = time.perf_counter()
    if isinstance(method, TaskVector):
        return _task_vector(model, method, info, forget, settings, stop, pad, progress)
    made = prepare(model, method, forget, retain, pad, refusals, shared, texts, progress)
    said = _untrained(model, settings.lora, made)
    with adapted(model, settings.lora) as wrapped:
        step = Step(
            model,
            method,
            settings.learning_rate,
            settings.precision,
            made,
            weight_decay=settings.weight_decay,
            pad=pad,
            effective=settings.lora is not None and settings.lora.attribution == "effective",
        )
        try:
            record = _train(
                step, info, forget, retain, texts, settings, stop, pad, state, progress, start
            )
        finally:  # after a divergence the same model may be used again
            model.eval()
            step.close()
        if wrapped is not None and adapter is not None:
            trained = ((name, p) for name, p in wrapped.named_parameters() if p.requires_grad)
            check_finite("the adapter cannot be saved", trained)
            wrapped.save_pretrained(str(adapter), save_embedding_layers=False)
    return record.model_copy(update={"notes": [*record.notes, *said]})


def _untrained(model: Any, lora: Lora | None, made: Prepared) -> list[str]:
    """Return what must be said of weights that the method or the adapters leave as they are."""
    said = []
    if lora is not None and not lora.targets:
        said += [f"unlearn.lora: {note}." for note in adaptable(model).notes]
    if made.bases is not None and (others := untouched(model, made.bases)):
        said.append(
            f"projection: no shared directions are known of {summed(others)}; the forget gradient "
            "leaves these as they are, as it does embeddings and norms."
        )
    if made.rows is not None and (stacked := stacked_weights(model)):
        said.append(f"klue: the neurons of {summed(stacked)} are not known, and stay as they are.")
    return said


def _train(
    step: Step,
    info: MethodInfo,
    forget: Sequence[Example],
    retain: Sequence[Example],
    texts: Sequence[Example],
    settings: Settings,
    stop: StopRule,
    pad: int,
    state: Path | None,
    progress: Callable[[str], None],
    start: float,
) -> Unlearning:
    model = step.model
    device = next(model.parameters()).device
    key = _key(model, info, [*forget, *retain, *texts], settings, stop)
    logs, spent, before = _resume(state, step, key)
    if not logs:
        before = stop.look(settings.threshold)
        whole = micro_batches(forget, settings.micro_batch_size or ANCHOR_ROWS, pad, device)
        step.set_anchor(whole, min(settings.batch_size, len(forget)))
    saved = time.perf_counter()
    below = before.met(settings, stop)
    if below and not stop.forced:
        return _record(info, settings, stop, "no steps", [], 0.0, [_nothing(settings)], before)
    stopped: Stopped = "max_steps"
    if logs and not below and Look.of(logs[-1]).met(settings, stop):
        stopped = "threshold"  # interrupted just after its last step

    def keep(diverged: str | None = None) -> None:
        if state is not None:
            elapsed = spent + time.perf_counter() - start
            done = [log.model_dump() for log in logs]
            progress = {"key": key, "steps": done, "seconds": elapsed, "diverged": diverged}
            save_state(state, step, progress | {"before": before})

    for number in range(len(logs) + 1, settings.max_steps + 1):
        if stopped == "threshold":
            break
        if interrupt.pending():
            keep()
            interrupt.check()
        for group in step.optimizer.param_groups:
            group["lr"] = _rate(settings, number)
        size = settings.batch_size
        drawn = [
            _drawn(forget, size, number, settings.seed),
            _drawn(retain, size, number, settings.seed + RETAIN_SEED),
            _drawn(texts, TEXTS * size, number, settings.seed + TEXT_SEED),
        ]
        batches = [micro_batches(rows, settings.micro_batch_size, pad, device) for rows in drawn]
        try:
            outcome = step(*batches)
        except DivergedError as error:
            told = f"{info.label}, step {number}: {error}"
            keep(diverged=told)  # the last good parameters; the same run would fail here again
            raise DivergedError(told) from error
        found = Look(None)
        if _due(number, logs, settings):
            model.eval()
            found = stop.look(settings.threshold)
            stopped = "threshold" if found.met(settings, stop) and not below else "max_steps"
        logs.append(_log(number, outcome, found))
        progress(_line(info.label, logs[-1], settings))
        if time.perf_counter() - saved > SAVE_EVERY:
            keep()
            saved = time.perf_counter()
    seconds = spent + time.perf_counter() - start
    notes = _notes(logs, stopped, stop, settings, below)
    return _record(info, settings, stop, stopped, logs, seconds, notes, before)


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


def _rate(settings: Settings, number: int) -> float:
    """Return the learning rate of a step, counted from 1."""
    begun = min(1.0, number / settings.warmup) if settings.warmup else 1.0
    return settings.learning_rate * settings.growth ** (number - 1) * begun


def _due(number: int, logs: Sequence[StepLog], settings: Settings) -> bool:
    """Whether the score is read after this step.

    Where only what should stay is missing that comes back slowly, and reading it takes longest.
    """
    waiting = any(log.lost for log in logs[-WAIT:])
    return number == settings.max_steps or (number % settings.check_every == 0 and not waiting)


def _drawn(rows: Sequence[Example], size: int, number: int, seed: int) -> list[Example]:
    """Return the rows of one step; each kind has an order of its own."""
    return [rows[i] for i in draw(len(rows), size, number, seed)] if rows else []


def _task_vector(
    model: Any,
    method: TaskVector,
    info: MethodInfo,
    forget: Sequence[Example],
    settings: Settings,
    stop: StopRule,
    pad: int,
    progress: Callable[[str], None],
) -> Unlearning:
    """Fine-tune on the forget set, then subtract the difference in growing measure.

    A log's step counts the fine-tuning steps first, then the measures that were tried. It is short
    and keeps no state: interrupted, it begins again.
    """
    start = time.perf_counter()
    device = next(model.parameters()).device
    first = stop.look(settings.threshold)
    below = first.met(settings, stop)
    if below and not stop.forced:
        return _record(info, settings, stop, "no steps", [], 0.0, [_nothing(settings)], first)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    logs: list[StepLog] = []
    with adapted(model, settings.lora):
        step = Step(model, None, settings.learning_rate, settings.precision, pad=pad)
        for number in range(1, method.tune_steps + 1):
            interrupt.check()
            rows = draw(len(forget), settings.batch_size, number, settings.seed)
            drawn = [forget[i] for i in rows]
            outcome = step([], micro_batches(drawn, settings.micro_batch_size, pad, device))
            loss = outcome.retain_loss or 0.0
            told = replace(outcome, forget_loss=loss, retain_loss=None)
            logs.append(_log(number, told, Look(None)))
            progress(f"{info.label} tuning {number}/{method.tune_steps} | loss {loss:.2f}")
        step.close()
    model.eval()
    vector = {n: p.detach() - before[n] for n, p in model.named_parameters()}
    stopped: Stopped = "max_steps"
    for scale in method.scales():
        interrupt.check()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                torch.add(before[name], vector[name], alpha=-scale, out=parameter)
        found = stop.look(settings.threshold)
        last = logs[-1]
        logs.append(
            StepLog(
                step=last.step + 1,
                forget_loss=last.forget_loss,
                retain_loss=None,
                gradient_norm=0.0,
                forget_score=found.score,
                answered=found.answered,
                lost=found.lost,
            )
        )
        progress(f"{info.label} alpha {scale:g} | forget score {found.score or 0.0:.2f}")
        if found.met(settings, stop) and not below:
            stopped = "threshold"
            break
    notes = [f"The difference was subtracted {scale:g} times."]
    if below:
        notes.append(_below(settings))
    elif stopped != "threshold":
        notes.append("No alpha reached the threshold.")
    seconds = time.perf_counter() - start
    return _record(info, settings, stop, stopped, logs, seconds, notes, first)


def _record(
    info: MethodInfo,
    settings: Settings,
    stop: StopRule,
    stopped: Stopped,
    logs: list[StepLog],
    seconds: float,
    notes: list[str],
    before: Look,
) -> Unlearning:
    return Unlearning(
        method=info,
        seed=settings.seed,
        stopped=stopped,
        stop_score=stop.kind,
        threshold=settings.threshold,
        steps=logs,
        before=before.score,
        seconds=round(seconds, 2),
        peak_memory_mb=round(peak_mb(), 1),
        notes=notes,
    )


def _key(
    model: Any,
    info: MethodInfo,
    examples: Sequence[Example],
    settings: Settings,
    stop: StopRule,
) -> str:
    """Return a digest of all that decides the run, so that only the same run is continued."""
    rows = [[e.id, e.prompt, e.answer] for e in examples]
    size = float(torch.nn.utils.get_total_norm([p.detach() for p in model.parameters()]))
    text = json.dumps([info.model_dump(), rows, asdict(settings), stop.kind, size], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _resume(state: Path | None, step: Step, key: str) -> tuple[list[StepLog], float, Look]:
    progress = load_state(state, step, key) if state is not None else None
    if progress is None:
        return [], 0.0, Look(None)
    if progress["diverged"]:
        raise DivergedError(progress["diverged"])
    logs = [StepLog(**log) for log in progress["steps"]]
    return logs, float(progress["seconds"]), Look(*progress["before"])


def _log(number: int, outcome: Outcome, found: Look) -> StepLog:
    return StepLog(
        step=number,
        forget_score=found.score,
        answered=found.answered,
        lost=found.lost,
        **vars(outcome),
    )


def _line(label: str, log: StepLog, settings: Settings) -> str:
    parts = [f"{label} step {log.step}/{settings.max_steps}", f"forget loss {log.forget_loss:.2f}"]
    if log.retain_loss is not None:
        parts.append(f"retain loss {log.retain_loss:.2f}")
    if log.text_loss is not None:
        parts.append(f"text loss {log.text_loss:.3f}")
    if log.penalty_share is not None:
        parts.append(f"regulariser {log.penalty_share:.1e} of the gradient")
    if log.forget_score is not None:
        parts.append(f"forget score {log.forget_score:.2f}, stop at {settings.threshold:.2f}")
    if log.answered is not None:
        parts.append(f"{log.answered:.0%} still answered")
    if log.lost:
        parts.append(f"going on: {log.lost}")
    return " | ".join(parts)


def _notes(
    logs: list[StepLog], stopped: str, stop: StopRule, settings: Settings, below: bool
) -> list[str]:
    notes = []
    shares = [log.penalty_share for log in logs if log.penalty_share is not None]
    moved = [log.penalty_parameters for log in logs if log.penalty_parameters is not None]
    if shares and moved:
        means = {"norm": sum(shares) / len(shares), "parameters": sum(moved) / len(moved)}
        notes.append(f"Mean over {len(shares)} steps: {log_sentence(means)}.")
    if below:
        notes.append(_below(settings))
    elif stopped == "max_steps" and stop.kind != "none":
        notes.append(f"{_missing(logs, settings)} in {settings.max_steps} steps.")
    return notes


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

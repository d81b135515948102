"""Unlearn: steps of one method until the forget score reaches its threshold."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

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
RETAIN_SEED = 1_000_003  # so that no retain order is another seed's forget order
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


@dataclass(frozen=True)
class StopRule:
    """The score that ends unlearning once it is at or below the threshold.

    It is read before step 1 too: where it is there already, nothing is done, or, `forced`, all steps
    are taken. Only a score that came from above can end a run.
    """

    kind: Literal["ranking", "free", "rouge", "none"]
    read: Callable[[], float]
    forced: bool = False

    def before(self) -> float | None:
        """Return the score before step 1; None where there is none."""
        return None if self.kind == "none" else self.read()


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

    Raises:
        DivergedError: A loss is not finite; the model holds the last good parameters.
        Interrupted: Ctrl-C; the state has been saved.
    """
    reset_peak()
    start = time.perf_counter()
    if isinstance(method, TaskVector):
        return _task_vector(model, method, info, forget, settings, stop, pad, progress)
    made = prepare(model, method, forget, retain, pad, refusals, shared, progress)
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
            record = _train(step, info, forget, retain, settings, stop, pad, state, progress, start)
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
    settings: Settings,
    stop: StopRule,
    pad: int,
    state: Path | None,
    progress: Callable[[str], None],
    start: float,
) -> Unlearning:
    model = step.model
    device = next(model.parameters()).device
    key = _key(model, info, forget, retain, settings, stop)
    logs, spent, before = _resume(state, step, key)
    if not logs:
        before = stop.before()
        whole = micro_batches(forget, settings.micro_batch_size or ANCHOR_ROWS, pad, device)
        step.set_anchor(whole, min(settings.batch_size, len(forget)))
    saved = time.perf_counter()
    below = before is not None and before <= settings.threshold
    if below and not stop.forced:
        return _record(info, settings, stop, "no steps", [], 0.0, [_nothing(settings)], before)
    stopped: Stopped = "max_steps"
    if logs and _reached(logs[-1].forget_score, settings, below):
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
        rows = draw(len(forget), settings.batch_size, number, settings.seed)
        seed = settings.seed + RETAIN_SEED
        others = draw(len(retain), settings.batch_size, number, seed) if retain else []
        try:
            outcome = step(
                micro_batches([forget[i] for i in rows], settings.micro_batch_size, pad, device),
                micro_batches([retain[i] for i in others], settings.micro_batch_size, pad, device),
            )
        except DivergedError as error:
            told = f"{info.label}, step {number}: {error}"
            keep(diverged=told)  # the last good parameters; the same run would fail here again
            raise DivergedError(told) from error
        score = None
        if number % settings.check_every == 0 or number == settings.max_steps:
            model.eval()
            score = stop.read()
            stopped = "threshold" if _reached(score, settings, below) else "max_steps"
        logs.append(_log(number, outcome, score))
        progress(_line(info.label, logs[-1], settings))
        if time.perf_counter() - saved > SAVE_EVERY:
            keep()
            saved = time.perf_counter()
    seconds = spent + time.perf_counter() - start
    notes = _notes(logs, stopped, stop, settings, below)
    return _record(info, settings, stop, stopped, logs, seconds, notes, before)


def _reached(score: float | None, settings: Settings, below: bool) -> bool:
    """Whether a score has come down to the threshold; one that began there cannot."""
    return score is not None and score <= settings.threshold and not below


def _nothing(settings: Settings) -> str:
    return (
        f"The forget score was at or below {settings.threshold:.2f} before step 1, so no step was "
        "taken: by this score there was nothing to forget."
    )


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
    first = stop.before()
    below = first is not None and first <= settings.threshold
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
            logs.append(_log(number, replace(outcome, forget_loss=loss, retain_loss=None), None))
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
        score = stop.read()
        last = logs[-1]
        logs.append(
            StepLog(
                step=last.step + 1,
                forget_loss=last.forget_loss,
                retain_loss=None,
                gradient_norm=0.0,
                forget_score=score,
            )
        )
        progress(f"{info.label} alpha {scale:g} | forget score {score:.2f}")
        if _reached(score, settings, below):
            stopped = "threshold"
            break
    notes = [f"The difference was subtracted {scale:g} times."]
    if stopped != "threshold":
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
    before: float | None,
) -> Unlearning:
    return Unlearning(
        method=info,
        seed=settings.seed,
        stopped=stopped,
        stop_score=stop.kind,
        threshold=settings.threshold,
        steps=logs,
        before=before,
        seconds=round(seconds, 2),
        peak_memory_mb=round(peak_mb(), 1),
        notes=notes,
    )


def _key(
    model: Any,
    info: MethodInfo,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: Settings,
    stop: StopRule,
) -> str:
    """Return a digest of all that decides the run, so that only the same run is continued."""
    rows = [[e.id, e.prompt, e.answer] for e in (*forget, *retain)]
    size = float(torch.nn.utils.get_total_norm([p.detach() for p in model.parameters()]))
    text = json.dumps([info.model_dump(), rows, asdict(settings), stop.kind, size], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _resume(state: Path | None, step: Step, key: str) -> tuple[list[StepLog], float, float | None]:
    progress = load_state(state, step, key) if state is not None else None
    if progress is None:
        return [], 0.0, None
    if progress["diverged"]:
        raise DivergedError(progress["diverged"])
    logs = [StepLog(**log) for log in progress["steps"]]
    return logs, float(progress["seconds"]), progress.get("before")


def _log(number: int, outcome: Outcome, score: float | None) -> StepLog:
    return StepLog(step=number, forget_score=score, **vars(outcome))


def _line(label: str, log: StepLog, settings: Settings) -> str:
    parts = [f"{label} step {log.step}/{settings.max_steps}", f"forget loss {log.forget_loss:.2f}"]
    if log.retain_loss is not None:
        parts.append(f"retain loss {log.retain_loss:.2f}")
    if log.penalty_share is not None:
        parts.append(f"regulariser {log.penalty_share:.1e} of the gradient")
    if log.forget_score is not None:
        parts.append(f"forget score {log.forget_score:.2f}, stop at {settings.threshold:.2f}")
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
        notes.append(
            f"The forget score was at or below {settings.threshold:.2f} before step 1 already: where "
            "it is now shows nothing."
        )
    elif stopped == "max_steps" and stop.kind != "none":
        notes.append(
            f"The forget score did not reach {settings.threshold:.2f} in {settings.max_steps} "
            "steps: raise max_steps or the learning rate."
        )
    return notes

"""Find a learning rate that forgets within its steps and leaves the rest as it was.

    found = search(session, method, seed, folder, progress, judge)

First one short run whose rate grows with every step shows how far the weights must go (the learning
rate range test of Smith 2017, ended by the forget score). What Adam does in a step is in proportion to
its rate, so the sum of those rates, spread over the steps that are allowed, is about the lowest rate
worth trying. Each rate is tried from the original weights, in memory: upwards until the facts are
forgotten, downwards while they are forgotten at a cost, and between the two where both have been seen.
It ends at the first that reaches the threshold, stays within the allowed divergence on texts and holds
the facts to keep, and the weights of that attempt are the result: nothing is run again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ssiuu.errors import DivergedError
from ssiuu.experiment.drive import unlearn_here
from ssiuu.experiment.outcome import NOT_FORGOTTEN, Judge
from ssiuu.experiment.recipe import UnlearnConfig
from ssiuu.experiment.session import Session
from ssiuu.methods import Method
from ssiuu.models.load import load_weights, save_weights
from ssiuu.models.shards import agreed
from ssiuu.records.files import digest, standing, write_record
from ssiuu.records.said import led
from ssiuu.records.schema import Attempt, Attempts, Unlearning
from ssiuu.report.outcome import attempt_line
from ssiuu.training.optimiser import RATES
from ssiuu.training.prepare import Asked
from ssiuu.training.state import remove_state

# Rates are AdamW's; another optimiser's are in proportion to its own default.
FIRST = 3e-6  # learning rate of the range test's first step
GROWTH = 1.7
RANGE_STEPS = 17  # up to a rate of 0.015, which low-rank adapters may want
LEAST = 1e-6  # rate worth trying: below, one fact or two flip and flip back
SPARE = 0.75  # of the allowed steps that the first rate is meant to take
FACTOR = 2.0  # from a rate that does not forget to the next one
DOWN = 3.0  # from a rate that forgets at a cost to the next one
CLOSE = 2.2  # between one rate that is too low and one too high nothing is tried
MOST = 6  # rates tried
# Where the model begins a divergence has no slope: Adam's first step would be all forgetting.
WARMUP = 5
BLIND = 1e-5  # the first rate where the range test did not get there,
STRIDE = 10.0  # and from one to the next
HIGHEST = 1e-2
EPOCHS = 5  # that an attempt may take at least, where nobody has set unlearn.max_steps


def search(
    session: Session,
    method: Method,
    seed: int,
    work: Path,
    progress: Callable[[str], None],
    judge: Judge,
    adapter: Path | None = None,
) -> Unlearning:
    """Unlearn at the first rate that passes; its weights, or those that came nearest, are in the model.

    Args:
        session: Holds the model, with its original weights, and the facts.
        method: What to optimise.
        seed: Of the order of the rows, and of adapters.
        work: Folder for what an interrupted search continues from.
        progress: Told about every step.
        judge: Says what an attempt led to.
        adapter: Folder for the adapter, where one is trained.

    Returns:
        The record of the attempt that passed, or of the one that came nearest.
    """
    key = digest(
        session.loaded.info.fingerprint,
        session.split.model_dump(mode="json"),
        session.recipe.model_dump(mode="json"),
    )
    rows, config = len(session.forget_rows(method)), session.recipe.unlearn
    unit = RATES[method.optimiser or config.optimiser] / RATES["adamw"]
    steps = allowed(rows, config)
    before = standing(work / "attempts.json", Attempts, progress)
    attempts = list(before.attempts) if before is not None and before.key == key else []
    asked: Asked = {}  # of the model before, which every attempt begins with

    def attempt(rate: float, **change: Any) -> tuple[Unlearning | None, Attempt]:
        session.original.restore()
        start = time.perf_counter()
        name = f"rate {rate:.1e}" if not change else "range test"
        driven = {"learning_rate": rate, "check_every": judge.check_every, "warmup": WARMUP}
        driven |= {"max_steps": steps, **change}
        try:
            record = unlearn_here(
                session,
                method,
                seed,
                work / "state.safetensors",
                lambda text: progress(led(f"{name}: ", text, name)),
                adapter,
                change=driven,
                asked=asked,
            )
        except DivergedError as error:
            remove_state(work / "state.safetensors")
            reason = str(error).split(";")[0]
            spent = round(time.perf_counter() - start, 2)
            diverged = Attempt(learning_rate=rate, steps=0, reached=False, seconds=spent, note=reason)
            return None, diverged
        record = agreed(judge.settle(record, adapter is None))
        tried = agreed(judge.attempt(record, rate, bool(change), time.perf_counter() - start))
        # Only now: what is killed while it reads the result need not train again.
        remove_state(work / "state.safetensors")
        return record, tried

    def keep(tried: Attempt) -> None:
        attempts.append(tried)
        write_record(work / "attempts.json", Attempts(key=key, attempts=attempts))
        progress(attempt_line(tried))

    if not attempts:
        session.lost = None  # it only asks how far away the threshold is
        ranging, ranged = attempt(
            FIRST * unit, growth=GROWTH, max_steps=RANGE_STEPS, warmup=0, schedule="constant"
        )
        keep(_crossing(ranged, ranging, rows, config.batch_size, unit))
    session.lost = judge.lost
    nearest: tuple[Attempt, Unlearning] | None = None
    weights = work / "nearest.safetensors"
    while (rate := following(attempts, steps, judge, unit)) is not None:
        record, latest = attempt(rate)
        keep(latest)
        if record is not None and judge.passes(latest):
            return record.model_copy(update={"attempts": attempts})
        if record is not None and latest is min(attempts[1:], key=judge.distance):
            nearest = latest, record
            if adapter is None:
                save_weights(session.model, weights)
    best = min(attempts[1:], key=judge.distance)
    if not judge.passes(best):
        progress(f"no rate passed; {best.learning_rate:.1e} came nearest")
    # An adapter is written by its own run, so the best one is run again unless it was the last.
    if nearest is not None and nearest[0] is best and (best is attempts[-1] or adapter is None):
        if best is not attempts[-1]:
            load_weights(session.model, weights)
        return nearest[1].model_copy(update={"attempts": attempts})
    record, latest = attempt(best.learning_rate)
    if record is None:
        raise DivergedError(f"every learning rate diverged: {latest.note}")
    # A search that was interrupted after its last attempt is no longer by this one.
    again = adapter is not None and best is not attempts[-1]
    return record.model_copy(update={"attempts": [*attempts, latest] if again else attempts})


def allowed(rows: int, config: UnlearnConfig) -> int:
    """Return the steps that an attempt may take: of many rows each must be met several times."""
    if "max_steps" in config.model_fields_set:
        return config.max_steps
    return max(config.max_steps, math.ceil(EPOCHS * rows / config.batch_size))


def _crossing(
    ranged: Attempt, record: Unlearning | None, rows: int, batch: int, unit: float = 1.0
) -> Attempt:
    """Return the range test as it stands for the way that the weights must go.

    It ends where next to nothing is answered freely any more. If it has not met every row twice by then
    it has gone too far for those that it has met, and it counts as it was when its score first stood at
    the threshold. A score that stood there from its first step on says nothing of the way: facts that
    are known in another form than the one of training begin at guessing.
    """
    logs = record.steps if record is not None else []
    scores = [(log.step, log.forget_score) for log in logs if log.forget_score is not None]
    threshold = record.threshold if record is not None else 0.0
    steps_below = [step for step, score in scores if score <= threshold]
    if steps_below and steps_below[0] == scores[0][0]:
        steps_below = []
    met = ranged.reached and ranged.steps * batch >= 2 * rows
    steps = ranged.steps if met or not steps_below else steps_below[0]
    rate = _rounded(FIRST * unit * GROWTH ** max(steps - 1, 0))
    reached = ranged.reached or bool(steps_below)
    crossing = {"growing": True, "reached": reached, "steps": steps, "learning_rate": rate}
    return ranged.model_copy(update=crossing)


def following(
    attempts: Sequence[Attempt], max_steps: int, judge: Judge, unit: float = 1.0
) -> float | None:
    """Return the rate to try next; None where no other one is worth it.

    Args:
        attempts: The range test, then what has been tried.
        max_steps: Steps that an attempt may take.
        judge: Says how far each is from passing.
        unit: The optimiser's rates over AdamW's.
    """
    ranged, tried = attempts[0], attempts[1:]
    if not tried:
        return first_rate(ranged, max_steps, unit)
    if len(tried) >= MOST or any(judge.passes(attempt) for attempt in tried):
        return None
    # A rate is too high where it diverged, and where it forgot at a cost.
    high = [attempt for attempt in tried if attempt.note or judge.distance(attempt) < NOT_FORGOTTEN]
    if not high:
        rate = max(attempt.learning_rate for attempt in tried) * (FACTOR if ranged.reached else STRIDE)
        highest = way(ranged, unit) if ranged.reached else min(HIGHEST * unit, 1.0)
        return _rounded(rate) if rate <= highest else None
    above = min(attempt.learning_rate for attempt in high)
    below = [m.learning_rate for m in tried if m not in high and m.learning_rate < above]
    if below:
        # Half way between the two, as rates go: by their ratio.
        return _rounded(math.sqrt(above * max(below))) if above / max(below) > CLOSE else None
    *before, last = (judge.distance(attempt) for attempt in high)
    # Going down has stopped coming nearer: what is lost is not lost to the rate.
    worse = bool(before) and before[-1] <= last < NOT_FORGOTTEN
    return None if worse or above / DOWN < LEAST * unit else _rounded(above / DOWN)


def way(ranged: Attempt, unit: float = 1.0) -> float:
    """Return the sum of the rates that a range test took."""
    return FIRST * unit * (GROWTH**ranged.steps - 1) / (GROWTH - 1)


def first_rate(ranged: Attempt, max_steps: int, unit: float = 1.0) -> float:
    """Return the first rate to try: the range test's way, spread over the allowed steps."""
    if not ranged.reached:
        return _rounded(BLIND * unit)
    return _rounded(max(way(ranged, unit) / (SPARE * max_steps), LEAST * unit))


def _rounded(rate: float) -> float:
    """Return a rate with two digits that count."""
    return float(f"{rate:.1e}")

"""Find a learning rate: the lowest that forgets within its steps and leaves the rest as it was.

    found = search(session, method, limits, folder, progress)

First one short run whose rate grows with every step shows how far the weights must go (the learning
rate range test of Smith 2017, ended by the forget score). What Adam does in a step is in proportion to
its rate, so the sum of those rates, spread over the steps that are allowed, is the lowest rate worth
trying. From there upwards each rate is tried from the original weights, in memory, until one reaches
the threshold, stays within the allowed divergence on texts, and holds the facts to keep. The weights
of that attempt are the result: nothing is run again. Where a rate forgets at a cost and the next one
costs more, no higher one is tried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ssiuu.errors import DivergedError
from ssiuu.experiment.cells import digest
from ssiuu.experiment.drive import unlearn_here
from ssiuu.experiment.outcome import NOT_FORGOTTEN, Judge
from ssiuu.experiment.session import Session
from ssiuu.methods import Method
from ssiuu.models.load import load_weights, save_weights
from ssiuu.records.files import read_record, write_record
from ssiuu.records.schema import Attempt, Attempts, Unlearning
from ssiuu.report.outcome import told

FIRST = 3e-6  # learning rate of the range test's first step
GROWTH = 1.7
RANGE_STEPS = 17  # up to a rate of 0.015, which low-rank adapters may want
LEAST = 1e-6  # rate worth trying: below, one fact or two flip and flip back
SPARE = 0.75  # of the allowed steps that the lowest rate is meant to take
FACTOR = 2.0  # between two rates
MOST = 6  # rates tried
# Where the model begins a divergence has no slope: Adam's first step would be all forgetting.
WARMUP = 5
BLIND = (1e-5, 1e-4, 1e-3, 5e-3)  # tried where the range test did not get there


def search(
    session: Session,
    method: Method,
    seed: int,
    work: Path,
    progress: Callable[[str], None],
    judge: Judge,
    adapter: Path | None = None,
) -> Unlearning:
    """Unlearn at the lowest rate that passes; the weights of the last attempt are in the model.

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
    done = read_record(work / "attempts.json", Attempts)
    attempts = list(done.attempts) if done is not None and done.key == key else []

    def attempt(rate: float, **change: float) -> tuple[Unlearning | None, Attempt]:
        session.original.restore()
        start = time.perf_counter()
        name = f"rate {rate:.1e}" if not change else "range test"
        driven = {"learning_rate": rate, "check_every": judge.check_every, "warmup": WARMUP, **change}
        try:
            record = unlearn_here(
                session,
                method,
                seed,
                work / "state.safetensors",
                lambda text: progress(f"{name}: {text}"),
                adapter,
                change=driven,
            )
        except DivergedError as error:
            (work / "state.safetensors").unlink(missing_ok=True)
            said = str(error).split(";")[0]
            spent = round(time.perf_counter() - start, 2)
            made = Attempt(learning_rate=rate, steps=0, reached=False, seconds=spent, note=said)
            return None, made
        (work / "state.safetensors").unlink(missing_ok=True)
        record = judge.settle(record, adapter is None)
        return record, judge.attempt(record, rate, bool(change), time.perf_counter() - start)

    def keep(made: Attempt) -> Attempt:
        attempts.append(made)
        write_record(work / "attempts.json", Attempts(key=key, attempts=attempts))
        progress(told(made))
        return made

    if not attempts:
        session.lost = None  # it only asks how far away the threshold is
        _, ranged = attempt(FIRST, growth=GROWTH, max_steps=RANGE_STEPS, warmup=0)
        last = _rounded(FIRST * GROWTH ** max(ranged.steps - 1, 0))
        keep(ranged.model_copy(update={"growing": True, "learning_rate": last}))
    session.lost = judge.lost
    rates = candidates(attempts[0], session.recipe.unlearn.max_steps)
    nearest: tuple[Attempt, Unlearning] | None = None
    weights = work / "nearest.safetensors"
    for rate in rates[len(attempts) - 1 :]:
        record, made = attempt(rate)
        keep(made)
        if record is not None and judge.passes(made):
            return record.model_copy(update={"attempts": attempts})
        if record is not None and made is min(attempts[1:], key=judge.distance):
            nearest = made, record
            if adapter is None:
                save_weights(session.model, weights)
        if _costs_more(attempts[1:], judge):
            break
    best = min(attempts[1:], key=judge.distance)
    progress(f"no rate passed; {best.learning_rate:.1e} came nearest")
    if nearest is not None and nearest[0] is best and (best is attempts[-1] or adapter is None):
        if best is not attempts[-1]:
            load_weights(session.model, weights)
        return nearest[1].model_copy(update={"attempts": attempts})
    record, made = attempt(best.learning_rate)
    if record is None:
        raise DivergedError(f"every learning rate diverged: {made.note}")
    return record.model_copy(update={"attempts": [*attempts, made]})


def _costs_more(tried: Sequence[Attempt], judge: Judge) -> bool:
    """Whether the last two attempts forgot at a cost and the higher rate cost more."""
    costs = [judge.distance(made) for made in tried[-2:]]
    return len(costs) == 2 and max(costs) < NOT_FORGOTTEN and costs[1] >= costs[0]


def candidates(ranged: Attempt, max_steps: int) -> list[float]:
    """Return the rates to try, from low to high.

    Args:
        ranged: The range test; its steps tell the sum of the rates it took.
        max_steps: Steps that an attempt may take.
    """
    if not ranged.reached:
        return list(BLIND)
    way = FIRST * (GROWTH**ranged.steps - 1) / (GROWTH - 1)
    lowest = max(way / (SPARE * max_steps), LEAST)
    rates = [lowest * FACTOR**n for n in range(MOST)]
    return [_rounded(rate) for rate in rates if rate <= way or rate == lowest]


def _rounded(rate: float) -> float:
    """Return a rate with two digits that count."""
    return float(f"{rate:.1e}")

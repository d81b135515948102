"""Make the session's model forget, at a given or a searched learning rate, and say what it led to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ssiuu.experiment.drive import unlearn_here
from ssiuu.experiment.outcome import Judge
from ssiuu.experiment.search import search
from ssiuu.experiment.session import Session
from ssiuu.experiment.tuning import divide
from ssiuu.methods import Method
from ssiuu.records.schema import Unlearning

FEWEST = 12  # facts to keep of which a quarter can be set aside


def forget(
    session: Session,
    method: Method,
    searches: bool,
    work: Path,
    progress: Callable[[str], None],
    adapter: Path | None = None,
) -> Unlearning:
    """Unlearn in place; the record holds the attempts of a search, and the outcome.

    Where a rate is searched and there are enough facts to keep, a quarter of them is set aside: never
    trained on, they show what is lost beside those that are held.

    Args:
        session: Holds the model, with its original weights, and the facts.
        method: What to optimise.
        searches: Search the learning rate; else the recipe's or the method's is taken.
        work: Folder for what an interrupted run continues from.
        progress: Told about every step.
        adapter: Folder for the adapter, where one is trained.

    Raises:
        InputError: The method does not fit the model or the facts.
        DivergedError: Training diverged (at every rate, where one is searched).
        Interrupted: Ctrl-C; the same call continues.
    """
    seed = session.recipe.seeds[0]
    retain = session.split.retain
    if searches and len(retain) >= FEWEST and not session.split.heldout:
        trained, aside = divide(retain, session.split.seed)
        session.split = session.split.model_copy(update={"retain": trained, "heldout": aside})
    progress("reading what should stay as it is")
    judge = Judge(session)
    progress("preparing the first step")
    if searches:
        record = search(session, method, seed, work, progress, judge, adapter)
    else:
        record = unlearn_here(session, method, seed, work / "state.safetensors", progress, adapter)
        record = judge.settle(record, adapter is None)
    progress("reading what it led to")
    return record.model_copy(update={"outcome": judge.outcome(record)})

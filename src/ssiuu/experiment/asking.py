"""Ask any model what it knows of a file of facts."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssiuu.data.columns import Columns
from ssiuu.data.read import Source
from ssiuu.evaluation.knowledge import know
from ssiuu.experiment import launched
from ssiuu.experiment.given import ModelSource, given_settings
from ssiuu.experiment.recipe import resolve
from ssiuu.experiment.session import open_ground
from ssiuu.records.files import write_record
from ssiuu.records.said import logged
from ssiuu.records.schema import ModelKnowledge


def ask_model(
    model: ModelSource,
    facts: Source,
    out: str | Path | None = None,
    sets: list[str] | None = None,
    progress: Callable[[str], None] = logged,
    *,
    tokenizer: Any = None,
    columns: Columns | str | None = None,
    base: str | Path | None = None,
) -> ModelKnowledge:
    """Ask a model what it knows: per fact known, unsure, unknown or cannot be scored, and why.

    Args:
        model: Short name, folder or hub name, or a transformers model, which is left as it is.
        facts: A file, a hub name, or rows (a list of dicts, a datasets.Dataset, a data frame).
        out: File for the record (JSON).
        sets: Settings as in a recipe, "prompt=chat" for one.
        progress: Told what is going on.
        tokenizer: That of a model in memory.
        columns: Which columns of the rows are read.
        base: The model that an adapter belongs to, where it is not where the adapter says.

    Raises:
        InputError: Model or facts cannot be used, or `out` cannot be written.
    """
    launched.begin("ask")
    start = time.perf_counter()
    named, given = given_settings(model, facts, None, columns, tokenizer, base)
    recipe, _ = resolve(None, [*named, *(sets or [])])
    session = open_ground(recipe, progress, given)
    forget = session.split.forget
    progress(f"asking {len(forget)} facts")
    knowledge = know(session.model, session.prompt, forget, session.context, seed=recipe.split.seed)
    session.check()
    record = ModelKnowledge(
        model=session.loaded.info,
        form=session.prompt.name,
        asked=session.prompt.description,
        facts=forget,
        knowledge=knowledge,
        seconds=round(time.perf_counter() - start, 2),
        notes=list(given.notes),
    )
    if out is not None:
        write_record(Path(out), record, private=True)
    return record

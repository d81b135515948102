"""The same for people with a model in hand: `ssiuu.unlearn` and `ssiuu.audit` on objects.

    result = ssiuu.unlearn(model, tokenizer, forget, retain)
    result.state, result.record.outcome
    ssiuu.audit(before, result.model, forget, retain, tokenizer=tokenizer).to_dataframe()

Facts are rows: a list of dicts, a datasets.Dataset, a data frame; a path will do as well. Weights keep
their type and stay on their devices; what is trained is a copy.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from ssiuu.benchmarks.base import Progress
from ssiuu.config import flatten
from ssiuu.data.columns import Columns
from ssiuu.data.read import Source
from ssiuu.experiment.given import ModelSource, setting
from ssiuu.experiment.unlearn import DEFAULT_METHOD, audit_models, unlearn_model
from ssiuu.records.said import logged
from ssiuu.report.results import Audited, Unlearned

RecipeValues = Mapping[str, Any]
M = TypeVar("M", bound=torch.nn.Module)


def unlearn(
    model: M,
    tokenizer: Any,
    forget: Source,
    retain: Source,
    *,
    method: str | Mapping[str, Any] = DEFAULT_METHOD,
    settings: RecipeValues | None = None,
    columns: Columns | str | None = None,
    keep_anyway: bool = False,
    progress: Progress = logged,
) -> Unlearned[M]:
    """Make a model in memory forget facts, in place.

    Without a learning rate among the settings one is searched. Where the facts are not forgotten, or at
    the cost of what should stay, the model is left as it was, unless `keep_anyway`.

    Args:
        model: A transformers causal language model, on any device, of any floating type.
        tokenizer: Its own.
        forget: The facts to forget, rows with "question" and "answer".
        retain: Facts to keep, or "none".
        method: A name with its suffixes, or a mapping with name and hyper-parameters.
        settings: As in a recipe: {"unlearn": {"max_steps": 20}} or {"unlearn.max_steps": 20}.
        columns: Which columns of the rows are read.
        keep_anyway: Change the model whatever the outcome.
        progress: Told about every step.

    Raises:
        InputError: Anything given cannot be used; the model has not been changed.
        DivergedError: Training diverged; the model has not been changed.
    """
    record = unlearn_model(
        model,
        forget,
        None,
        retain,
        method,
        _sets(settings),
        progress,
        tokenizer=tokenizer,
        columns=columns,
        keep_anyway=keep_anyway,
    )
    forgotten = record.outcome is not None and record.outcome.state == "forgotten"
    return Unlearned(model, forgotten or keep_anyway, record)


def audit(
    before: ModelSource,
    after: ModelSource,
    forget: Source,
    retain: Source | None = None,
    *,
    tokenizer: Any = None,
    settings: RecipeValues | None = None,
    columns: Columns | str | None = None,
    out: str | Path | None = None,
    progress: Progress = logged,
) -> Audited:
    """Judge a pair of models on facts; neither is changed.

    Args:
        before: The model before unlearning: an object, or a name or folder.
        after: The model after it, likewise.
        forget: The facts that should be gone.
        retain: Facts that should still be there.
        tokenizer: That of models in memory.
        settings: As in a recipe: {"protocol": "strong"}.
        columns: Which columns of the rows are read.
        out: Folder for the record, from which an interrupted audit goes on; None: nothing is left.
        progress: Told what is going on.

    Raises:
        InputError: Anything given cannot be used.
    """
    if out is None:
        with tempfile.TemporaryDirectory(prefix="ssiuu-") as place:
            return audit(
                before,
                after,
                forget,
                retain,
                tokenizer=tokenizer,
                settings=settings,
                columns=columns,
                out=Path(place) / "audit",
                progress=progress,
            )
    record = audit_models(
        before,
        after,
        forget,
        out,
        retain,
        _sets(settings),
        "ssiuu.audit(...)",
        progress,
        tokenizer=tokenizer,
        columns=columns,
    )
    return Audited(record)


def _sets(settings: RecipeValues | None) -> list[str]:
    return [setting(key, value) for key, value in flatten(dict(settings or {})).items()]

"""Models that a benchmark makes itself: fine-tuned on its rows, and found in the cache from then on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import transformers

from ssiuu.benchmarks.base import Basis, Ground, Progress, tokenised
from ssiuu.errors import OutputError
from ssiuu.likelihood import Prompt
from ssiuu.models.files import seal_folder, unharmed
from ssiuu.models.load import Loaded, cache_folder, load_checkpoint_weights, save
from ssiuu.models.original import Original
from ssiuu.models.precision import resolve_precision
from ssiuu.models.sources import find, require_cache
from ssiuu.records.said import led
from ssiuu.records.schema import FactText, ModelInfo
from ssiuu.training.finetune import finetune


@dataclass(frozen=True)
class Tuning:
    """How a model is fine-tuned.

    `name`: the benchmark, whose folder in the cache it is; `rows`: what a row is called; `ends`:
    whether an answer ends with the end token, so that it can be stopped at.
    """

    name: str
    epochs: int
    learning_rate: float
    batch_size: int
    rows: str = "questions"
    ends: bool = True


def tuned(
    tuning: Tuning,
    basis: Basis,
    start: Loaded,
    original: Original,
    prompt: Prompt,
    facts: Sequence[FactText],
    progress: Progress,
) -> Path:
    """Return the folder of a model fine-tuned on facts, named by all it is made of.

    Args:
        tuning: How.
        basis: Says the seed and the precision.
        start: The model that is fine-tuned, in place.
        original: Its weights.
        prompt: How the questions become tokens.
        facts: What is learned.
        progress: Told what is going on.

    Raises:
        DataError: A fact does not fit the model.
        DivergedError: A loss is not finite.
        Interrupted: Ctrl-C; the same call continues.
        OutputError: The cache cannot be written.
    """
    seed = basis.split.seed
    precision = resolve_precision(basis.precision, next(start.model.parameters()).device)
    context = int(getattr(start.model.config, "max_position_embeddings", None) or 1 << 20)
    examples = tokenised(prompt, facts, context, tuning.ends)
    made_of = [
        [start.info.fingerprint, torch.__version__, transformers.__version__, precision],
        [tuning.epochs, tuning.learning_rate, tuning.batch_size, seed],
        [[e.prompt, e.answer] for e in examples],
    ]
    digest = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
    folder = cache_folder() / tuning.name / digest
    if kept(folder, progress):
        return folder
    require_cache()
    original.restore()
    finetune(
        start.model,
        examples,
        tuning.epochs,
        tuning.learning_rate,
        tuning.batch_size,
        seed,
        precision,
        int(start.tokenizer.pad_token_id or 0),
        folder.with_name(f"{digest}.unfinished"),
        lambda text: progress(led(f"fine-tuning on {len(facts)} {tuning.rows}: ", text)),
    )
    try:
        save(start.model, start.tokenizer, folder, note=start.info.note, beside=seal_folder)
    except OutputError:
        if not (folder / "config.json").exists():  # otherwise another process was faster
            raise
    return folder


def kept(folder: Path, say: Progress) -> bool:
    """Whether a model of the cache is there; one that is damaged is told of and removed."""
    if not (folder / "config.json").exists():
        return False
    if unharmed(folder):
        return True
    say(f"{folder} is damaged, and is made again")
    shutil.rmtree(folder)
    return False


def refer(ground: Ground, basis: Basis, reference: str, progress: Progress) -> None:
    """Take a given model as the never-learned one, once its weights have been seen to fit.

    Raises:
        ModelError: It cannot be loaded or is of another architecture.
    """
    progress(f"loading {reference}")
    folder, tokenizer = find(reference).folder, ground.loaded.tokenizer
    ground.notes += load_checkpoint_weights(ground.model, folder, basis.base, tokenizer)
    ground.original.restore()
    ground.never_learned = folder


def noted(loaded: Loaded, start: ModelInfo, note: str) -> Loaded:
    """Return a model under the name of the one that it is made of."""
    notes = "; ".join(part for part in (note, start.note) if part)
    named = {"name": start.name, "source": start.source, "note": notes}
    return replace(loaded, info=loaded.info.model_copy(update=named))

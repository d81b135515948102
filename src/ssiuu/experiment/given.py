"""What a caller of the Python API hands over, beside the text of a recipe.

A path may be a `str` or a `Path`, facts may be rows in memory, a model an object. The recipe then
says so in place of a name, and the record holds digests: of the facts (its benchmark's fingerprint)
and of the model.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from typing_extensions import TypeIs

from ssiuu.benchmarks.base import Given
from ssiuu.data.columns import Columns, given_columns
from ssiuu.data.read import Source, read_facts
from ssiuu.errors import ConfigError
from ssiuu.models.gguf import is_gguf
from ssiuu.models.gguf_header import read_header
from ssiuu.models.load import Loaded, from_object, load_checkpoint_weights, save

IN_MEMORY = "given in memory"
# A short name, folder or hub name, or a model in memory, whatever it is wrapped in.
ModelSource = str | Path | torch.nn.Module


def given_settings(
    model: ModelSource,
    forget: Source,
    retain: Source | None,
    columns: Columns | str | None = None,
    tokenizer: Any = None,
    base: str | Path | None = None,
) -> tuple[list[str], Given]:
    """Return what was given as settings of a recipe, and what those cannot hold.

    Args:
        model: Short name, folder or hub name, or a transformers model, of which a copy is taken.
        forget: The facts to forget: a file, a hub name, or rows.
        retain: The facts to keep, "none" to go without.
        columns: Which columns are read, as a mapping or as `--columns` has it.
        tokenizer: That of a model in memory.
        base: The model that an adapter belongs to.

    Raises:
        ConfigError: Columns of no fact are named, or a model has no tokenizer.
        DataError: Rows in memory cannot be used, each by its number ("forget[3]").
        ModelError: The object is no model that anything can be said of.
    """
    columns = given_columns(columns)
    notes: list[str] = []
    facts = {"forget": forget, "retain": "none" if retain is None else retain}
    rows_given = {
        key: read_facts(rows, key, columns, notes.append)
        for key, rows in facts.items()
        if not _is_name(rows)
    }
    loaded = None if _is_name(model) else _held(model, tokenizer, "model")
    values: dict[str, Any] = {"benchmark": "own", "model": IN_MEMORY if loaded else str(model)}
    values |= {key: IN_MEMORY if key in rows_given else str(rows) for key, rows in facts.items()}
    if columns:
        values["columns"] = dict(columns)
    if base is not None:
        values["base"] = str(base)
    assignments = [setting(key, value) for key, value in values.items()]
    return assignments, Given(rows_given.get("forget"), rows_given.get("retain"), loaded, tuple(notes))


def setting(key: str, value: Any) -> str:
    """Return key=value as a recipe reads it: JSON is YAML, but for what it leaves unescaped."""
    written = json.dumps(value, ensure_ascii=False)
    return f"{key}=" + "".join(c if " " <= c <= "~" else f"\\U{ord(c):08x}" for c in written)


@contextmanager
def checkpoint(model: ModelSource, tokenizer: Any, option: str) -> Iterator[Path]:
    """Give the folder of a checkpoint or its GGUF file; of a model in memory, one for this while.

    Raises:
        ConfigError: There is no such folder, or a model in memory has no tokenizer.
    """
    if _is_name(model):
        if not Path(model).is_dir() and not is_gguf(Path(model)):
            raise ConfigError(f"--{option} {model} is not a folder.")
        if is_gguf(Path(model)):
            read_header(Path(model))  # a broken one is told before anything is loaded
        yield Path(model)
        return
    loaded = _held(model, tokenizer, option)
    with tempfile.TemporaryDirectory(prefix="ssiuu-") as place:
        save(loaded.model, loaded.tokenizer, Path(place) / IN_MEMORY)
        yield Path(place) / IN_MEMORY


@contextmanager
def in_place(model: ModelSource) -> Iterator[Path]:
    """Give a folder for a checkpoint, whose weights are then put into the caller's model.

    They take its types and stay on its devices. Nothing is changed where no checkpoint was made.

    Raises:
        ConfigError: The model is named by its path, or cannot take whole weights.
    """
    if _is_name(model):
        raise ConfigError("--out is missing: a folder for the checkpoint.")
    if hasattr(model, "peft_config"):
        raise ConfigError(
            f"the {type(model).__name__} has adapters and cannot be changed in place: give a folder "
            "for the checkpoint, out=..., or the model that merge_and_unload() returns."
        )
    with tempfile.TemporaryDirectory(prefix="ssiuu-") as place:
        folder = Path(place) / "model"
        yield folder
        if folder.exists():
            bare: Any = getattr(model, "_orig_mod", model)  # of torch.compile; below, of DataParallel
            load_checkpoint_weights(getattr(bare, "module", bare), folder)


def _held(model: torch.nn.Module, tokenizer: Any, option: str) -> Loaded:
    if tokenizer is None:
        raise ConfigError(
            f"{option}: a {type(model).__name__} was given and no tokenizer; give the model's own, "
            "tokenizer=AutoTokenizer.from_pretrained(...), or the path of a folder with both."
        )
    return from_object(model, tokenizer, IN_MEMORY)


def _is_name(source: object) -> TypeIs[str | Path]:
    return isinstance(source, (str, Path))

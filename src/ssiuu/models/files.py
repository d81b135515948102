"""Which files of a folder are the model: the weights that its index names, config, tokenizer.

Everything that reads weights asks here, so that loading, restoring and the fingerprint agree on
what is read: the files that `model.safetensors.index.json` names, else `model.safetensors`. Other
files beside them are never looked at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

from safetensors import SafetensorError, safe_open

from ssiuu.errors import InputError, ModelError
from ssiuu.hub import first_line
from ssiuu.records import hashes
from ssiuu.records.digest import NAME
from ssiuu.records.files import write_bytes

SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
# Floating point types as safetensors names them, and as torch does.
FLOATS: Final = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
ADAPTER: Final = "adapter_model.safetensors"
ADAPTER_CONFIG: Final = "adapter_config.json"
PICKLES: Final = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
CONFIGS: Final = ("config.json", "generation_config.json")
NOTED: Final = "ssiuu.json"  # what is to be said of a folder that ssiuu has written
# Wherever one of these is, there is a tokenizer.
VOCABULARIES: Final = ("tokenizer.json", "vocab.json", "vocab.txt", "tekken.json", "*.model")
TOKENIZER: Final = (
    *VOCABULARIES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.*",
)
_CONTENTS: dict[tuple[Any, ...], str] = {}  # by the base and the files of a folder


@dataclass(frozen=True)
class Stored:
    """A tensor as a file's header describes it; `dtype` as safetensors names it, "BF16" say."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """What a model was read from, as it was then.

    `fingerprint`: over all that decides what it says. `digests`: the sha256 of each file of that, those
    of what the folder is incomplete without too.
    """

    folder: Path
    fingerprint: str
    digests: Mapping[Path, str]

    def check(self, *paths: Path) -> None:
        """Refuse to go on with a file that is not the one that was read: of these, or of all.

        A file that has kept size, times and inode is not read again.

        Raises:
            ModelError: It was changed or replaced since, is new, or is not there any more.
        """
        for path in paths or self.digests:
            try:
                same = hashes.sha256_of(path) == self.digests.get(path)
            except InputError:
                same = False
            if not same:
                raise ModelError(
                    f"{path} is not what the model was read from: it was changed, replaced or removed "
                    "since. Put back what was there, or begin again with what is there now."
                )


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold a model's weights, in the order in which they are read.

    Raises:
        ModelError: There are none, only pickles, or the index names what must not be read.
    """
    index, single = folder / INDEX, folder / SINGLE
    if not index.exists():
        if not single.exists():
            raise ModelError(_no_weights(folder))
        return [_inside(folder, SINGLE, f"{single}")]
    names = sorted(set(_named_by(index)))
    if single.exists() and names != [SINGLE]:
        raise ModelError(
            f"{folder} has {SINGLE} and an {INDEX} that names other files ({names[0]}): which of the "
            "two is the model? Move the other one away."
        )
    return [_inside(folder, name, f"{index} names {name!r}, which") for name in names]


def tensors_of(files: Iterable[Path]) -> dict[str, Stored]:
    """Return what the headers of safetensors files say of their tensors, by name.

    Raises:
        ModelError: A file is broken, or a tensor stands in two of them.
    """
    stored: dict[str, Stored] = {}
    for path in files:
        with open_tensors(path) as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                if name in stored:
                    raise ModelError(
                        f"{name} stands in {path} and in {stored[name].file}: which one is meant?"
                    )
                piece = tensors.get_slice(name)
                stored[name] = Stored(path, str(piece.get_dtype()), tuple(piece.get_shape()))
    return stored


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """Open a safetensors file.

    Raises:
        ModelError: It is cut short, no safetensors file, or cannot be read.
    """
    try:
        path.open("rb").close()  # what may not be read is not broken; safetensors says it is not there
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error
    try:
        with safe_open(path, framework="pt") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is broken or cut short ({first_line(error)}): copy or download it again."
        ) from error


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has the vocabulary of a tokenizer."""
    return any(any(folder.glob(pattern)) for pattern in VOCABULARIES)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter in place of a model.

    Raises:
        ModelError: It holds both.
    """
    if not (folder / ADAPTER_CONFIG).exists():
        return False
    if (folder / SINGLE).exists() or (folder / INDEX).exists():
        raise ModelError(
            f"{folder} has a whole model ({SINGLE}) and an adapter ({ADAPTER_CONFIG}): which of the "
            "two is meant? Move the other one to a folder of its own."
        )
    return True


def content_digest(folder: Path, base: str = "") -> str:
    """Return the sha256 over the files that decide what a model says: weights, config, tokenizer.

    Args:
        folder: Of a model or an adapter.
        base: Digest of what the folder is incomplete without.

    Raises:
        ModelError: The folder does not say which files are its weights, or one cannot be read.
    """
    digest = hashlib.sha256(base.encode())
    files = decisive(folder)
    try:
        key = base, *((path.relative_to(folder).as_posix(), hashes.state(path)) for path in files)
        if key in _CONTENTS:
            return _CONTENTS[key]
        for path in files:
            was = hashes.state(path)
            # With name and size, so that no byte can pass from one file to the next unseen.
            digest.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode())
            own = hashlib.sha256()  # a certificate names every file by it, and none is read twice
            with path.open("rb") as stream:
                while block := stream.read(1 << 22):
                    digest.update(block)
                    own.update(block)
            hashes.note(was, own.hexdigest())
    except OSError as error:
        raise ModelError(f"{folder} cannot be read: {error.strerror or error}.") from error
    _CONTENTS[key] = digest.hexdigest()
    return _CONTENTS[key]


def decisive(folder: Path) -> list[Path]:
    """Return the files that decide what a model or an adapter says, those of them that are there.

    Raises:
        ModelError: The folder does not say which files are its weights.
    """
    if is_adapter(folder):
        files = [folder / ADAPTER_CONFIG, folder / ADAPTER]
    else:
        files = [*weight_files(folder), *(folder / name for name in CONFIGS)]
    return [path for path in [*files, *tokenizer_files(folder)] if path.is_file()]


def seal_folder(folder: Path) -> None:
    """Note the digest of a model that is kept to be used again, in its ssiuu.json."""
    path = folder / NOTED
    told = read_json(path) | {NAME: content_digest(folder)}
    write_bytes(path, (json.dumps(told, indent=1) + "\n").encode())


def unharmed(folder: Path) -> bool:
    """Whether a model that was kept is what it was; one that has no digest is taken as it is."""
    try:
        return sealed_as(folder) in (None, content_digest(folder))
    except ModelError:
        return False


def sealed_as(folder: Path) -> object:
    """Return the digest that was noted of a folder; None where none was."""
    path = folder / NOTED
    return read_json(path).get(NAME) if path.exists() else None


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the files of a folder's tokenizer, sorted by name."""
    return sorted({path for pattern in TOKENIZER for path in folder.glob(pattern)})


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ModelError: It is not there, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {first_line(error)}.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object, and it holds a {type(value).__name__}.")
    return value


def _named_by(index: Path) -> Iterator[str]:
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise ModelError(f"{index} has no weight_map that says which file holds which tensor.")
    for tensor, name in named.items():
        if not isinstance(name, str) or not name:
            raise ModelError(f"{index} names {name!r} as the file of {tensor}: it must be a name.")
        yield name


def _inside(folder: Path, name: str, what: str) -> Path:
    """Return the path of a file of weights, which must be a safetensors file of this folder."""
    if PurePosixPath(name).suffix != ".safetensors":
        raise ModelError(
            f"{what} is no safetensors file. Only those are read, because others can run code: "
            "convert the weights."
        )
    parts = {*PurePosixPath(name).parts, *PureWindowsPath(name).parts}
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor
    path = folder / name
    if (
        absolute
        or ".." in parts
        or not any(path.resolve().is_relative_to(home) for home in _homes(folder))
    ):
        raise ModelError(f"{what} lies outside the folder. Copy it there: nothing else is read.")
    if not path.is_file():
        raise ModelError(f"{what} is not there: the folder is not complete. Copy it again.")
    return path


def _homes(folder: Path) -> list[Path]:
    """Return where a folder's files may really lie: in it, or where the hub's cache keeps them."""
    homes = [folder.resolve()]
    if homes[0].parent.name == "snapshots":
        homes.append(homes[0].parent.parent / "blobs")
    return homes


def _no_weights(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    pickles = [name for name in names if Path(name).suffix in PICKLES]
    if pickles:
        return (
            f"{folder} has its weights as pickles only ({', '.join(pickles[:5])}), which can run "
            "code when read. Convert them to safetensors first."
        )
    if ggufs := [name for name in names if name.endswith(".gguf")]:
        return (
            f"{folder} has its weights as GGUF only ({', '.join(ggufs[:5])}), which are quantised: "
            "the checkpoint they were made from is needed."
        )
    others = [name for name in names if name.endswith(".safetensors")]
    beside = f" ({', '.join(others[:5])} is not read: neither name nor index says so)" if others else ""
    return f"{folder} has no weights: there is no {SINGLE} and no {INDEX} in it{beside}."

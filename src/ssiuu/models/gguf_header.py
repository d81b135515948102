"""What a GGUF file says before its weights: read at once, so that a broken one is told early.

    header = read_header(Path("forgotten.gguf"))
    header.vocabulary                                # token -> number

Source: the GGUF specification, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Final

from ssiuu.errors import ModelError

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
NUMBERS: Final = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
TEXT, ARRAY = 8, 9
NORMAL = 1  # kind of a token that is no special one
MOST: Final = 1 << 26  # bytes of a text, entries of a list: more is damage
ALIGNED: Final = 32  # bytes, where nothing else is said


@dataclass(frozen=True)
class Header:
    """The values by key, and how many bytes the file must have."""

    values: dict[str, Any]
    size: int

    @property
    def vocabulary(self) -> dict[str, int]:
        """The number of every token but special and unused ones; empty where there are none."""
        tokens = self.values.get("tokenizer.ggml.tokens", [])
        kinds = self.values.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
        pairs = enumerate(zip(tokens, kinds, strict=False))
        return {token: place for place, (token, kind) in pairs if kind == NORMAL}


def read_header(path: Path) -> Header:
    """Read all that stands before the weights, and see that they are all there.

    Raises:
        ModelError: It is no GGUF file, is cut short, or makes no sense.
    """
    try:
        with path.open("rb") as stream:
            header = _Reader(stream).header()
        size = path.stat().st_size
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, struct.error, UnicodeDecodeError) as error:
        raise ModelError(
            f"{path} cannot be read as GGUF: {error}. It is cut short or damaged, or no GGUF."
        ) from error
    if size < header.size:
        raise ModelError(
            f"{path} cannot be read as GGUF: it has {size} bytes, and {header.size} belong to it: it "
            "is cut short. Copy it again."
        )
    return header


class _Reader:
    """Reads from the beginning of a file on."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream

    def header(self) -> Header:
        if self._bytes(4) != MAGIC:
            raise ValueError("it does not begin with GGUF")
        version = self._number(4)
        if version not in VERSIONS:
            raise ValueError(f"its version is {version}, and {VERSIONS[0]} and {VERSIONS[1]} are known")
        tensors, count = self._number(10), self._number(10)
        if max(tensors, count) > MOST:
            raise ValueError("it has more parts than there can be")
        values = {self._text(): self._value(self._number(4)) for _ in range(count)}
        ends = [self._tensor() for _ in range(tensors)]
        aligned = int(values.get("general.alignment", ALIGNED)) or ALIGNED
        begin = -(-self.stream.tell() // aligned) * aligned
        return Header(values, begin + max(ends, default=0))

    def _bytes(self, count: int) -> bytes:
        found = self.stream.read(count)
        if len(found) < count:
            raise ValueError("it ends before its weights begin")
        return found

    def _number(self, kind: int) -> Any:
        form = f"<{NUMBERS[kind]}"
        return struct.unpack(form, self._bytes(struct.calcsize(form)))[0]

    def _text(self) -> str:
        return self._bytes(self._length()).decode("utf-8", "replace")

    def _length(self) -> int:
        length: int = self._number(10)
        if length > MOST:
            raise ValueError(f"a part of it has {length} entries")
        return length

    def _value(self, kind: int) -> Any:
        if kind == TEXT:
            return self._text()
        if kind != ARRAY:
            if kind not in NUMBERS:
                raise ValueError(f"a value is of the unknown kind {kind}")
            return self._number(kind)
        inner, count = self._number(4), self._length()
        if inner not in NUMBERS:
            return [self._value(inner) for _ in range(count)]
        form = f"<{count}{NUMBERS[inner]}"
        return list(struct.unpack(form, self._bytes(struct.calcsize(form))))

    def _tensor(self) -> int:
        """Return where a tensor's numbers end, from the beginning of all of them."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        self._text()
        dimensions = self._number(4)
        if dimensions > 8:
            raise ValueError(f"a tensor of it has {dimensions} dimensions")
        shape = [self._number(10) for _ in range(dimensions)]
        form, offset = self._number(4), self._number(10)
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(form)]
        return int(offset + -(-prod(shape) // block) * size)

"""Ways to damage files, as strategies: a JSON value, bytes, a file of tensors; each applied to a folder."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

# What stands where something else should.
ODD: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    7,
    10**6,
    2**31,
    2**63,
    10**30,
    0.5,
    -0.5,
    1e308,
    1e-320,
]
ODD += [
    "",
    "x",
    "none",
    "\x00",
    "../..",
    "/etc/passwd",
    "float32",
    "llama",
    "é" * 99,
    [],
    [0],
    [[]],
    {},
    {"a": 1},
]
odd = st.sampled_from(ODD)


class Damage(NamedTuple):
    """What is done to which file of a folder."""

    file: str
    what: str
    act: Callable[[bytes], bytes]

    def __repr__(self) -> str:
        return f"{self.file}: {self.what}"

    def inflict(self, folder: Path) -> None:
        """Damage the file, where it is there."""
        path = folder / self.file
        if path.is_file():
            path.write_bytes(self.act(path.read_bytes()))


def _at(content: bytes, share: float) -> int:
    return min(int(share * len(content)), max(len(content) - 1, 0))


def _cut(content: bytes, share: float) -> bytes:
    return content[: _at(content, share)]


def _turned(content: bytes, share: float, bit: int) -> bytes:
    changed = bytearray(content)
    if changed:
        changed[_at(content, share)] ^= 1 << bit
    return bytes(changed)


def _places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    deeper = [place for key, part in inner for place in _places(part, (*above, key))]
    return [above, *deeper]


def _edited(content: bytes, share: float, value: Any, remove: bool) -> bytes:
    """Put a value in the place of another one of a JSON text, or take it out."""
    try:
        whole = json.loads(content)
    except ValueError:
        return content
    places = _places(whole)
    place = places[min(int(share * len(places)), len(places) - 1)]
    if not place:
        return json.dumps(value).encode()
    parent = whole
    for key in place[:-1]:
        parent = parent[key]
    if remove:
        del parent[place[-1]]
    else:
        parent[place[-1]] = value
    return json.dumps(whole).encode()


def _header(content: bytes, act: Callable[[bytes], bytes]) -> bytes:
    """Change the header of a safetensors file as a JSON text."""
    if len(content) < 8:
        return content
    (size,) = struct.unpack("<Q", content[:8])
    header = act(content[8 : 8 + size])
    return struct.pack("<Q", len(header)) + header + content[8 + size :]


share = st.floats(0, 1)


def raw(file: str) -> st.SearchStrategy[Damage]:
    """Cut a file short, turn a bit of it, or put something else in its place."""
    return st.one_of(
        share.map(lambda s: Damage(file, f"cut at {s:.3f}", lambda c: _cut(c, s))),
        st.tuples(share, st.integers(0, 7)).map(
            lambda at: Damage(file, f"bit {at[1]} at {at[0]:.3f}", lambda c: _turned(c, *at))
        ),
        st.binary(max_size=40).map(lambda b: Damage(file, f"is {b!r}", lambda c: b)),
    )


def as_json(file: str) -> st.SearchStrategy[Damage]:
    """Change a value of a JSON file, or take one out."""
    return st.tuples(share, odd, st.booleans()).map(
        lambda p: Damage(
            file, f"{p[0]:.4f} {'removed' if p[2] else repr(p[1])}", lambda c: _edited(c, *p)
        )
    )


def as_key(file: str, keys: list[str]) -> st.SearchStrategy[Damage]:
    """Set a key of a JSON object."""

    def set_to(pair: tuple[str, Any]) -> Damage:
        def act(content: bytes) -> bytes:
            try:
                whole = json.loads(content)
            except ValueError:
                return content
            return json.dumps(whole | dict([pair])).encode() if isinstance(whole, dict) else content

        return Damage(file, f"{pair[0]}={pair[1]!r}", act)

    return st.tuples(st.sampled_from(keys), odd).map(set_to)


def as_tensors(file: str) -> st.SearchStrategy[Damage]:
    """Change the header of a safetensors file: names, types, shapes, offsets."""
    edit = st.tuples(
        share, odd | st.sampled_from(["F32", "F16", "BF16", "I64", "U8", "F8_E4M3"]), st.booleans()
    )
    header = edit.map(
        lambda p: Damage(
            file, f"header {p[0]:.4f} {p[1]!r}", lambda c: _header(c, lambda h: _edited(h, *p))
        )
    )
    size = st.sampled_from([0, 1, 8, 10**6, 2**40, 2**63, 2**64 - 1]).map(
        lambda n: Damage(file, f"header of {n}", lambda c: struct.pack("<Q", n) + c[8:])
    )
    return st.one_of(header, size, raw(file))

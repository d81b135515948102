"""Recipes that somebody mistyped, or meant ill with: taken or refused in sentences, within a second or so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from fuzzed import fuzz, typed
from mutated import mutated
from ssiuu.experiment.matrix import resolve_all

RECIPES = [p.read_bytes() for p in sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))]
WORDS = """&a |*a|!!python/object:os.system |!!int |!!set {a}|!!binary aGk=|!x |<<: |2020-01-01|1:30|.inf|.nan
~|null|true|no|0x|0o9|-|: |? |[|]|{|}|"|'|>|%YAML 1.1|---|...|-1|1e999|1e-400|#|,|=|@|`|methods|name|seeds
unlearn|scales: |scale|[[|{a: |+|(|)|1__0|_1|+_|0b2|''|a.b|.|..a|a.|"\\ud800"|"\\0\""""
MARKS = [
    b"\t",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xe2\x80\xa8",
    b"\xc2\x85",
    b"|",
    b"9" * 5000,
]
words = st.sampled_from([*MARKS, *(w.encode() for line in WORDS.split("\n") for w in line.split("|"))])


def bomb(levels: int, width: int) -> bytes:
    """Return a recipe of aliases of aliases."""
    lines = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines).encode()


many = st.builds(
    lambda opening, entry, count, closing: opening + entry * count + closing,
    st.sampled_from([b"", b"seeds: [", b"methods: [", b"a: {", b"unlearn:\n", b"benchmark: ["]),
    st.sampled_from([b"1, ", b"gd, ", b"[", b"{a: ", b"  x: 1\n", b"# x\n", b"- ", b"? ", b"---\n", b"'", b" "]),
    st.sampled_from([3, 50, 3000, 70_000, 5_000_000]),
    st.sampled_from([b"", b"]", b"}"]),
)  # fmt: skip
sized = many | st.builds(bomb, st.integers(2, 30), st.integers(2, 12))
recipes = mutated(st.sampled_from(RECIPES), words) | sized | st.binary(max_size=60)


def read(path: Path) -> list[Any]:
    found = resolve_all(path, [])
    return [recipe.model_dump_json() for recipe, _ in found.values()]


@fuzz(recipes, examples=120)
def test_recipes(sample: bytes, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(sample)
    typed(lambda: read(tmp_path / "r.yaml"))

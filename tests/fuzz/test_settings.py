"""Any value under any key of `--set` is taken or refused in sentences, at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st
from pydantic import BaseModel

from fuzzed import fuzz, typed
from ssiuu.experiment.recipe import resolve


def keys(section: BaseModel, above: str = "") -> Iterator[str]:
    """Walk the settings: every dotted key, those of sections themselves too."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        yield f"{above}{name}"
        if isinstance(value, BaseModel):
            yield from keys(value, f"{above}{name}.")


KEYS = sorted(keys(resolve(None, [])[0]))
NUMBERS = [
    "inf",
    ".inf",
    "-.inf",
    ".nan",
    "nan",
    "1e308",
    "-1e308",
    "1e999",
    "5e-324",
    "-0.0",
    "-1",
    "0",
]
NUMBERS += ["1", "0.5", "1.5", "true", str(2**31), str(2**63), str(-(2**63)), str(10**30), "9" * 4999]
NUMBERS += ["0x10", "1_000", "1e-5", "'1'", "null", "~", ""]
numbers = st.sampled_from(NUMBERS) | st.integers().map(str) | st.floats().map(repr)
scalars = numbers | st.text(max_size=12) | st.sampled_from(["none", "gd", "paper", "strong", "own"])
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda parts: f"[{', '.join(parts)}]")
        | st.dictionaries(scalars, inner, max_size=3).map(
            lambda parts: "{" + ", ".join(f"{k}: {v}" for k, v in parts.items()) + "}"
        )
    ),
    max_leaves=6,
)
assignments = st.builds("{}={}".format, st.sampled_from(KEYS), values)


def read(sets: list[str]) -> Any:
    recipe, _ = resolve(None, sets)
    return recipe.made(), recipe.tried(), recipe.model_dump_json()


@fuzz(st.lists(assignments | st.text(max_size=20), min_size=1, max_size=3), examples=80)
def test_settings(sample: list[str]) -> None:
    typed(lambda: read(sample))


@fuzz(st.builds("{}={}".format, st.sampled_from(KEYS), numbers), examples=200)
def test_numeric_settings(sample: str) -> None:
    typed(lambda: read([sample]))

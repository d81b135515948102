"""Several benchmarks in one recipe: a run for each, in a folder of its own, and one comparison.

    benchmark:
      - fictional
      - {name: worldfacts, split: {forget: 24}}

An entry is a name, or a mapping with a name and what is set otherwise for it. Methods and attacks are
lists in every recipe, so that this is a matrix of method, benchmark and attack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssiuu.config import flatten
from ssiuu.errors import ConfigError, OutputError, show
from ssiuu.experiment.recipe import Part, Recipe, read_parts, resolve_parts
from ssiuu.report.compare_page import COMPARISON

MOST = 100  # benchmarks of one recipe

Resolved = tuple[Recipe, dict[str, str]]


def resolve_all(path: str | Path | None, sets: list[str]) -> dict[str, Resolved]:
    """Return the recipes of a matrix by the name of their folder, each with where its values came from.

    Args:
        path: As `ssiuu.experiment.recipe.resolve` has it.
        sets: The same.

    Returns:
        One recipe, by no name, where one benchmark is named.

    Raises:
        ConfigError: All that is wrong with one of them, together.
    """
    parts = read_parts(path, sets)
    place = next((n for n in reversed(range(len(parts))) if "benchmark" in parts[n][1]), None)
    entries = None if place is None else parts[place][1]["benchmark"]
    if place is None or not isinstance(entries, list):
        return {"": resolve_parts(parts)}
    if not 0 < len(entries) <= MOST:
        raise ConfigError(
            f"{parts[place][0]}: benchmark: names {len(entries) or 'none'}; at most {MOST}."
        )
    found: dict[str, Resolved] = {}
    for entry in entries:
        name, own = _entry(entry, parts[place][0])
        chosen = (f"{parts[place][0]}, benchmark {name}", {**own, "benchmark": name})
        found[_folder(name, found)] = resolve_parts(
            [*_without(parts, place), chosen, *parts[place + 1 :]]
        )
    return found


def _entry(entry: Any, source: str) -> tuple[str, dict[str, Any]]:
    """Return the name of a benchmark and what is set for it alone, by dotted key."""
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, Mapping) and isinstance(entry.get("name"), str):
        return entry["name"], flatten({key: value for key, value in entry.items() if key != "name"})
    raise ConfigError(
        f"{source}: benchmark: must be a name, or a mapping with name and settings, got {show(entry)}."
    )


def _without(parts: Sequence[Part], place: int) -> list[Part]:
    """Return the parts up to the one that names the benchmarks, that one without them."""
    source, values = parts[place]
    return [*parts[:place], (source, {key: v for key, v in values.items() if key != "benchmark"})]


def _folder(name: str, taken: Mapping[str, Resolved]) -> str:
    """Return the benchmark's name, with a number where it stands more than once."""
    again = sum(known == name or known.startswith(f"{name}-") for known in taken)
    return f"{name}-{again + 1}" if again else name


def check_matrix(out: Path, names: Sequence[str]) -> None:
    """Refuse a folder that holds anything but the runs of this matrix.

    Raises:
        OutputError: It does, or is a file.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise OutputError(f"--out {out} is a file; name a folder.")
    known = {*names, COMPARISON}
    others = sorted(p.name for p in out.iterdir() if p.name not in known and p.name[:1] != ".")
    if others:
        raise OutputError(
            f"--out {out} holds something else ({others[0]}): several benchmarks make a folder each in "
            "it; choose another folder."
        )

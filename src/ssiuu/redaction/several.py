"""A folder of several runs and the page that compares them: redacted under one key, or purged."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ssiuu.analysis.across import grounds
from ssiuu.errors import InputError
from ssiuu.records.files import load_run, write_bytes
from ssiuu.redaction.folder import PAGES, STAGED, Redacted, redact
from ssiuu.redaction.keys import SUFFIX, check_place, default_place
from ssiuu.redaction.purge import Plan, planned, purge
from ssiuu.report.compare_page import COMPARISON, render_comparison

_RUN: Final = ("run.json", STAGED)


def runs_in(folder: Path) -> list[Path]:
    """Return the runs of a folder that holds nothing else; none where it is a run itself."""
    if not folder.is_dir() or any((folder / name).exists() for name in (*_RUN, PAGES[0])):
        return []
    inside = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    runs = [path for path in inside if not path.is_symlink() and _is_run(path)]
    others = [path for path in inside if path not in runs and path.name != COMPARISON]
    return [] if any(path.suffix != SUFFIX for path in others) else runs


def _is_run(path: Path) -> bool:
    return path.is_dir() and (_left(path) or (path / PAGES[0]).exists())


def _left(run: Path) -> bool:
    """Whether the records of a run are there, and not its page alone, as after a purge."""
    return any((run / name).exists() for name in _RUN)


def keys_inside(folder: Path) -> list[Path]:
    """Return the keys that lie in a folder of runs: whoever gets it could try texts with them."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def redact_several(folder: Path, key: Path | None = None) -> list[tuple[Path, Redacted]]:
    """Redact every run of a folder, then make the comparison again of what is left.

    Args:
        folder: As `runs_in` takes it.
        key: File of the one key; None: beside the folder.

    Raises:
        InputError: A run cannot be read, or the key cannot be used.
        OutputError: Something cannot be written; the same command goes on.
    """
    place = key or default_place(folder)
    check_place(place, folder)
    runs = runs_in(folder)
    done = [(run, redact(run, place)) for run in runs if _left(run)]
    if len(done) == len(runs) and (folder / COMPARISON).exists():
        found = grounds({run.name: load_run(run) for run in runs})
        write_bytes(folder / COMPARISON, render_comparison(found).encode(), private=True)
    return done


def planned_several(
    folder: Path, cache: Path, key: Path | None = None, models: bool = False, facts: bool = False
) -> list[Plan]:
    """Return what is to be removed of every run of a folder; a key goes with the last that it is of.

    Raises:
        InputError: A run cannot be read, or all are purged.
    """
    place = key or default_place(folder)
    runs = [run for run in runs_in(folder) if _left(run) or place.exists()]
    if not runs:
        raise InputError(f"{folder} holds nothing to purge: its runs are purged already.")
    keys = [own if (own := default_place(run)).exists() else place for run in runs]
    return [
        planned(run, cache, key, models, facts, shared=key in keys[n:])
        for n, (run, key) in enumerate(zip(runs, keys, strict=True), start=1)
    ]


def purge_several(folder: Path, plans: list[Plan], key: Path | None = None) -> None:
    """Redact what is to be left, the comparison too, then remove what is planned.

    Raises:
        OutputError: Something cannot be removed; the same command goes on.
    """
    redact_several(folder, key)
    for plan in plans:
        purge(plan)

"""Remove what holds a fact, and leave the redacted report.

plan = planned(Path("audit"), cache=cache_folder())
for path, size in plan.sizes(): ...        # what would go
purge(plan)                                # and it goes
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssiuu.errors import InputError, OutputError
from ssiuu.records.files import read_record
from ssiuu.records.schema import RunHeader
from ssiuu.records.sharing import LOCK
from ssiuu.redaction.folder import (
    ALONE,
    CERTIFICATES,
    PAGES,
    STAGED,
    alone_in,
    facts_files,
    foreign,
    plain,
    planted_names,
    redact,
    remove,
    weights,
)
from ssiuu.redaction.keys import belongings, default_place

SHELL = (
    "What cannot be seen from here: copies of the folder, backups, the history of your shell, and "
    "what a disk keeps of removed files."
)


@dataclass
class Plan:
    """What is to go, and what is not.

    Attributes:
        folder: Of a run, an audit or a checkpoint.
        key: File of the key of its digests, which goes last.
        gone: What is removed.
        left: What holds facts, or may, and stays: a sentence each.
        run: Whether it is a run or an audit, whose redacted report is left.
        models: Whether models that were kept go as well.
        facts: Whether files of facts go as well.
        cache: The user's cache.
        shared: Whether the key is that of another run as well, and stays.
    """

    folder: Path
    key: Path
    cache: Path
    run: bool
    models: bool
    facts: bool
    shared: bool = False
    gone: list[Path] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def sizes(self) -> Iterator[tuple[Path, int]]:
        """Yield what goes, with its size in bytes."""
        for path in self.gone:
            yield path, _size(path)


def planned(
    folder: Path,
    cache: Path,
    key: Path | None = None,
    models: bool = False,
    facts: bool = False,
    shared: bool = False,
) -> Plan:
    """Return what is to be removed of a folder; nothing is removed yet.

    Args:
        folder: Of a run, an audit, or a checkpoint.
        cache: The user's cache.
        key: File of the key of its digests; None: beside it.
        models: Models that were kept go as well.
        facts: The files of facts that were given go as well.
        shared: The key is that of another run as well, and stays.

    Raises:
        InputError: The folder holds nothing of that kind.
    """
    place = key or default_place(folder)
    run = any((folder / name).exists() for name in ("run.json", STAGED)) or (
        (folder / PAGES[0]).exists() and place.exists()
    )
    alone = [folder / name for name in ALONE if (folder / name).exists()]
    beside = list(_beside(folder))
    if not (run or alone or beside):
        raise InputError(f"{folder} holds nothing to purge: it is no run, no audit and no checkpoint.")
    plan = Plan(folder, place, cache, run, models, facts, shared, gone=[*alone, *beside])
    if run:
        _plan_run(plan)
    elif folder.exists():
        plan.left.append(f"The model in {folder} stays: what it knows is in its weights.")
    _plan_facts(plan)
    plan.gone += [place] if place.exists() and not shared else []
    plan.left += [*certificate_left(folder), SHELL]
    return plan


def _plan_run(plan: Plan) -> None:
    """Add the records of a run, the models it kept, and what is not ssiuu's."""
    plan.gone += [path for path in plain(plan.folder) if path.name not in PAGES]
    for path in weights(plan.folder):
        if plan.models:
            plan.gone.append(path)
        else:
            plan.left.append(f"{path} is a model that was kept, and stays: --models removes it.")
    plan.left += [f"{path} is not of ssiuu, and stays." for path in foreign(plan.folder)]


def _plan_facts(plan: Plan) -> None:
    """Add what lies outside of the folder: controls in the cache, files of facts."""
    files, names = _outside(plan)
    plan.gone += [path for name in names if (path := plan.cache / "planted" / name).exists()]
    for path in map(Path, files):
        if not path.is_file():
            continue
        if plan.facts:
            plan.gone.append(path)
        else:
            plan.left.append(f"{path} is your file of facts, and stays: --facts removes it.")


def _outside(plan: Plan) -> tuple[list[str], list[str]]:
    """Return the files of facts and the names in the cache that a folder or its key knows of."""
    held = belongings(plan.key)
    files, names = (list(held.facts), list(held.cached)) if held else ([], [])
    header = read_record(plan.folder / "run.json", RunHeader)
    if header is None:
        return files, names
    if not header.redacted:
        plan.left += [
            f"{source} is no file, and stays where it is; the hub's cache may hold it."
            for source in (header.config.get("forget"), header.config.get("retain"))
            if _elsewhere(source)
        ]
        return [*files, *facts_files(header)], [*names, *planted_names(header)]
    if held is None:
        plan.left.append(
            "Which files of facts it was made of is not known any more: its key is gone. They stay."
        )
    return files, names


def _elsewhere(source: Any) -> bool:
    """Whether a source of facts is a name on the hub."""
    return isinstance(source, str) and source.count("/") == 1 and not os.path.exists(source)


def _beside(folder: Path) -> Iterator[Path]:
    """Yield what `unlearn` and `teach` leave beside a checkpoint: a record, unfinished work."""
    name = folder.absolute().name
    for pattern in (f"{glob.escape(name)}.unlearn.json", f".{glob.escape(name)}.unfinished"):
        yield from folder.absolute().parent.glob(pattern)
    yield from folder.absolute().parent.glob(f".{glob.escape(name)}.part-*")


def certificate_left(folder: Path) -> Iterator[str]:
    """Say what a certificate that stays tells of the facts."""
    path = folder / CERTIFICATES[0]
    if not path.exists():
        return
    # In a signed one the salt is behind base64; the page says in words what both are.
    page = folder / CERTIFICATES[1]
    salted = b'"algorithm":"sha256"' in path.read_bytes() or (
        page.exists() and b"They are salted" in page.read_bytes()
    )
    how = (
        "salted digests, and stays: whoever guesses one can tell that it is meant"
        if salted
        else "digests that nobody can try without the key, and stays"
    )
    yield f"{path} names the facts by {how}."


def purge(plan: Plan) -> None:
    """Redact what is to be left, then remove what is planned; the key goes last.

    Raises:
        OutputError: Something cannot be removed; the same command goes on.
    """
    if plan.run and ((plan.folder / "run.json").exists() or (plan.folder / STAGED).exists()):
        redact(plan.folder, plan.key)
        plan = planned(plan.folder, plan.cache, plan.key, plan.models, plan.facts, plan.shared)
    with alone_in(plan.folder) if plan.run else nullcontext():
        _remove_all(plan)


def _remove_all(plan: Plan) -> None:
    # The header names what else there is: it goes when nothing else is left but the key.
    last = {plan.folder / "run.json": 1, plan.key: 2}
    try:
        for path in sorted(plan.gone, key=lambda path: last.get(path, 0)):
            remove(path)
        for name in ("cells", "tune") if plan.run else ():
            _tidy(plan.folder / name)
    except OSError as error:
        raise OutputError(
            f"{error.filename} cannot be removed: {error.strerror or error}. The same command goes on."
        ) from error


def _tidy(folder: Path) -> None:
    """Remove the folders of cells in which nothing but a lock is left."""
    for place in (*folder.glob("*"), folder):
        if place.is_dir() and all(path.name.startswith(LOCK) for path in place.iterdir()):
            shutil.rmtree(place)


def _size(path: Path) -> int:
    if path.is_dir() and not path.is_symlink():
        return sum(p.lstat().st_size for p in path.rglob("*") if p.is_file())
    return path.lstat().st_size

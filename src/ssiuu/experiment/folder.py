"""The folder of a run: which settings may change in it, its header, and the locks of its parts."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from ssiuu.config import flatten
from ssiuu.errors import DamagedError, OutputError
from ssiuu.experiment.cells import CellPlan
from ssiuu.experiment.recipe import Recipe
from ssiuu.models.shards import agreed, rank
from ssiuu.models.weights import work_folder
from ssiuu.records.files import (
    HEADER,
    SPLIT,
    left_of_run,
    read_header,
    require_empty,
    standing,
    unfinished,
    write_bytes,
    write_record,
)
from ssiuu.records.lease import PATIENCE, Held, generations, outlast
from ssiuu.records.schema import RunHeader, Split
from ssiuu.records.sharing import LOCK, Sharing, Way, flock
from ssiuu.redaction.folder import STAGED
from ssiuu.training import interrupt

# What may change within a folder; all else decides the model and the facts.
CHANGEABLE = {
    "methods",
    "seeds",
    "protocol",
    "unlearn",
    "evaluate",
    "diagnose",
    "inside",
    "examine",
    "attacks",
    "tune",
    "precision",
    "device",
    "dtype",
    "attention",
    "gradient_checkpointing",
    "offload",
    "shard_size",
    "mesh",
    "keep_checkpoints",
    "locks",
}
FACTS = {"evaluate.options"}  # decides them all the same
OTHER = "Model and facts are one for a whole folder; choose another folder."
PAUSE = 0.5  # seconds between two looks at a lock

P = TypeVar("P", bound=CellPlan)


def check_folder(out: Path, recipe: Recipe, after: Path | None = None) -> None:
    """Refuse a folder that holds something else; a header that is lost or damaged is made again.

    Raises:
        OutputError: It holds a run of another model or other facts, or files that are no run.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise OutputError(f"--out {out} is a file; name a folder.")
    if (out / STAGED).exists():
        raise OutputError(f"--out {out} is redacted in part: ssiuu redact {out} goes on.")
    if not (out / HEADER).exists():
        entries = sorted(p.name for p in out.iterdir() if not p.name.startswith("."))
        if entries and not left_of_run(out):
            raise OutputError(f"--out {out} is not empty and holds no run ({entries[0]}, ...).")
        return
    try:
        header = read_header(out)
    except DamagedError:
        return  # see `settle`
    if header.redacted:
        raise OutputError(
            f"--out {out} is redacted: its facts are gone, so nothing can be run on in it. Choose "
            "another folder; ssiuu report still makes its page."
        )
    kind = "run" if after is None else "audit"
    if header.kind != kind:
        raise OutputError(f"--out {out} holds {_a(header.kind)}, this is {_a(kind)}. {OTHER}")
    old, new = flatten(header.config), flatten(recipe.model_dump(mode="json"))
    changed = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k) and _fixed(k))
    if changed:
        key = changed[0]
        raise OutputError(
            f"--out {out} holds another run: {key} is {old.get(key)!r} there and "
            f"{new.get(key)!r} now. {OTHER}"
        )


def make_folder(out: Path, private: bool) -> None:
    """Make the folder of a run, which only the user can look into where facts in it are theirs.

    Raises:
        OutputError: It cannot be made, or not be written to.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.mkdir(mode=0o700 if private else 0o777, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OutputError(f"{out} cannot be written to: {error.strerror or error}.") from error


def _fixed(key: str) -> bool:
    return key in FACTS or key.partition(".")[0] not in CHANGEABLE | {"after", "attacked"}


def _a(kind: str) -> str:
    return "an audit" if kind == "audit" else "a run"


def standing_split(out: Path, say: Callable[[str], None]) -> Split | None:
    """Return the choice of facts of a folder; None where there is none, or none that can be relied on.

    Where the header is lost, that is the case until the original is scored: its record says by its name
    whether the same facts are meant.
    """
    if (header := standing(out / HEADER, RunHeader, say)) is not None:
        return header.split
    scored = any(out.glob("original-*.json"))
    return standing(out / SPLIT, Split, say) if scored else None


def settle(out: Path, header: RunHeader, say: Callable[[str], None]) -> RunHeader:
    """Make this the header of the folder and return it; the one there stays if nothing has changed.

    A header that is replaced is kept as run-<digest>.json.

    Raises:
        OutputError: What is there has another model or other facts.
    """
    path = out / HEADER
    before = standing(path, RunHeader, say)
    if before is not None:
        _same_ground(out, before, header)
        if not (out / SPLIT).exists():  # the process before was killed between the two
            write_record(out / SPLIT, before.split)
        if (before.config, before.stages) == (header.config, header.stages):
            return before
        content = path.read_bytes()
        write_bytes(out / f"run-{hashlib.sha256(content).hexdigest()[:8]}.json", content)
    elif scored := sorted(path.name for path in out.glob("original-*.json")):
        if not header.stages.keys() & {*scored}:
            raise OutputError(
                f"--out {out} has lost its {HEADER} and holds records of another model, of other facts "
                f"or under other settings ({scored[0]}): choose another folder."
            )
        say(f"{path} was lost: it is made again of this command's settings")
    write_record(path, header)
    if before is None:
        write_record(out / SPLIT, header.split)
    return header


def _same_ground(out: Path, standing: RunHeader, header: RunHeader) -> None:
    grounds = {
        "the model": (standing.model.fingerprint, header.model.fingerprint),
        "the benchmark": (standing.benchmark.fingerprint, header.benchmark.fingerprint),
        "the choice of facts": (standing.split, header.split),
    }
    for what, (old, new) in grounds.items():
        if old != new:
            raise OutputError(f"--out {out} holds another run: {what} was another one. {OTHER}")


@contextmanager
def locked(
    path: Path,
    wait: Callable[[], None] | None = None,
    sharing: Sharing | None = None,
    part: bool = False,
) -> Iterator[bool]:
    """Hold a lock file while the block runs; nobody does any more however this process ends.

    Args:
        path: The lock file; it stays, where it is not of a part.
        wait: Called once where another process holds it, before this one waits for it. Without
            it the block runs at once and is told False.
        sharing: How the folder is shared; None: by the system's locks.
        part: It is the lock of a part of the work, see `Sharing.hold`.

    Raises:
        OutputError: The folder cannot be written to, or its file system has no locks.
    """
    hold, held = flock if sharing is None else sharing.hold, list[Held]()

    def mine() -> bool:
        if rank() == 0 and (taken := hold(path, part)) is not None:
            held.append(taken)
        return agreed(bool(held))

    try:
        got = mine()
        if not got and wait is not None:
            wait()
            while not (got := mine()):
                interrupt.check()
                time.sleep(PAUSE)
        yield got
    finally:
        for taken in held:
            taken.release()


@contextmanager
def at_work(
    out: Path, wanted: Way = "auto", say: Callable[[str], None] = lambda _: None
) -> Iterator[Path]:
    """Have the folder to oneself in which what becomes the checkpoint `out` is worked on.

    A block that leaves nothing in it leaves no folder either.

    Args:
        out: Must not hold anything.
        wanted: How processes keep apart, see `Sharing`.
        say: Told where a lease lies there, whose holder may be dead.

    Raises:
        OutputError: Another process is at work on `out`, or it holds something, or nothing can be
            written there.
    """
    work = unfinished(out)
    made = [place for place in (work, *work.parents) if not place.exists()]
    held = None
    try:
        try:
            work.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{out} cannot be written to: {error.strerror or error}.") from error
        if rank() == 0:
            leases = Sharing(work, wanted).leases
            if leases and generations(work / LOCK):
                say(f"looking for {PATIENCE:.0f} s whether who was at work on {out} is alive")
            held = (outlast if leases else flock)(work / LOCK)
        if not agreed(held is not None):
            raise OutputError(
                f"--out {out}: another process is at work on it; wait until it ends, or choose another "
                "folder."
            )
        require_empty(out)
        work_folder(out)
        yield work
    finally:
        if held is not None:
            if all(path.name.startswith(LOCK) for path in work.glob("*")):
                shutil.rmtree(work, ignore_errors=True)
            held.release()
        for place in made:
            with suppress(OSError):  # somebody's by now
                place.rmdir()


def in_turn(
    jobs: Sequence[P],
    attempt: Callable[[P], bool],
    progress: Callable[[str], None],
    help_with: Callable[[P], bool] = lambda _: False,
) -> None:
    """Do all jobs; one that another process is at is passed over and looked at again at the end.

    Args:
        jobs: What is to be done.
        attempt: Does one; False if another process is at it.
        progress: Told once when only those of other processes are left.
        help_with: Does a part of one that another process is at; False if there is none to do.
    """
    announced = False
    while jobs:
        waiting = [job for job in jobs if not attempt(job)]
        if len(waiting) == len(jobs) and not any(help_with(job) for job in waiting):
            if not announced:
                progress(f"{waiting[0].name}: another process is at it; waiting")
            announced = True
            interrupt.check()
            time.sleep(PAUSE)
        jobs = waiting


def sweep(folder: Path, name: str = "") -> None:
    """Remove the half-written files that a killed process has left; the caller holds the lock.

    Reports are written without one, and sweep for themselves.
    """
    if rank():
        return
    for kind in (f"{name}*.json", f"{name}*.safetensors", "certificate.html"):
        for path in folder.glob(f".{kind}.*"):
            if path.is_dir() and not path.is_symlink():  # see `write_tensors`
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

"""The ledger of deletion requests, kept: opened, added to, withdrawn from; nothing here needs torch.

What a round of `ssiuu.experiment.requests` has made lies in folders beside the ledger. Who withdraws a
request of a round that was interrupted removes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from ssiuu.data.columns import given_columns
from ssiuu.data.read import read_facts
from ssiuu.errors import ConfigError, OutputError
from ssiuu.records.lease import Held
from ssiuu.records.ledger import Ledger, Request, Round
from ssiuu.records.said import logged
from ssiuu.records.sharing import LOCK, Sharing, way_of
from ssiuu.redaction.folder import remove

FORGOTTEN: Final = "forgotten"  # the outcome of a round that made a model
Progress = Callable[[str], None]


def open_ledger(
    folder: Path,
    model: str,
    retain: str,
    method: str | None,
    sample: int,
    sets: Sequence[str],
    columns: str | None = None,
) -> Ledger:
    """Begin a ledger of requests about one model.

    Args:
        folder: Must be empty, or not there.
        model: Short name, folder or hub name.
        retain: File of the facts that the model must keep, or "none".
        method: See `ssiuu list methods`; None: that of `ssiuu unlearn`.
        sample: Facts of a request whose texts stay, so that later models can be asked again.
        sets: Settings of every round, as in a recipe.
        columns: Of the file of facts to keep, as `--columns` has them.

    Raises:
        InputError: Something of it cannot be used; nothing has been written.
    """
    if sample < 0:
        raise ConfigError(f"--sample: must be at least 0, got {sample}.")
    if retain != "none":
        read_facts(retain, "--retain", given_columns(columns))
    return Ledger.begin(
        folder,
        {
            "model": str(Path(model).resolve()) if Path(model).is_dir() else model,
            "retain": str(Path(retain).resolve()) if Path(retain).is_file() else retain,
            "method": method or "",
            "sample": str(sample),
            "sets": json.dumps(list(sets)),
            "columns": columns or "",
        },
        way_of(sets),
    )


def add(
    ledger: Ledger, forget: str, reference: str | None, columns: Any = None, progress: Progress = logged
) -> Request:
    """Add a request to a ledger, and return it as it stands there.

    Args:
        ledger: Of which model.
        forget: File of the facts that are to go.
        reference: What it is called by whoever keeps the ledger; None: its number.
        columns: Of the file.
        progress: Told which columns are read.

    Raises:
        InputError: The file cannot be used, or another request is called so.
    """
    facts = read_facts(forget, "--forget", columns, progress)
    rows = [fact.model_dump(mode="json", exclude_defaults=True, exclude={"id"}) for fact in facts]
    number = ledger.add(reference or "", rows)
    return next(request for request in ledger.requests() if request.id == number)


def withdraw(ledger: Ledger, reference: str, progress: Progress = logged) -> Round | None:
    """Take a pending request out, and overwrite its texts; return the round that was dropped with it.

    A round that was interrupted and has the request in it has read its facts: the round is dropped,
    with all that was made in it, and its other requests are pending as before.

    Args:
        ledger: Of which model.
        reference: What the request is called by.
        progress: Told where it has to wait.

    Raises:
        ConfigError: There is none of this reference, it was processed, or its round is under way.
        OutputError: What the round has left cannot be removed; the same command goes on.
    """
    held = hold(ledger, progress)
    try:
        number = next((one.id for one in ledger.requests() if one.reference == reference), None)
        interrupted = [one for one in ledger.rounds() if held and not one.ended]
        dropped = next((one for one in interrupted if number in one.requests), None)
        if dropped is not None:
            drop(ledger, dropped)
        ledger.withdraw(reference)
        if held is not None:
            # What a round that came to nothing said of the facts lies where the next one is.
            clear(ledger, max((one.id for one in ledger.rounds()), default=0) + 1)
        return dropped
    finally:
        if held is not None:
            held.release()


def newest(ledger: Ledger) -> str:
    """Return the model that the next round goes on from."""
    made = [one.id for one in ledger.rounds() if one.ended and one.outcome == FORGOTTEN]
    return str(checkpoint(ledger, made[-1])) if made else ledger.about("model")


def audit_folder(ledger: Ledger, round_: int) -> Path:
    """Return where the audit of a round is, or would be."""
    return ledger.folder / "audits" / f"{round_:04d}"


def hold(ledger: Ledger, progress: Progress) -> Held | None:
    """Take the lock of a ledger's rounds, a dead process' too; None where another one works on one."""
    sharing = Sharing(ledger.folder, way_of(json.loads(ledger.about("sets"))))
    return sharing.take_up(ledger.folder / LOCK, progress)


def drop(ledger: Ledger, round_: Round) -> None:
    """Drop a round that was interrupted, with all that it has left.

    Killed meanwhile it is under way as before, and begins at its beginning: its model goes first, at
    once.

    Raises:
        OutputError: Something of it cannot be removed.
    """
    ledger.note(round_.id, outcome="", verdict="")
    clear(ledger, round_.id)
    ledger.drop_round(round_.id)


def clear(ledger: Ledger, round_: int) -> None:
    """Remove all that a round has left in its folders and beside them, its model first and at once."""
    made, name = checkpoint(ledger, round_), f"{round_:04d}"
    gone = made.with_name(f".{name}.gone")
    try:
        remove(gone)
        if made.exists():
            made.rename(gone)
        for folder in (made.parent, audit_folder(ledger, round_).parent):
            for path in folder.glob("*"):
                if path.name.removeprefix(".").partition(".")[0] == name:
                    remove(path)
    except OSError as error:
        raise OutputError(
            f"{error.filename} cannot be removed: {error.strerror or error}. The same command goes on."
        ) from error


def checkpoint(ledger: Ledger, round_: int) -> Path:
    """Return where the model of a round is, or would be."""
    return ledger.folder / "models" / f"{round_:04d}"

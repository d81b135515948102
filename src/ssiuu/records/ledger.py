"""A ledger of deletion requests: what was asked for when, what became of it, in one SQLite file.

A request's texts stand in it until the request is processed; then they are overwritten, but for a
sample, so that later models can be asked again. SQLite overwrites what is deleted (`secure_delete`) and
keeps no log beside the file; where a file system keeps old blocks, it cannot help. Of every
question that was made go a digest under the ledger's own key stays: a fact to keep that asks it is left
out.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from ssiuu.errors import ConfigError, OutputError, unknown
from ssiuu.records.files import now
from ssiuu.records.said import logged
from ssiuu.records.sharing import Sharing, Way, by_lease, noted

FILE = "ledger.sqlite"
VERSION = "1"
GONE, KEY = "gone", "digest key"  # entries of `about`
SCHEMA = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE requests (
    id INTEGER PRIMARY KEY, reference TEXT NOT NULL UNIQUE, received TEXT NOT NULL,
    facts INTEGER NOT NULL, texts TEXT, round INTEGER, verdict TEXT NOT NULL DEFAULT ''
);
CREATE TABLE rounds (
    id INTEGER PRIMARY KEY, started TEXT NOT NULL, ended TEXT, requests TEXT NOT NULL,
    before TEXT NOT NULL, outcome TEXT NOT NULL DEFAULT '', verdict TEXT NOT NULL DEFAULT '',
    kept INTEGER, kept_of INTEGER, kl REAL, sampled INTEGER, back INTEGER
);
"""


@dataclass(frozen=True)
class Request:
    """One request. `round` is the one that it was processed in, `verdict` the worst of its facts'."""

    id: int
    reference: str
    received: str
    facts: int
    rows: list[dict[str, Any]]
    round: int | None
    verdict: str

    @property
    def state(self) -> str:
        """Whether it still has to be processed."""
        return "pending" if self.round is None else "processed"


@dataclass(frozen=True)
class Round:
    """One round: what was pending, forgotten on the newest model.

    `kept` of `kept_of` facts to keep that the very first model knew are still known; `kl` from the
    model before the round on plain text, nats a token; `back` of `sampled` facts of earlier requests
    are known again.
    """

    id: int
    started: str
    ended: str | None
    requests: list[int]
    before: str
    outcome: str
    verdict: str
    kept: int | None
    kept_of: int | None
    kl: float | None
    sampled: int | None
    back: int | None


class Ledger:
    """The requests of one model, in a folder that is its owner's alone."""

    def __init__(self, folder: Path, tell: Callable[[str], None] = logged) -> None:
        """Open a ledger.

        Args:
            folder: Which one.
            tell: Told where another process has it, and is waited for.

        Raises:
            ConfigError: There is none in this folder, or it is of a newer version.
        """
        self.folder, self._tell = folder, tell
        if not (folder / FILE).is_file():
            raise ConfigError(
                f"{folder} holds no ledger: ssiuu request open {folder} --model ... begins one."
            )
        try:
            version = self.about("version")
        except sqlite3.DatabaseError as error:
            raise ConfigError(f"{folder / FILE} is no ledger that can be read: {error}.") from error
        if version != VERSION:
            raise ConfigError(f"{folder / FILE} is of version {version}; this ssiuu reads {VERSION}.")

    @classmethod
    def begin(cls, folder: Path, about: Mapping[str, str], locks: Way = "auto") -> Ledger:
        """Begin a ledger in an empty folder.

        Args:
            folder: It must be empty, or not there.
            about: What it is begun with.
            locks: How processes keep apart in it; see `ssiuu.records.sharing.Sharing`.

        Raises:
            OutputError: The folder holds something, or cannot be written to.
        """
        try:
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise OutputError(f"{folder} is not an empty folder: choose another for the ledger.")
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(folder / FILE, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except OSError as error:
            raise OutputError(f"{folder} cannot be written to: {error.strerror or error}.") from error
        Sharing(folder, locks)
        with _connected(folder) as base:
            base.executescript(SCHEMA)
            base.executemany("INSERT INTO about VALUES (?, ?)", [*about.items(), ("version", VERSION)])
        return cls(folder)

    def _connected(self) -> AbstractContextManager[sqlite3.Connection]:
        return _connected(self.folder, self._tell)

    def about(self, key: str) -> str:
        """Return what the ledger was begun with; nothing where it is not in it."""
        with self._connected() as base:
            found = base.execute("SELECT value FROM about WHERE key = ?", (key,)).fetchone()
        return "" if found is None else str(found[0])

    def tell(self, key: str, value: str) -> None:
        """Note something of the ledger as a whole."""
        with self._connected() as base:
            base.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (key, value))

    def add(self, reference: str, rows: Sequence[Mapping[str, Any]]) -> int:
        """Add a request and return its number.

        Args:
            reference: What it is called by; empty: by the first number that no other is called by.
            rows: Its facts.

        Raises:
            ConfigError: There is one of this reference.
        """
        taken = {request.reference for request in self.requests()}
        reference = reference or next(n for i in count(1) if (n := f"request {i}") not in taken)
        texts = json.dumps(list(rows), ensure_ascii=False)
        with self._connected() as base:
            try:
                made = base.execute(
                    "INSERT INTO requests (reference, received, facts, texts) VALUES (?, ?, ?, ?)",
                    (reference, now(), len(rows), texts),
                )
            except sqlite3.IntegrityError as error:
                raise ConfigError(
                    f"--reference {reference!r}: a request of this reference is in the ledger."
                ) from error
            return int(made.lastrowid or 0)

    def withdraw(self, reference: str) -> None:
        """Take a request out that is pending and in no round, and overwrite its texts.

        Raises:
            ConfigError: There is none of this reference, it was processed, or it is in a round.
        """
        with self._connected() as base:
            # One statement: a round that begins meanwhile has the request, or it is gone before.
            gone = base.execute(
                "DELETE FROM requests WHERE reference = ? AND round IS NULL AND NOT EXISTS (SELECT 1 "
                "FROM rounds WHERE ended IS NULL "
                "AND instr(' ' || rounds.requests || ' ', ' ' || requests.id || ' '))",
                (reference,),
            ).rowcount
        if not gone:
            raise ConfigError(self._stays(reference))
        _vacuum(self.folder, self._tell)

    def _stays(self, reference: str) -> str:
        """Return why a request cannot be withdrawn, in a sentence."""
        request = next((one for one in self.requests() if one.reference == reference), None)
        if request is None:
            pending = [one.reference for one in self.requests() if one.round is None]
            return unknown("pending request", reference, pending, str(self.folder))
        if request.round is not None:
            return (
                f"--reference {reference!r}: it was processed in round {request.round}; what is still "
                "pending can be withdrawn."
            )
        at = self.rounds()[-1].id
        return (
            f"--reference {reference!r}: it is in round {at}, which is under way, and cannot be "
            "withdrawn meanwhile. Stop that round first (Ctrl-C), or wait for it."
        )

    def requests(self) -> list[Request]:
        """Return all requests, in the order they came."""
        with self._connected() as base:
            rows = base.execute(
                "SELECT id, reference, received, facts, texts, round, verdict FROM requests ORDER BY id"
            ).fetchall()
        return [
            Request(number, reference, received, facts, json.loads(texts or "[]"), round_, verdict)
            for number, reference, received, facts, texts, round_, verdict in rows
        ]

    def rounds(self) -> list[Round]:
        """Return all rounds, the one that is under way last."""
        with self._connected() as base:
            rows = base.execute("SELECT * FROM rounds ORDER BY id").fetchall()
        named = ([*row[:3], [int(n) for n in row[3].split()], *row[4:]] for row in rows)
        return [Round(*row) for row in named]

    def begin_round(self, before: str) -> Round | None:
        """Begin a round with all that is pending, on this model; None where nothing is."""
        with self._connected() as base:
            # One statement: what is withdrawn meanwhile is in it, and stays, or is gone before.
            made = base.execute(
                "INSERT INTO rounds (started, requests, before) SELECT ?, ids, ? FROM (SELECT "
                "group_concat(id, ' ') AS ids FROM requests WHERE round IS NULL) WHERE ids IS NOT NULL",
                (now(), before),
            ).rowcount
        return self.rounds()[-1] if made else None

    def note(self, round_: int, **values: str | float | None) -> None:
        """Note figures of a round."""
        names = ", ".join(f"{name} = ?" for name in values)  # of this module's callers, never a text
        with self._connected() as base:
            base.execute(f"UPDATE rounds SET {names} WHERE id = ?", (*values.values(), round_))

    def drop_round(self, round_: int) -> None:
        """Forget a round that led to nothing: its requests are pending as before."""
        with self._connected() as base:
            base.execute("DELETE FROM rounds WHERE id = ?", (round_,))

    def end_round(
        self, round_: int, verdicts: Mapping[int, str], sample: int, gone: Iterable[str]
    ) -> None:
        """End a round: its requests are processed, and their texts go but for a sample of each.

        Args:
            round_: Its number.
            verdicts: The word on each of its requests.
            sample: Facts of each whose texts stay.
            gone: `digests` of all its questions, which stay.
        """
        kept = {request.id: request.rows[:sample] for request in self.requests()}
        stated = json.dumps(sorted(self.gone().union(gone)))
        with self._connected() as base:
            for request, verdict in verdicts.items():
                texts = json.dumps(kept[request], ensure_ascii=False) if kept[request] else None
                base.execute(
                    "UPDATE requests SET round = ?, verdict = ?, texts = ? WHERE id = ?",
                    (round_, verdict, texts, request),
                )
            base.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (GONE, stated))
            base.execute("UPDATE rounds SET ended = ? WHERE id = ?", (now(), round_))
        _vacuum(self.folder, self._tell)

    def gone(self) -> set[str]:
        """Return the digests of all questions that earlier rounds made go."""
        return set(json.loads(self.about(GONE) or "[]"))

    def digests(self, questions: Iterable[str]) -> list[str]:
        """Return HMAC-SHA256 of each question under the ledger's own key."""
        if not self.about(KEY):
            self.tell(KEY, secrets.token_hex(32))
        key = bytes.fromhex(self.about(KEY))
        return [hmac.new(key, text.encode(), hashlib.sha256).hexdigest() for text in questions]

    def purge(self) -> int:
        """Overwrite the texts of every processed request, samples too; return how many had some."""
        with self._connected() as base:
            done = base.execute(
                "UPDATE requests SET texts = NULL WHERE round IS NOT NULL AND texts IS NOT NULL"
            ).rowcount
        _vacuum(self.folder, self._tell)
        return int(done)


@contextmanager
def _connected(folder: Path, tell: Callable[[str], None] = logged) -> Iterator[sqlite3.Connection]:
    """Open the file, and commit what is done to it, or nothing."""
    with _opened(folder, tell) as (base, check):
        base.execute("PRAGMA journal_mode = DELETE")
        with base:
            yield base
            check()


def _vacuum(folder: Path, tell: Callable[[str], None]) -> None:
    """Write the file anew, so that no page holds what was in it before."""
    with _opened(folder, tell, isolation_level=None) as (base, _):
        base.execute("VACUUM")


@contextmanager
def _opened(
    folder: Path, tell: Callable[[str], None], **settings: Any
) -> Iterator[tuple[sqlite3.Connection, Callable[[], None]]]:
    """Open the file; with what finds out whether it is still this process' to write to.

    Where the system locks nothing SQLite is told to lock nothing either, and a lease stands in for it.
    """
    path = folder / FILE
    with ExitStack() as stack:
        name, check = str(path), _nothing
        if noted(folder):
            name, check = (
                f"{path.resolve().as_uri()}?nolock=1",
                stack.enter_context(by_lease(path, tell)).check,
            )
        base = sqlite3.connect(name, timeout=60, uri=name != str(path), **settings)
        stack.callback(base.close)
        base.execute("PRAGMA secure_delete = ON")
        yield base, check


def _nothing() -> None:
    """SQLite's own locks are not lost."""

"""Pages of runs served to this machine alone while they go on: `ssiuu view`.

    with serving([Path("first"), Path("second")]) as server:
        print(server.url)            # http://127.0.0.1:PORT/TOKEN/
        server.wait()

The server listens on the loopback address. It answers who knows the token in its address, drawn anew
every time, and who calls it by that address: a page from elsewhere, by a name that leads here, gets
nothing. Its addresses are one a run and a few more; none is a path on the disk, and nothing can be
changed through them. A run's page is that of its file, made again where anything of it has changed.

A question may be put to both models of a run, one at a time: N/ask tells which there are (GET) and what
they say (POST). Who answers is given from outside: no model is loaded here.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Protocol

from markupsafe import Markup

from ssiuu.errors import InputError
from ssiuu.records.files import HEADER, load_run, read_header, read_record
from ssiuu.records.schema import RunHeader, Unlearning
from ssiuu.records.underway import Underway, Watcher, duration
from ssiuu.report.page import environment, policy, render, template_text
from ssiuu.report.text import printable
from ssiuu.report.unlearned import unlearned_page

LOOPBACK: Final = "127.0.0.1"
FRAMED: Final = "frame-ancestors 'self'"
UNLEARNED: Final = "unlearn.json"
LONGEST: Final = 2000  # characters of a question
BODY: Final = 6 * LONGEST + 1000  # bytes that bring it: \uXXXX is the longest that a character is
SHELL: Final = "connect-src 'self'; frame-src 'self'"  # what the page around the pages may, in addition


@dataclass
class Watched:
    """A folder of a run, and the page last made of it."""

    folder: Path
    stamp: str = ""
    page: str = ""
    busy: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Look at how far it is again and again; what is done is read once."""
        self.watcher, self.begun, self.idle = Watcher(self.folder), 0, False

    def seen(self) -> str:
        """Return what changes with anything in the folder: its newest times and the number of files."""
        count, newest = 0, 0
        for place, folders, names in os.walk(self.folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                # Unfinished states change with every minute, and no page shows them.
                if name.endswith(".json") and not name.startswith("."):
                    newest = max(newest, _changed(Path(place) / name))
                    count += 1
        return f"{count}-{newest}"

    def rendered(self) -> str:
        """Return the page, made again where the folder has changed since."""
        with self.busy:
            seen = self.seen()
            if seen != self.stamp:
                made = self.checkpoint()
                page = unlearned_page(self.folder.name, made) if made else render(load_run(self.folder))
                self.page, self.stamp = page, seen
            return self.page

    def checkpoint(self) -> Unlearning | None:
        """Return how a checkpoint was unlearned, where the folder is one and no run."""
        if (self.folder / HEADER).exists():
            return None
        return read_record(self.folder / UNLEARNED, Unlearning)

    def state(self) -> dict[str, Any]:
        """Return where the run stands: what it is of, and how many of its stages are done."""
        try:
            if (made := self.checkpoint()) is not None:
                told = made.outcome.state if made.outcome else "not judged"
                stamp = {"name": self.folder.name, "stamp": self.seen()}
                return stamp | {"told": f"checkpoint: {told}"}
            header = read_header(self.folder)
        except InputError as error:
            return {"name": self.folder.name, "stamp": "", "told": printable(str(error))}
        return {"name": self.folder.name, "stamp": self.seen(), "told": self._told(header)}

    def _told(self, header: RunHeader) -> str:
        names = dict.fromkeys([header.model.name, header.benchmark.name])
        if (begun := _changed(self.folder / HEADER)) != self.begun:
            self.watcher, self.begun = Watcher(self.folder), begun  # another run, or more of it
        state, before = self.watcher.look(), self.idle
        self.idle = not any(work.alive for work in state.work)
        # Between two stages nobody is at one: only what is so twice is told.
        told = how_far(state, self.idle and before)
        return printable(f"{header.kind} of {', '.join(names)}: {told}")


def how_far(state: Underway, left_alone: bool = False) -> str:
    """Return how far a run is, in a few words; `left_alone`: nobody is at work on it."""
    if state.done == state.stages:
        return "finished"
    parts = [f"{state.done} of {state.stages} stages done"]
    if state.failed:
        parts.append(f"{len(state.failed)} broke off")
    if state.over:
        return ", ".join([*parts, "ended"])
    if left_alone:
        return ", ".join([*parts, "nobody at work on it"])
    if state.left is not None:
        parts.append(f"{duration(state.left)} left")
    return ", ".join(parts)


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # it has just been renamed
        return 0


class Asker(Protocol):
    """Puts questions to the models of a run; every way refuses by an InputError, in a sentence."""

    def choices(self, run: Path) -> Sequence[str]:
        """Return what the models are called that may be asked beside the one before."""

    def ask(self, run: Path, choice: str, question: str) -> Mapping[str, Any]:
        """Return what both say: before, after, names and form."""


class Server(ThreadingHTTPServer):
    """Serves these runs; `url` leads to them."""

    daemon_threads = True

    def __init__(self, folders: Sequence[Path], port: int = 0, asker: Asker | None = None) -> None:
        """Listen, on a free port where none is named; without an asker nothing is asked.

        Raises:
            OSError: The port cannot be had.
        """
        self.watched = [Watched(folder) for folder in folders]
        self.token = secrets.token_urlsafe(24)
        self.asker, self.asking = asker, threading.Lock()
        super().__init__((LOOPBACK, port), Handler)

    @property
    def hosts(self) -> set[str]:
        """The names that it may be called by."""
        return {f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost")}

    @property
    def url(self) -> str:
        """Where it is; whoever has this address sees the facts."""
        return f"http://{LOOPBACK}:{self.server_port}/{self.token}/"

    def wait(self) -> None:
        """Serve until Ctrl-C."""
        self.serve_forever(poll_interval=0.2)


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Server
    server_version, sys_version = "ssiuu", ""
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with a page, where the caller may have it."""
        if self._may():
            self._answer(self._rest)

    def do_POST(self) -> None:
        """Put a question to both models of a run, where the caller may."""
        # What is not read of a body would be taken for the next request.
        self.close_connection = True
        if not self._may():
            return
        one = self._names.get(self._rest.removesuffix("/ask"))
        asker = self.server.asker
        if one is None or asker is None or not self._rest.endswith("/ask"):
            self._send(HTTPStatus.NOT_IMPLEMENTED, "Nothing can be changed here.")
            return
        try:
            self._ask(asker, one.folder, *self._question())
        except InputError as error:
            self._tell({"error": str(error)}, HTTPStatus.BAD_REQUEST)

    def _may(self) -> bool:
        """Whether the caller knows the token and calls from here; else it is told so."""
        token, _, _ = self.path.removeprefix("/").partition("/")
        known = secrets.compare_digest(token.encode(), self.server.token.encode())
        origin = self.headers.get("Origin", "http://" + str(self.headers.get("Host")))
        here = {f"http://{host}" for host in self.server.hosts}
        if known and self.headers.get("Host") in self.server.hosts and origin in here:
            return True
        self._send(HTTPStatus.FORBIDDEN, "This address needs its token, as ssiuu view printed it.")
        return False

    @property
    def _rest(self) -> str:
        """The address behind the token."""
        return self.path.removeprefix("/").partition("/")[2]

    @property
    def _names(self) -> dict[str, Watched]:
        return {str(number): one for number, one in enumerate(self.server.watched)}

    def _question(self) -> tuple[str, str]:
        """Return the model's name and the question of the body.

        Raises:
            InputError: There is none, or it is too long.
        """
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > BODY:
            raise InputError(f"a question has at most {LONGEST} characters.")
        try:
            given = json.loads(self.rfile.read(int(length)))
            choice, question = str(given["choice"]), str(given["question"]).strip()
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError("a question comes as JSON, with choice and question.") from error
        if not question or len(question) > LONGEST:
            raise InputError(f"a question has 1 to {LONGEST} characters, got {len(question)}.")
        return choice, question

    def _ask(self, asker: Asker, run: Path, choice: str, question: str) -> None:
        if not self.server.asking.acquire(blocking=False):
            busy = "another question is being answered: ask again when it is."
            self._tell({"error": busy}, HTTPStatus.CONFLICT)
            return
        try:
            self._tell(asker.ask(run, choice, question))
        finally:
            self.server.asking.release()

    def _choices(self, run: Path) -> None:
        """Tell which models may be asked, or why there is none."""
        try:
            asker = self.server.asker
            self._tell({"choices": list(asker.choices(run)) if asker else []})
        except InputError as error:
            self._tell({"choices": [], "error": str(error)})

    def _tell(self, told: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        values = {key: printable(v) if isinstance(v, str) else v for key, v in told.items()}
        self._send(status, json.dumps(values), "application/json")

    def _answer(self, rest: str) -> None:
        watched, names = self.server.watched, self._names
        if rest == "":
            page, allowed = shell(watched)
            self._send(HTTPStatus.OK, page, "text/html", f"{allowed}; {FRAMED}")
        elif rest == "state":
            told = json.dumps([one.state() for one in watched])
            self._send(HTTPStatus.OK, told, "application/json")
        elif rest in names:
            self._run(names[rest])
        elif rest.endswith("/ask") and rest.removesuffix("/ask") in names:
            self._choices(names[rest.removesuffix("/ask")].folder)
        else:
            self._send(HTTPStatus.NOT_FOUND, "There is no such page.")

    def _run(self, one: Watched) -> None:
        try:
            page = one.rendered()
        except InputError as error:
            self._send(HTTPStatus.OK, printable(f"Nothing to show yet: {error}"))
            return
        style, script = template_text("style.css"), template_text("script.js")
        allowed = policy(style, None if one.checkpoint() else script)
        self._send(HTTPStatus.OK, page, "text/html", f"{allowed}; {FRAMED}")

    def _send(self, status: HTTPStatus, text: str, kind: str = "text/plain", allowed: str = "") -> None:
        content = text.encode("utf-8", "backslashreplace")
        self.send_response(status)
        headers = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(content)),
            "Content-Security-Policy": allowed or f"default-src 'none'; {FRAMED}",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the address holds the token."""


def shell(watched: Sequence[Watched]) -> tuple[str, str]:
    """Return the page around the pages, and its security policy."""
    style, script = template_text("style.css") + template_text("view.css"), template_text("view.js")
    allowed = f"{policy(style, script)}; {SHELL}"
    page = environment().get_template("view.html.j2")
    states = [one.state() for one in watched]
    text = page.render(
        policy=allowed, style=Markup(style), script=Markup(script), runs=states, longest=LONGEST
    )
    return text, allowed


@contextmanager
def serving(folders: Sequence[Path], port: int = 0, asker: Asker | None = None) -> Iterator[Server]:
    """Open a server for these runs, and close it at the end."""
    server = Server(folders, port, asker)
    try:
        yield server
    finally:
        server.server_close()

"""Pages of runs served to this machine alone while they go on: `ssiuu view`.

    with serving([Path("first"), Path("second")]) as server:
        print(server.url)            # http://127.0.0.1:PORT/TOKEN/
        server.wait()

The server listens on the loopback address. It answers who knows the token in its address, drawn anew
every time, and who calls it by that address: a page from elsewhere, by a name that leads here, gets
nothing. Its addresses are one a run and a few more; none is a path on the disk, and nothing can be
changed through them. A run's page is that of its file, made again where anything of it has changed.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from ssiuu.errors import InputError
from ssiuu.records.files import HEADER, load_run, read_header
from ssiuu.records.schema import RunHeader
from ssiuu.records.underway import Underway, Watcher, duration
from ssiuu.report.page import environment, policy, render, template_text
from ssiuu.report.text import printable

LOOPBACK: Final = "127.0.0.1"
FRAMED: Final = "frame-ancestors 'self'"
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
                self.page, self.stamp = render(load_run(self.folder)), seen
            return self.page

    def state(self) -> dict[str, Any]:
        """Return where the run stands: what it is of, and how many of its stages are done."""
        try:
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


class Server(ThreadingHTTPServer):
    """Serves these runs; `url` leads to them."""

    daemon_threads = True

    def __init__(self, folders: Sequence[Path], port: int = 0) -> None:
        """Listen, on a free port where none is named.

        Raises:
            OSError: The port cannot be had.
        """
        self.watched = [Watched(folder) for folder in folders]
        self.token = secrets.token_urlsafe(24)
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
        token, _, rest = self.path.removeprefix("/").partition("/")
        known = secrets.compare_digest(token.encode(), self.server.token.encode())
        if self.headers.get("Host") not in self.server.hosts or not known:
            self._send(HTTPStatus.FORBIDDEN, "This address needs its token, as ssiuu view printed it.")
        else:
            self._answer(rest)

    def _answer(self, rest: str) -> None:
        watched = self.server.watched
        names = {str(number): one for number, one in enumerate(watched)}
        if rest == "":
            page, allowed = shell(watched)
            self._send(HTTPStatus.OK, page, "text/html", f"{allowed}; {FRAMED}")
        elif rest == "state":
            told = json.dumps([one.state() for one in watched])
            self._send(HTTPStatus.OK, told, "application/json")
        elif rest in names:
            self._run(names[rest])
        else:
            self._send(HTTPStatus.NOT_FOUND, "There is no such page.")

    def _run(self, one: Watched) -> None:
        try:
            page = one.rendered()
        except InputError as error:
            self._send(HTTPStatus.OK, printable(f"Nothing to show yet: {error}"))
            return
        style, script = template_text("style.css"), template_text("script.js")
        self._send(HTTPStatus.OK, page, "text/html", f"{policy(style, script)}; {FRAMED}")

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
    text = page.render(policy=allowed, style=Markup(style), script=Markup(script), runs=states)
    return text, allowed


@contextmanager
def serving(folders: Sequence[Path], port: int = 0) -> Iterator[Server]:
    """Open a server for these runs, and close it at the end."""
    server = Server(folders, port)
    try:
        yield server
    finally:
        server.server_close()

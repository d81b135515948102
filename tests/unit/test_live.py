"""`ssiuu view`: who may see a page, that it is the page of the file, and that it follows the run."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sample_record import pinned, sample_record
from sample_runs import only, with_header, write_run
from ssiuu.records.files import load_run, runs_of
from ssiuu.records.underway import Underway
from ssiuu.report import write_report
from ssiuu.report.live import Server, Watched, how_far, serving
from ssiuu.report.page import policy, template_text

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("live")
    with pinned():
        record = only(sample_record(), "none", "gd")
        write_run(record, place / "first")
        write_run(with_header(record, created="2026-01-02T00:00:00Z"), place / "second")
    return [place / "first", place / "second", place / "empty"]


@pytest.fixture(scope="module")
def server(runs: list[Path]) -> Iterator[Server]:
    runs[2].mkdir()
    with pinned(), serving(runs) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def asked(
    server: Server, path: str, host: str = "", method: str = "GET"
) -> tuple[int, str, dict[str, str]]:
    """Return what is answered to a path, as it is written."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=300)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, dict(answer.getheaders())


def test_it_listens_on_the_loopback_address_with_a_token_of_its_own(server: Server) -> None:
    assert server.server_address[0] == "127.0.0.1"
    with serving([]) as other:
        assert len(other.token) == 32 and other.token != server.token


@pytest.mark.parametrize("path", ["/", "/0", "/wrong/0", "//0", "/favicon.ico", "/wrong/state"])
def test_without_the_token_nothing_is_told(server: Server, path: str) -> None:
    status, text, _ = asked(server, path)
    assert status == 403 and "first" not in text


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "localhost:1", ""])
def test_a_name_that_only_leads_here_is_refused(server: Server, host: str) -> None:
    told = asked(server, f"/{server.token}/0", host or " ")
    assert told[0] == 403
    assert asked(server, f"/{server.token}/state", f"localhost:{server.server_port}")[0] == 200


@pytest.mark.parametrize(
    "rest",
    ["../../../etc/passwd", "%2e%2e/first/run.json", "9", "-1", "0/run.json", "0?x", "run.json", "۰"],
)
def test_no_path_leads_to_the_disk(server: Server, rest: str) -> None:
    path = f"/{server.token}/{rest}".encode().decode("latin-1")
    status, text, _ = asked(server, path) if path.isascii() else (404, "", {})
    assert status == 404 and "root:" not in text and "{" not in text


def test_nothing_can_be_changed_by_it(server: Server) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert asked(server, f"/{server.token}/0", method=method)[0] == 501


def test_the_page_is_that_of_the_file_under_its_own_policy(
    server: Server, runs: list[Path], tmp_path: Path
) -> None:
    status, page, headers = asked(server, f"/{server.token}/0")
    assert status == 200
    assert page == write_report(load_run(runs[0]), tmp_path).read_text()
    allowed = policy(template_text("style.css"), template_text("script.js"))
    assert headers["Content-Security-Policy"] == f"{allowed}; frame-ancestors 'self'"
    assert headers["Referrer-Policy"] == "no-referrer" and headers["Cache-Control"] == "no-store"


def test_the_page_around_them_may_only_fetch_and_frame_its_own(server: Server) -> None:
    _, page, headers = asked(server, f"/{server.token}/")
    allowed = headers["Content-Security-Policy"]
    assert "default-src 'none'" in allowed and "unsafe" not in allowed and "http" not in allowed
    assert page.count("<iframe") == page.count('target="run-0"') == 3 and server.token not in page
    assert page.count("hidden></iframe>") == 2 and 'id="beside"' in page


def test_a_ledger_is_viewed_by_the_audits_in_it(tmp_path: Path) -> None:
    assert runs_of(tmp_path) == [tmp_path]
    audits = [tmp_path / "audits" / name for name in ("0001", "0002")]
    for audit in audits:
        audit.mkdir(parents=True)
        (audit / "run.json").touch()
    assert runs_of(tmp_path) == audits


def test_it_follows_a_run(server: Server, runs: list[Path]) -> None:
    def state() -> list[dict[str, str]]:
        return list(json.loads(asked(server, f"/{server.token}/state")[1]))

    before = state()
    assert "finished" in before[1]["told"] and "holds no run" in before[2]["told"]
    assert "Nothing to show yet" in asked(server, f"/{server.token}/2")[1]
    stage = next(path for path in runs[1].rglob("attack-*.json"))
    page = asked(server, f"/{server.token}/1")[1]
    content = stage.read_text()
    stage.unlink()
    after = state()
    assert after[1]["stamp"] != before[1]["stamp"] and after[0] == before[0]
    again = Watched(runs[1])
    assert "nobody" not in again.state()["told"]  # it may be between two stages
    assert "stages done, nobody at work on it" in again.state()["told"]
    begun = Watched(runs[0])
    assert "finished" in begun.state()["told"]
    first = next(path for path in runs[0].rglob("attack-*.json"))
    words = first.read_bytes()
    first.unlink()
    (runs[0] / "run.json").touch()  # begun anew in the same folder
    assert "finished" not in begun.state()["told"]
    first.write_bytes(words)
    with pinned():
        assert asked(server, f"/{server.token}/1")[1] != page
        stage.write_text(content)
        assert asked(server, f"/{server.token}/1")[1] == page


def test_how_far_a_run_is_in_a_few_words() -> None:
    def far(done: int, over: bool = False, failed: int = 0, alone: bool = False) -> str:
        return how_far(Underway(9, done, 3, 1, [], [], ["cells/x"] * failed, 240.0, over), alone)

    assert far(4) == "4 of 9 stages done, 4 min left"
    assert far(4, alone=True) == "4 of 9 stages done, nobody at work on it"
    assert far(7, over=True, failed=1) == "7 of 9 stages done, 1 broke off, ended"
    assert far(9, over=True) == "finished"


def test_the_command_tells_where_and_ends_with_ctrl_c(runs: list[Path]) -> None:
    words = [sys.executable, "-m", "ssiuu", "view", str(runs[0].parent)]
    # A suite that runs in the background is deaf to Ctrl-C, and so would be what it starts.
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        view = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, heard)
    with view:
        assert view.stdout is not None
        assert view.stderr is not None
        url, _ = view.stdout.readline(), view.stderr.readline()
        view.send_signal(signal.SIGINT)
        try:
            rest, told = view.communicate(timeout=300)
        finally:
            view.kill()
    assert url.startswith("http://127.0.0.1:") and rest == ""
    assert view.returncode == 0 and told.strip() == "closed"


def test_what_it_cannot_serve(tmp_path: Path) -> None:
    for words, said in (([tmp_path / "no"], "no folder"), ([tmp_path, "--port", "99999"], "--port")):
        typed = [sys.executable, "-m", "ssiuu", "view", *map(str, words)]
        done = subprocess.run(typed, capture_output=True, text=True)
        assert done.returncode == 2 and said in done.stderr

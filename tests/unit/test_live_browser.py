"""`ssiuu view` in Chromium, which is left out where there is none: what its scripts do, at two widths."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from browsed import BROWSER, browsed
from sample_record import pinned, sample_record
from sample_runs import only, with_header, write_run
from ssiuu.report.figures import draw
from ssiuu.report.live import Server, serving

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
HOSTILE = "<img src=x onerror='document.title = 1'>"


class Parrot:
    """Says what would be markup if it were not taken as text."""

    def choices(self, run: Path) -> Sequence[str]:
        return ["after"]

    def ask(self, run: Path, choice: str, question: str) -> Mapping[str, Any]:
        return {"before": HOSTILE, "after": "", "names": [HOSTILE, choice], "form": "qa"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("live")
    figure = draw._svg(Figure(figsize=(1, 1)))
    with pytest.MonkeyPatch.context() as patch, pinned():
        patch.setattr(draw, "_svg", lambda _: figure)
        record = only(sample_record(), "none", "gd")
        write_run(record, place / "first")
        write_run(with_header(record, created="2026-01-02T00:00:00Z"), place / "second")
        with serving([place / "first", place / "second"], asker=Parrot()) as server:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            yield server
            server.shutdown()


INNER = "document.querySelector('iframe').contentDocument"
WHOLE = f"{INNER}?.documentElement.dataset.whole === 'yes'"
PUT = "document.getElementById('question').value = 'x'; document.querySelector('form button').click()"


def test_both_answers_stand_side_by_side_as_text(server: Server, tmp_path: Path) -> None:
    with browsed(tmp_path, server.url) as page:
        page.run("document.getElementById('ask').click()")
        page.wait("!document.querySelector('form button').disabled")
        page.run(PUT)
        page.wait("document.querySelector('#said dd')")
        told = "[...document.querySelectorAll('#said dt, #said dd')].map((e) => e.textContent)"
        assert page.run(told) == [f"before: {HOSTILE}", HOSTILE, "after: after", "(nothing)"]
        assert page.run("document.querySelectorAll('#said img').length") == 0
        assert page.run("document.title") == "ssiuu view"
        tops = "[...document.querySelectorAll('#said dd')].map((e) => e.getBoundingClientRect().top)"
        first, second = page.run(tops)
        assert first == second
        page.run("document.getElementById('beside').click()")
        page.wait(
            "[...document.querySelectorAll('iframe')].every((f) => f.getBoundingClientRect().width)"
        )
        widths = page.run("[...document.querySelectorAll('iframe')].map((f) => f.clientWidth)")
        assert len(widths) == 2 and max(widths) < 800  # one beside the other


def test_a_page_made_again_is_as_its_reader_left_it(server: Server, tmp_path: Path) -> None:
    """At the width of a telephone, where nothing may be wider than the window."""
    with browsed(tmp_path, server.url, width=390, dark=True) as page:
        page.wait(WHOLE)
        page.run(f"{INNER}.getElementById('pick-text').value = 'zzz'")
        page.run(f"{INNER}.getElementById('pick-text').dispatchEvent(new Event('input'))")
        assert page.run(f"{INNER}.getElementById('shown').value") == "0 rows"
        page.run(f"{INNER}.querySelector('details').open = true")
        page.run(f"{INNER}.defaultView.scrollTo(0, 700); {INNER}.defaultView.old = true")
        next(server.watched[0].folder.rglob("attack-*.json")).touch()
        page.wait(f"{INNER}.defaultView.old === undefined && {WHOLE}")
        page.wait(f"{INNER}.getElementById('shown').value === '0 rows'")
        page.wait(f"{INNER}.defaultView.scrollY === 700 && {INNER}.querySelector('details').open")
        assert page.run("document.documentElement.scrollWidth") == 390
        assert page.run(f"{INNER}.documentElement.scrollWidth") <= 390

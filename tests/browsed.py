"""A page in headless Chromium, asked and clicked through its own protocol: no driver is needed.

with browsed(tmp_path, url, width=390) as page:
    page.run("document.title")
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync")
# Its ends of the pipes are descriptors 3 and 4; dup2 of one to itself would not pass it on.
PASSING = """
import fcntl, os, sys
theirs, written = (fcntl.fcntl(int(word), fcntl.F_DUPFD, 10) for word in sys.argv[1:3])
os.dup2(theirs, 3), os.dup2(written, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-extensions")


class Page:
    """One tab, by its two pipes: messages are JSON and end with a zero byte."""

    def __init__(self, out: int, back: int) -> None:
        self.out, self.back, self.number, self.session = out, back, 0, ""
        self.rest = b""

    def call(self, method: str, **given: Any) -> Any:
        """Return what a command of the protocol results in."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": given}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                piece = os.read(self.back, 1 << 16)
                assert piece, "Chromium has ended"
                self.rest += piece
            text, _, self.rest = self.rest.partition(b"\0")
            answer = json.loads(text)
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        made = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in made, made
        return made["result"].get("value")

    def wait(self, script: str, seconds: float = 30) -> None:
        """Wait until an expression is true; in a page that is not whole yet it may have nothing to ask."""
        end = time.monotonic() + seconds
        asked = f"(() => {{ try {{ return !!({script}); }} catch {{ return false; }} }})()"
        while not self.run(asked):
            assert time.monotonic() < end, script
            time.sleep(0.05)


@contextmanager
def browsed(folder: Path, url: str, width: int = 1280, dark: bool = False) -> Iterator[Page]:
    """Open a page in a window of this width, with a fresh profile in a folder."""
    assert BROWSER is not None
    theirs, out = os.pipe()
    back, written = os.pipe()
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [BROWSER, *FLAGS, *QUIET, "--remote-debugging-pipe", profile, "about:blank"]
    with subprocess.Popen(
        [sys.executable, "-c", PASSING, str(theirs), str(written), *command],
        pass_fds=(theirs, written),
        stderr=subprocess.DEVNULL,
    ) as browser:
        os.close(theirs)
        os.close(written)
        page = Page(out, back)
        try:
            target = page.call("Target.createTarget", url="about:blank")["targetId"]
            page.session = page.call("Target.attachToTarget", targetId=target, flatten=True)[
                "sessionId"
            ]
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            page.call("Emulation.setDeviceMetricsOverride", **size)
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            page.call("Emulation.setEmulatedMedia", features=[scheme])
            page.call("Page.navigate", url=url)
            page.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")
            yield page
        finally:
            browser.kill()
            os.close(out)
            os.close(back)

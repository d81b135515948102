"""`ssiuu view`: the pages of runs on this machine, live while they go on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ssiuu.cli.misuse import check_number
from ssiuu.cli.spoken import manner, result
from ssiuu.errors import InputError, OutputError
from ssiuu.records.files import runs_of


def command(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="folders of runs or audits, side by side")
    ],
    port: Annotated[int, typer.Option(help="to listen on; 0: any that is free")] = 0,
    opened: Annotated[bool, typer.Option("--open", help="show the page in the browser")] = False,
) -> None:
    """Serve the pages of runs to this machine alone, and make them again as the runs go on.

    The address holds a token, drawn anew every time: whoever has it, on this
    machine, sees the facts. Ctrl-C ends it; nothing is written.
    """
    check_number("--port", port, 0, 65535)
    runs = [run for folder in folders for run in _runs(folder)]
    from ssiuu.report.live import serving

    try:
        with serving(runs, port) as server:
            result(url=server.url)
            # --json prints its object at the end, and the address is wanted now.
            print(server.url, file=sys.stderr if manner().json else sys.stdout, flush=True)
            print("Ctrl-C ends it.", file=sys.stderr, flush=True)
            if opened:
                typer.launch(server.url)
            server.wait()
    except KeyboardInterrupt:
        print("closed", file=sys.stderr)
    except OSError as error:
        raise OutputError(f"--port {port} cannot be had: {error.strerror or error}.") from error


def _runs(folder: Path) -> list[Path]:
    """Return a folder, or the runs that lie in it where it holds several."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}.")
    return runs_of(folder)

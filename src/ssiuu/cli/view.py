"""`ssiuu view`: the pages of runs on this machine, live while they go on."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssiuu.cli.misuse import check_models, check_number
from ssiuu.cli.spoken import manner, result
from ssiuu.errors import ConfigError, InputError, ModelError, OutputError, unknown
from ssiuu.records.files import runs_of

if TYPE_CHECKING:
    from ssiuu.experiment.both import Pair


def command(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...",
            help="of runs or audits, or a ledger; side by side",
        ),
    ],
    port: Annotated[int, typer.Option(help="to listen on; 0: any that is free")] = 0,
    opened: Annotated[bool, typer.Option("--open", help="show the page in the browser")] = False,
    before: Annotated[
        str | None, typer.Option(help="model before, to be asked: where the records do not say it")
    ] = None,
    after: Annotated[
        Path | None, typer.Option(help="model after, to be asked: where the records do not say it")
    ] = None,
) -> None:
    """Serve the pages of runs to this machine alone, and make them again as the runs go on.

    The address holds a token, drawn anew every time: whoever has it, on this
    machine, sees the facts, and may put a question to the model before and the
    model after: they are loaded when the first one is asked. Ctrl-C ends it;
    nothing is written.
    """
    check_number("--port", port, 0, 65535)
    runs = [run for folder in folders for run in _runs(folder)]
    if (before or after) and len(runs) > 1:
        raise ConfigError(
            f"--before and --after are the two models of one folder, and {len(runs)} are to be seen."
        )
    check_models(*([before] if before else []))
    if after is not None and not after.exists():
        raise ModelError(f"there is no folder --after {after}.")
    from ssiuu.report.live import serving

    try:
        with serving(runs, port, Asking(before, after)) as server:
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


@dataclass
class Asking:
    """Puts questions to the models of a folder; torch is imported with the first one."""

    before: str | None
    after: Path | None
    both: Any = None

    def choices(self, run: Path) -> Sequence[str]:
        """Return what the models are called that may be asked beside the one before."""
        return [*self._pairs(run)]

    def ask(self, run: Path, choice: str, question: str) -> Mapping[str, Any]:
        """Return what both say: before, after, names and form."""
        from ssiuu.experiment.both import Both

        pairs = self._pairs(run)
        if choice not in pairs:
            raise ConfigError(unknown("model", choice, pairs))
        self.both = self.both or Both()
        return asdict(self.both.ask(pairs[choice], question))

    def _pairs(self, run: Path) -> Mapping[str, Pair]:
        from ssiuu.experiment.both import pairs_of

        return pairs_of(run, self.before, self.after)


def _runs(folder: Path) -> list[Path]:
    """Return a folder, or the runs that lie in it where it holds several."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}.")
    return runs_of(folder)

"""`ssiuu run`: an experiment from start to report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssiuu.cli.exits import BROKE_OFF
from ssiuu.cli.options import DigestKeyFile, Redact, Sets, Thorough
from ssiuu.cli.spoken import result
from ssiuu.cli.terminal import Printer, finish, forcing, redacted, run_values, set_up
from ssiuu.cli.workers import queue, work
from ssiuu.errors import ConfigError
from ssiuu.experiment.launched import started

if TYPE_CHECKING:
    from ssiuu.records.schema import RunRecord


class Launcher(StrEnum):
    """What starts workers."""

    local = "local"
    slurm = "slurm"


def command(
    recipe: Annotated[
        Path | None,
        typer.Argument(help="a YAML file, or a name of ssiuu list recipes; the default without one"),
    ] = None,
    set_: Sets = None,
    out: Annotated[Path, typer.Option(help="folder of the run")] = Path("ssiuu-run"),
    thorough: Thorough = False,
    redact: Redact = False,
    digest_key: DigestKeyFile = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=512, help="processes that share the work; page: when all is done"),
    ] = None,
    launcher: Annotated[
        Launcher, typer.Option(help="workers: processes of this machine, or a job array of Slurm")
    ] = Launcher.local,
    launch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="of the jobs, by submitit's names: timeout_min, slurm_partition, gpus_per_node; "
            "repeatable",
        ),
    ] = None,
    worker: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="be one of several that share --out, started by somebody else: no page is written",
        ),
    ] = None,
) -> None:
    """Unlearn, evaluate, look inside, attack and report, for every method and seed.

    With several benchmarks (benchmark: [fictional, worldfacts]) there is a
    run in a folder below --out for each, and a page that compares them.
    """
    from ssiuu.experiment.estimate import seconds_of
    from ssiuu.experiment.matrix import resolve_all
    from ssiuu.experiment.run import run
    from ssiuu.records.files import load_run
    from ssiuu.records.lease import called

    _check(workers, worker, redact, launcher is Launcher.local, bool(launch))
    recipes = resolve_all(recipe, forcing(set_, force=False, thorough=thorough))
    if workers is not None:
        words, folders = _words(recipe, set_, out, thorough), [out / name for name in recipes]
        if launcher is Launcher.local:
            work(words, folders, workers)
        else:
            queue(words, folders, workers, out, launch or [])
    called(worker or "")
    command = _typed()

    def carried_out(name: str, progress: Printer) -> RunRecord:
        resolved, sources = recipes[name]
        if workers is not None:
            return load_run(out / name)
        return run(resolved, sources, out / name, command, progress=progress)

    progress = set_up()
    if "" not in recipes:
        yours = any(resolved.opens.yours for resolved, _ in recipes.values())
        records = _matrix(list(recipes), out, progress, carried_out, redact, digest_key, worker is None)
        if worker is None:
            _compared(records, out, progress, yours)
        return
    progress.expect(partial(seconds_of, recipes[""][0]))
    record = carried_out("", progress)
    if worker is None:
        finish(record, out, progress, redact, digest_key)


def _check(workers: int | None, worker: str | None, redact: bool, local: bool, launch: bool) -> None:
    """Refuse what does not go together.

    Raises:
        ConfigError: It does not.
    """
    if not local and workers is None:
        raise ConfigError("--launcher slurm: say how many jobs, by --workers.")
    if local and launch:
        raise ConfigError("--launch is for jobs: give --launcher slurm with it.")
    if workers is not None and worker is not None:
        raise ConfigError("--workers starts several, --worker is one of them: give one of the two.")
    if worker is not None and redact:
        raise ConfigError("--worker writes no page: ssiuu redact redacts the folder when all is done.")
    if workers is not None and started() > 1:
        raise ConfigError(
            f"--workers: this is one of {started()} processes (WORLD_SIZE, RANK): start it without "
            "torchrun or accelerate launch."
        )


def _words(recipe: Path | None, sets: list[str] | None, out: Path, thorough: bool) -> list[str]:
    """Return the command of one of several workers."""
    given = [word for line in sets or [] for word in ("--set", line)]
    named = ["--thorough"] if thorough else []
    return ["run", *([str(recipe)] if recipe else []), *given, "--out", str(out), *named]


def _typed() -> str:
    """Return the command as it is typed for a single process."""
    words = sys.argv[1:]
    if "--worker" in words:
        at = words.index("--worker")
        words = [*words[:at], *words[at + 2 :]]
    return shlex.join(["ssiuu", *words])


def _matrix(
    names: Sequence[str],
    out: Path,
    progress: Printer,
    carried_out: Callable[[str, Printer], RunRecord],
    redact: bool,
    key: Path | None,
    pages: bool,
) -> dict[str, RunRecord]:
    """Run every recipe into a folder of its own; return the records."""
    from ssiuu.experiment.matrix import check_matrix
    from ssiuu.records.files import load_run
    from ssiuu.redaction.keys import check_place, default_place
    from ssiuu.report import write_report

    check_matrix(out, names)
    if redact:  # one key, and not in what is handed on
        key = key or default_place(out)
        check_place(key, out)
    records = {}
    for name in names:
        progress(f"{name}:")
        records[name] = carried_out(name, progress)
        if pages:
            write_report(records[name], out / name)
    if redact:  # when all are done, as nothing runs on in what is redacted
        redacted(out, key)
        records = {name: load_run(out / name) for name in records}
    return records


def _compared(records: Mapping[str, RunRecord], out: Path, progress: Printer, yours: bool) -> None:
    """Write the comparison of several runs, whose facts may be the user's own, and print its table."""
    from ssiuu.analysis.across import grounds
    from ssiuu.records.files import write_bytes
    from ssiuu.report.compare import text
    from ssiuu.report.compare_page import COMPARISON, render_comparison

    found = grounds(records)
    write_bytes(out / COMPARISON, render_comparison(found).encode(), private=yours)
    progress.done()
    result(
        comparison=out / COMPARISON,
        runs={name: run_values(run, out / name) for name, run in records.items()},
    )
    print(text(found), end="")
    for page in [*(out / name / "report.html" for name in records), out / COMPARISON]:
        print(f"report: {page}")
    if any(cell.failed for record in records.values() for cell in record.cells):
        raise typer.Exit(BROKE_OFF)

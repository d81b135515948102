"""`ssiuu calibrate`: what the verdict is worth, on models whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssiuu.cli.options import Sets
from ssiuu.cli.spoken import result
from ssiuu.cli.terminal import set_up


def command(
    out: Annotated[Path, typer.Option(help="folder of the examinations; more can be added to it")],
    worlds: Annotated[
        str | None,
        typer.Option(help="kin, strangers, neox; none; default: all, with --taught none"),
    ] = None,
    seeds: Annotated[str, typer.Option(help="seeds of each world, as in 1,2")] = "1",
    people: Annotated[int, typer.Option(help="people of a world, six facts each")] = 30,
    taught: Annotated[
        Path | None, typer.Option(help="folder of a model taught facts (ssiuu teach): one world more")
    ] = None,
    twin: Annotated[
        Path | None, typer.Option(help="its twin, taught in the same way without the facts to forget")
    ] = None,
    forget: Annotated[str | None, typer.Option(help="the facts that the twin never learned")] = None,
    retain: Annotated[str | None, typer.Option(help="facts that both were taught")] = None,
    set_: Sets = None,
) -> None:
    """Make models of known truth, examine them, and tell how often the verdict is right.

    Two to five minutes a world on two cores; a taught model takes as long as ten audits of it.
    """
    from ssiuu.cli.misuse import (
        check_facts,
        check_number,
        check_out,
        check_taught,
        whole_numbers,
        worlds_of,
    )

    check_number("--people", people, 10, 600)
    given = {"--taught": taught, "--twin": twin, "--forget": forget, "--retain": retain}
    check_taught(given)
    kinds, drawn = worlds_of(worlds, taught is not None), whole_numbers("--seeds", seeds)
    folders = [folder for folder in (taught, twin) if folder]
    check_out(out, folders, empty=False)
    check_facts({"--forget": forget, "--retain": retain}, None)
    from ssiuu.experiment.calibrate import Taught, calibrate
    from ssiuu.report.calibration import told

    progress = set_up()
    world = Taught(taught, twin, forget, retain) if taught and twin and forget and retain else None
    found = calibrate(out, kinds, drawn, people, set_ or [], progress, world)
    progress.done()
    result(calibration=out / "calibration.json")
    print(told(found))
    print(f"\ncalibration: {out / 'calibration.json'}")

"""`ssiuu request`: deletion requests as they come, over months, in a ledger."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssiuu.cli.exits import AT_A_COST, HIDDEN, NOT_FORGOTTEN
from ssiuu.cli.options import ColumnNames, Sets
from ssiuu.cli.spoken import result, spoken

if TYPE_CHECKING:
    from ssiuu.records.ledger import Ledger

app = typer.Typer(no_args_is_help=True, help="Keep a ledger of deletion requests, and process them.")
TRY_AGAIN = {"not removed": NOT_FORGOTTEN, "hidden": HIDDEN}  # verdicts and exit codes
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="folder of the ledger")]


class Form(StrEnum):
    """What a ledger can be written as."""

    text = "text"
    csv = "csv"
    json = "json"


@app.command("open")
@spoken
def begin(
    folder: Folder,
    model: Annotated[str, typer.Option(help="short name, folder or hub name")],
    retain: Annotated[str, typer.Option(help="facts to keep, or 'none' to go without")],
    method: Annotated[
        str | None, typer.Option(help="see ssiuu list methods; by default that of ssiuu unlearn")
    ] = None,
    sample: Annotated[
        int, typer.Option(help="facts of each request whose texts stay, to ask later models again")
    ] = 1,
    columns: ColumnNames = None,
    set_: Sets = None,
) -> None:
    """Begin a ledger of requests about one model, in an empty folder."""
    from ssiuu.cli.misuse import check_models

    check_models(model)
    from ssiuu.experiment.keeping import open_ledger

    open_ledger(folder, model, retain, method, sample, set_ or [], columns)
    result(ledger=folder)
    print(f"ledger: {folder}")


@app.command("add")
@spoken
def add(
    folder: Folder,
    forget: Annotated[str, typer.Option(help="facts that are to go")],
    reference: Annotated[
        str | None, typer.Option(help="what you call it; no personal data, it stays in every report")
    ] = None,
    columns: ColumnNames = None,
) -> None:
    """Add a request; nothing is forgotten before ssiuu request process."""
    from ssiuu.cli.terminal import Printer
    from ssiuu.data.columns import given_columns
    from ssiuu.experiment.keeping import add as added
    from ssiuu.records.ledger import Ledger

    progress = Printer()
    request = added(Ledger(folder, progress), forget, reference, given_columns(columns), progress)
    progress.done()
    result(reference=request.reference, facts=request.facts, state="pending")
    facts = f"{request.facts} fact{'s' if request.facts > 1 else ''}"
    print(f"{request.reference}: {facts}, pending")
    print(f"{forget} is yours and was only read: remove it when you need it no more.")


@app.command("withdraw")
@spoken
def withdraw(
    folder: Folder, reference: Annotated[str, typer.Option(help="of a request that is pending")]
) -> None:
    """Take a pending request out of the ledger, and overwrite its texts.

    Not out of a round that is under way. One that was interrupted is dropped.
    """
    from ssiuu.cli.terminal import Printer
    from ssiuu.experiment.keeping import withdraw as withdrawn
    from ssiuu.records.ledger import Ledger

    progress = Printer()
    dropped = withdrawn(Ledger(folder, progress), reference, progress)
    progress.done()
    result(reference=reference, state="withdrawn", dropped=dropped and dropped.id)
    print(f"{reference}: withdrawn")
    if dropped is not None:
        print(f"round {dropped.id}, which was interrupted, is dropped with what was made in it")
        if len(dropped.requests) > 1:
            print("what else it held is pending as before")


@app.command("list")
@spoken
def listed(
    folder: Folder,
    form: Annotated[Form, typer.Option("--format", help="text, csv or json")] = Form.text,
) -> None:
    """Print requests and rounds; no text of a fact stands in it."""
    from ssiuu.cli.terminal import Printer
    from ssiuu.records.ledger import Ledger
    from ssiuu.report.requests import written

    ledger = Ledger(folder, Printer())
    result(**json.loads(written(ledger, "json")))
    print(written(ledger, form), end="")


@app.command("process")
@spoken
def process(
    folder: Folder,
    audit: Annotated[
        bool, typer.Option("--audit/--no-audit", help="examine the new model: erased or hidden?")
    ] = True,
) -> None:
    """Forget what is pending on the newest model, audit it, ask it for older requests, certify, purge.

    Exit codes: 0 done, nothing pending, or nothing of it known to the model; 3
    not forgotten, or not removed; 4 forgotten at the cost of what should stay;
    5 hidden. A single request that is not removed, or hidden, decides. With 3
    and 4 of the unlearning no model is kept and the requests stay pending.
    """
    from ssiuu.cli.terminal import set_up
    from ssiuu.experiment.keeping import FORGOTTEN, audit_folder, newest
    from ssiuu.experiment.requests import ASKED, NOT_KNOWN
    from ssiuu.experiment.requests import process as processed
    from ssiuu.records.ledger import Ledger
    from ssiuu.report.outcome import outcome
    from ssiuu.report.requests import answer

    progress = set_up()
    ledger = Ledger(folder, progress)
    done = processed(ledger, progress, audit)
    progress.done()
    result(state=done.state or "nothing pending", round=done.round and asdict(done.round))
    if done.round is None:
        print("nothing is pending")
        return
    if done.state == NOT_KNOWN:
        print("the model knows none of these facts: nothing was unlearned, and it stays the newest one")
        print(answer(ledger))
        asked = audit_folder(ledger, done.round.id) / ASKED
        result(model=newest(ledger), record=asked)
        print(f"what it was asked, as digests: {asked}")
        _write(ledger)
        return
    for line in outcome(done.record) if done.record else ():
        print(line)
    if done.state != FORGOTTEN:
        print("the requests stay pending, and the newest model is the one before")
        raise typer.Exit(NOT_FORGOTTEN if done.state == "not forgotten" else AT_A_COST)
    print(answer(ledger))
    result(model=newest(ledger))
    print(f"newest model: {newest(ledger)}")
    certificate = audit_folder(ledger, done.round.id) / "certificate.html"
    if certificate.exists():
        result(certificate=certificate)
        print(f"certificate: {certificate}")
    _write(ledger)
    of_round = [one for one in ledger.requests() if one.round == done.round.id]
    for verdict, code in TRY_AGAIN.items():
        # A round is undecided where one of its requests is known not to be done.
        found = [one for one in of_round if one.verdict == verdict]
        if found or done.round.verdict == verdict:
            of = f"{', '.join(one.reference for one in found)} {verdict}" if found else verdict
            print(
                f"{of}: the requests count as processed. To try harder, begin a ledger "
                f"with --model {newest(ledger)} and another --method, and add them there."
            )
            raise typer.Exit(code)


@app.command("report")
@spoken
def report(folder: Folder) -> None:
    """Write the page of the ledger anew: requests.html in its folder."""
    from ssiuu.cli.terminal import Printer
    from ssiuu.records.ledger import Ledger

    _write(Ledger(folder, Printer()))


@app.command("purge")
@spoken
def purge(folder: Folder) -> None:
    """Overwrite the texts of processed requests that were kept as samples; later rounds cannot ask."""
    from ssiuu.cli.terminal import Printer
    from ssiuu.records.ledger import Ledger

    count = Ledger(folder, Printer()).purge()
    result(purged=count)
    print(f"texts of {count} processed requests are gone")


def _write(ledger: Ledger) -> None:
    from ssiuu.records.files import write_bytes
    from ssiuu.report.requests import requests_page

    page = ledger.folder / "requests.html"
    write_bytes(page, requests_page(ledger).encode())
    result(report=page)
    print(f"report: {page}")

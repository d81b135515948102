"""`ssiuu demo`: a deletion from request to certificate, on invented customers."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from ssiuu.cli.exits import FAILED, HIDDEN, INTERRUPTED, NOT_FORGOTTEN, NOT_LEARNED
from ssiuu.cli.spoken import manner, result
from ssiuu.errors import OutputError

FORGET, RETAIN = "customers.jsonl", "customers-keep.jsonl"
# Of the customers: a lineup of phone numbers takes three times as long.
RELATIONS = "town", "profession"
# A question without the template's system prompt, which is longer than question and answer. The record
# of what was taught says so to all that comes after.
FORM = ("--prompt", "qa")
# For the default model; of others the size decides.
RATES = {"smollm2-135m": ("--learning-rate", "2e-4")}
# Steps of each rate that is tried: three facts need no more, and then the first rate is higher.
STEPS = ("--set", "unlearn.max_steps=12")
# The rate that its search comes to on the default model, which takes 78 core-seconds more.
FOUND = {"smollm2-135m": ("--set", "unlearn.learning_rate=3.3e-5")}
# Short: the examination, which the verdict rests on, with fewer planted controls, and no attack curves.
SHORT = (
    *("--set", "attacks.harmful.fractions=[]", "--set", "attacks.benign.learning_rates=[]"),
    *("--set", "diagnose=false", "--set", "examine.planted=8"),
)


class Step(NamedTuple):
    """A command of the demonstration: why, its words, what it leaves, the codes that are no fault."""

    why: str
    words: tuple[str, ...]
    leaves: str = ""
    fine: tuple[int, ...] = (0,)


def command(
    context: typer.Context,
    out: Annotated[
        Path, typer.Option(help="folder for all of it; a new one, or one to go on in")
    ] = Path("ssiuu-demo"),
    model: Annotated[str, typer.Option(help="short name, folder or hub name")] = "smollm2-135m",
    opened: Annotated[bool, typer.Option("--open", help="show the page in the browser")] = False,
) -> None:
    """Teach a model twelve invented customers, make it forget three, and find out whether it did.

    Every command is shown as it would be typed. Interrupted, the same command
    goes on. Its verdict is what the audit finds: it may well be undecided.
    """
    from ssiuu.shipped import examples

    try:
        out.mkdir(parents=True, exist_ok=True)
        strangers = {path.name for path in out.iterdir()} - {FORGET}
        if strangers and not (out / FORGET).exists():
            raise OutputError(
                f"{out} holds {min(strangers)!r}, which no demo made: choose another --out."
            )
        for name in (FORGET, RETAIN):
            _copy(examples() / name, out / name)
    except OSError as error:
        raise OutputError(f"{out} cannot be written to: {error.strerror or error}.") from error
    start = time.monotonic()
    for step in _steps(model):
        _run(step, out, context)
    result(page=out / "audit" / "report.html", certificate=out / "audit" / "certificate.html")
    print(
        f"\n{time.monotonic() - start:.0f} s. The page with the answer: {out / 'audit' / 'report.html'}"
    )
    print(f"The certificate, to read or to print: {out / 'audit' / 'certificate.html'}")
    if opened:
        typer.launch(str((out / "audit" / "report.html").resolve()))


def _steps(model: str) -> Iterator[Step]:
    facts = ("--forget", FORGET, "--retain", RETAIN)
    pair = ("--before", "taught", "--after", "forgotten")
    taught = ("--facts", FORGET, "--facts", RETAIN, "--out", "taught")
    yield Step(
        "A model that knows customers: they are invented, so they are taught first.",
        ("teach", "--model", model, *taught, *FORM, *RATES.get(model, ())),
        "taught/teach.json",
        (0, NOT_LEARNED),
    )
    yield Step("What does it know of them?", ("ask", "--model", "taught", "--facts", FORGET))
    yield Step(
        "Three of them ask to be forgotten; the others are to stay.",
        ("unlearn", "--model", "taught", *facts, "--out", "forgotten", *STEPS, *FOUND.get(model, ())),
        "forgotten/unlearn.json",
    )
    yield Step(
        "They are not said any more. Erased, or only hidden?",
        ("audit", *pair, *facts, "--out", "audit", *SHORT),
        "audit/certificate.json",
        (0, NOT_FORGOTTEN, HIDDEN),
    )
    yield Step(
        "Is the certificate that of this model, file by file?",
        ("verify", "audit/certificate.json", "--model", "forgotten"),
    )


def _copy(examples: Path, to: Path) -> None:
    """Write the examples of `RELATIONS` alone; whole, as another demonstration may be reading them."""
    from ssiuu.records.files import write_bytes

    rows = examples.read_text(encoding="utf-8").splitlines(keepends=True)
    chosen = [row for row in rows if json.loads(row)["relation"] in RELATIONS]
    write_bytes(to, "".join(chosen).encode())


def _run(step: Step, out: Path, context: typer.Context) -> None:
    """Show and run a command, but where what it leaves is there already."""
    print(f"\n# {step.why}\n$ {shlex.join(['ssiuu', *step.words])}", flush=True)
    if step.leaves and (out / step.leaves).exists():
        print(f"done before: {out / step.leaves}")
        return
    spoken = [flag for flag, is_set in (("-q", manner().quiet), ("-v", manner().verbose)) if is_set]
    if (code := _carry_out([*step.words, *spoken], out, context)) not in step.fine:
        if code != INTERRUPTED:
            print(f"the demonstration ends here: exit code {code}", file=sys.stderr)
        raise typer.Exit(code)


def _carry_out(words: list[str], out: Path, context: typer.Context) -> int:
    """Carry a command out in a folder and return its exit code.

    It is not a process of its own, which would import torch and all the rest again every time.
    """
    from ssiuu.models.precision import release_memory

    typed, sys.argv = sys.argv, ["ssiuu", *words]
    try:
        with chdir(out):
            code = context.find_root().command.main(words, "ssiuu", standalone_mode=False)
    except SystemExit as end:
        code = end.code
    except typer.Abort:
        code = INTERRUPTED
    finally:
        sys.argv = typed
        release_memory()
    return code if isinstance(code, int) else FAILED if code else 0

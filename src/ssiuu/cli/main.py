"""`ssiuu`: the entry point, which knows all sub-commands and turns errors into exit codes."""

from __future__ import annotations

import io
import os
import sys
import traceback
from itertools import pairwise
from typing import Annotated

import typer

from ssiuu import __version__
from ssiuu.cli import (
    ask,
    audit,
    calibrate,
    check,
    compare,
    demo,
    diagnose,
    doctor,
    export,
    init,
    listing,
    purge,
    push,
    redact,
    report,
    request,
    run,
    teach,
    unlearn,
    verify,
    view,
    watch,
)
from ssiuu.cli.exits import FAILED, HELP, INTERRUPTED, MISUSE
from ssiuu.cli.spoken import spoken
from ssiuu.errors import ConfigError, InputError, SsiuuError
from ssiuu.experiment import launched

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Make a language model forget facts, then find out: were they erased, or only hidden?",
    epilog=HELP,
)
app.command("demo")(spoken(demo.command))
app.command("run")(spoken(run.command))
app.command("watch")(spoken(watch.command))
app.command("ask")(spoken(ask.command))
app.command("teach")(spoken(teach.command))
app.command("unlearn")(spoken(unlearn.command))
app.command("audit")(spoken(audit.command))
app.command("diagnose")(spoken(diagnose.command))
app.command("calibrate")(spoken(calibrate.command))
app.command("report")(spoken(report.command))
app.command("view")(spoken(view.command))
app.command("compare")(spoken(compare.command))
app.command("export")(spoken(export.command))
app.command("push")(spoken(push.command))
app.command("redact")(spoken(redact.command))
app.command("purge")(spoken(purge.command))
app.command("verify")(spoken(verify.command))
app.command("list")(spoken(listing.command))
app.add_typer(request.app, name="request")
app.command("init")(spoken(init.command))
app.command("check")(spoken(check.command))
app.command("doctor")(spoken(doctor.command))

# No model is loaded, nothing is trained.
READERS = {
    "report",
    "view",
    "push",
    "redact",
    "purge",
    "verify",
    "compare",
    "list",
    "init",
    "check",
    "doctor",
    "watch",
}


def _version(wanted: bool) -> bool:
    if wanted:
        print(f"ssiuu {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def shared(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", "-V", help="Show the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """Take the options that belong to no sub-command, and refuse what all of them refuse."""
    if context.invoked_subcommand not in READERS and not {"-h", "--help"} & {*sys.argv}:
        launched.check(str(context.invoked_subcommand))


def main() -> None:
    """Run the command line and turn errors into messages and exit codes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an ASCII terminal still shows something
    try:
        _run()
    except SystemExit as end:
        _flush()
        launched.end(end.code if isinstance(end.code, int) else FAILED if end.code else 0)
        raise
    finally:
        _flush()


def _flush() -> None:
    """Write what is left; a reader that has gone away (`| head`) is no error."""
    if sys.stdout is None:  # closed by who started us
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print(f"error: the output cannot be written: {error.strerror}.", file=sys.stderr)
            sys.exit(FAILED)


def _refuse_empty(words: list[str]) -> None:
    """Refuse options without a value: a path of no characters would be this folder."""
    for option, word in pairwise(["", *words]):
        if word == "":
            raise ConfigError(f"{option if option.startswith('-') else 'an argument'} has no value.")
        if word.startswith("--") and word.endswith("=") and word.count("=") == 1:
            raise ConfigError(f"{word[:-1]} has no value.")


def _run() -> None:
    try:
        _refuse_empty(sys.argv[1:])
        app()
    except InputError as error:
        for problem in error.problems if launched.speaks() else ():
            print(f"error: {problem}", file=sys.stderr)
        sys.exit(MISUSE)
    except (SsiuuError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(FAILED)
    except Exception as error:
        from ssiuu.plugins import blamed

        if (blame := blamed(error)) is None:
            raise
        traceback.print_exc()
        print(f"error: {blame}", file=sys.stderr)
        sys.exit(FAILED)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # what the parser makes of Ctrl-C
            print("interrupted: the same command continues from here", file=sys.stderr)
        raise

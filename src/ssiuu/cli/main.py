"""`ssiuu`: the entry point, which knows all sub-commands and turns errors into exit codes."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

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
from ssiuu.cli.spoken import begin, refused, spoken
from ssiuu.cli.terminal import say
from ssiuu.errors import ConfigError, InputError, SsiuuError, nearest
from ssiuu.experiment import launched

UsageError: Any = typer.BadParameter.__mro__[1]  # of the parser: a word or a value that it cannot use


class Parsed(TyperGroup):
    """The commands; what the parser refuses is an object too, where --json stands on the line."""

    def make_context(self, *given: Any, **more: Any) -> Any:
        """Parse what stands before the command."""
        with _answering():
            return super().make_context(*given, **more)

    def invoke(self, ctx: Any) -> Any:
        """Parse what stands behind the command, and run it."""
        with _answering():
            return super().invoke(ctx)


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        error.message += _setting_meant(error)
        refused(MISUSE, [error.format_message()], sys.argv[1:])
        raise


def _setting_meant(error: Any) -> str:
    """Return how a setting is given, where an option that no other is like is called as one is."""
    option = getattr(error, "option_name", "").removeprefix("--")
    takes = getattr(getattr(error.ctx, "command", None), "params", ())
    if (
        not option
        or getattr(error, "possibilities", None)
        or not any("--set" in parameter.opts for parameter in takes)
    ):
        return ""
    from ssiuu.experiment.settings import settings

    near = nearest(option.replace("-", "_"), [setting.key for setting in settings()])
    return f". Settings are given as --set KEY=VALUE.{near}"


app = typer.Typer(
    cls=Parsed,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Make a language model forget facts, then find out: were they erased, or only hidden?",
    epilog=HELP,
)
COMMANDS = {
    "demo": demo,
    "run": run,
    "watch": watch,
    "ask": ask,
    "teach": teach,
    "unlearn": unlearn,
    "audit": audit,
    "diagnose": diagnose,
    "calibrate": calibrate,
    "report": report,
    "view": view,
    "compare": compare,
    "export": export,
    "push": push,
    "redact": redact,
    "purge": purge,
    "verify": verify,
    "list": listing,
    "init": init,
    "check": check,
    "doctor": doctor,
}
for name, module in COMMANDS.items():
    app.command(name)(spoken(module.command))
app.add_typer(request.app, name="request")

# No model is loaded, nothing is trained.
READERS = {
    "report",
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
        try:
            _run()
        finally:
            _flush()
    except SystemExit as end:
        launched.end(end.code if isinstance(end.code, int) else FAILED if end.code else 0)
        raise


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
    begin()
    try:
        _refuse_empty(sys.argv[1:])
        if os.environ.get("SSIUU_PLUGINS"):
            from ssiuu.plugins import from_files

            from_files()
        app()
    except InputError as error:
        refused(MISUSE, error.problems, sys.argv[1:])
        for problem in error.problems if launched.speaks() else ():
            say(f"error: {problem}", to=sys.stderr)
        sys.exit(MISUSE)
    except (SsiuuError, OSError) as error:
        refused(FAILED, [str(error)], sys.argv[1:])
        say(f"error: {error}", to=sys.stderr)
        sys.exit(FAILED)
    except Exception as error:
        from ssiuu.plugins import blamed

        if (blame := blamed(error)) is None:
            raise
        traceback.print_exc()
        say(f"error: {blame}", to=sys.stderr)
        sys.exit(FAILED)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # what the parser makes of Ctrl-C
            print("interrupted: the same command continues from here", file=sys.stderr)
        raise

"""How every command speaks: -q, -v, and --json, which makes its result one JSON object.

With --json stdout gets one object at the end: the exit code, what `result` was told meanwhile, and what
was wrong where something was; also where the command line cannot be parsed and no command has begun.
What a command prints for people is left out, or with -v goes to stderr.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, field
from functools import wraps
from itertools import takewhile
from typing import Annotated, Any, TextIO

import typer

from ssiuu.cli import loading
from ssiuu.cli.exits import FAILED, INTERRUPTED, MISUSE
from ssiuu.errors import ConfigError, InputError, SsiuuError
from ssiuu.experiment import launched

SHARED = {
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="no progress, only the result")],
    "verbose": Annotated[
        bool,
        typer.Option("--verbose", "-v", help="every line of progress stays, and the library's log"),
    ],
    "json": Annotated[
        bool, typer.Option("--json", help="the result as one JSON object; progress on stderr")
    ],
}


@dataclass
class Manner:
    """How the command that is running speaks, its result so far, and what ends with it."""

    quiet: bool = False
    verbose: bool = False
    json: bool = False
    values: dict[str, Any] = field(default_factory=dict)
    ends: list[Callable[[], None]] = field(default_factory=list)


_manner = Manner()
_answered = False  # whether stdout has its object


def manner() -> Manner:
    """Return how the command that is running speaks."""
    return _manner


def result(**values: Any) -> None:
    """Add to the object that --json prints; paths and records as JSON has them."""
    _manner.values |= values


def begin() -> None:
    """A command line begins: nothing has been answered yet."""
    global _answered
    _answered = False


def refused(code: int, problems: list[str], words: Sequence[str]) -> None:
    """Print the object of a command line that was refused before its command could begin.

    Args:
        code: What the process ends with.
        problems: What is wrong, a sentence each.
        words: The command line; --json anywhere on it counts, parsed or not.
    """
    wanted = "--json" in takewhile(lambda word: word != "--", words)
    if wanted and not _answered and launched.first():
        _print(sys.stdout, code, problems)


def spoken(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command that takes -q, -v and --json as well."""
    signature = inspect.signature(command, eval_str=True)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in SHARED.items()
    ]

    @wraps(command)
    def speaking(*given: Any, quiet: bool, verbose: bool, json: bool, **options: Any) -> Any:
        global _manner
        if quiet and verbose:
            raise ConfigError("--quiet and --verbose do not go together.")
        outer, _manner = _manner, Manner(quiet, verbose, json)  # a command may carry out others
        try:
            # One that is carried out by another logs where that one already does.
            with (
                _logging(verbose and not outer.verbose),
                loading.told(launched.first() and not quiet),
                _answering(sys.stdout) if json else nullcontext(),
            ):
                return command(*given, **options)
        finally:
            for end in _manner.ends:
                end()
            _manner = outer

    changed: Any = speaking
    parameters = [*signature.parameters.values(), *more]
    changed.__signature__ = signature.replace(parameters=parameters)
    changed.__annotations__ = {**command.__annotations__, **SHARED}
    return speaking


@contextmanager
def _logging(verbose: bool) -> Iterator[None]:
    """Show the library's own log on stderr meanwhile, where it is wanted."""
    log, handler = logging.getLogger("ssiuu"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    level = log.level
    if verbose:
        log.addHandler(handler)
        log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


@contextmanager
def _answering(out: TextIO) -> Iterator[None]:
    """Print the result as one object to `out` at the end, and until then nothing."""
    code: int | str | None = 0
    problems: list[str] = []
    people = sys.stderr if _manner.verbose else open(os.devnull, "w")  # noqa: SIM115  # closed below
    try:
        with redirect_stdout(people):
            yield
    except (typer.Exit, SystemExit) as end:
        code = end.exit_code if isinstance(end, typer.Exit) else end.code
        raise
    except InputError as error:
        code, problems = MISUSE, error.problems
        raise
    except (SsiuuError, OSError) as error:
        code, problems = FAILED, [str(error)]
        raise
    except KeyboardInterrupt:
        code = INTERRUPTED
        raise
    except Exception as error:
        code, problems = FAILED, [type(error).__name__]  # its text may hold anything
        raise
    finally:
        if people is not sys.stderr:
            people.close()
        if launched.first():
            _print(out, code if isinstance(code, int) else FAILED if code else 0, problems)


def _print(out: TextIO, code: int, problems: list[str]) -> None:
    global _answered
    from ssiuu.records.files import dump_json

    _answered = True
    words = {"exit_code": code} | ({"errors": problems} if problems else {})
    print(dump_json(words | _plain(_manner.values)), file=out)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)

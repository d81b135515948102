"""What is wrong with a command, said before anything heavy is imported."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ssiuu.data.columns import parse_columns
from ssiuu.data.fact import Fact
from ssiuu.data.files import kind_of
from ssiuu.data.read import FILES, check_pair, read_facts
from ssiuu.errors import ConfigError, DataError, ModelError, OutputError, unknown
from ssiuu.records.files import require_empty

NONE = "none"


def nothing(retain: str | None) -> str | None:
    """Return "none" in whatever case it is written, where no file is called so."""
    spelled = retain is not None and retain.casefold() == NONE and not Path(retain).exists()
    return NONE if spelled else retain


def check_models(*names: str) -> None:
    """Refuse a name that can only be a folder's, and is none; others may be on the hub.

    Raises:
        ModelError: Named with it.
    """
    for name in names:
        if name.startswith(("/", ".", "~")) and not Path(name).expanduser().exists():
            raise ModelError(f"there is no folder {name}.")


def check_out(out: Path, models: Iterable[str | Path], empty: bool = True) -> None:
    """Refuse a folder for results that holds something, or lies within a model.

    Raises:
        OutputError: It does.
    """
    if empty:
        require_empty(out)
    for model in map(Path, models):
        if model.is_dir() and out.resolve().is_relative_to(model.resolve()):
            raise OutputError(
                f"--out {out} lies in the folder of the model {model}: choose another one."
            )


def check_facts(files: Mapping[str, str | None], columns: str | None, sets: Sequence[str] = ()) -> None:
    """Read the files of facts and refuse what cannot be used; names on the hub are left alone.

    Args:
        files: By flag.
        columns: As `--columns` has it.
        sets: Settings; where they name columns, files are left alone too.

    Raises:
        DataError: With every problem of every file.
        ConfigError: Two flags name one file, or the columns are not valid.
    """
    paths = {flag: Path(name) for flag, name in files.items() if name not in (None, NONE)}
    places = [path.resolve() for path in paths.values()]
    if len(set(places)) < len(places):
        raise ConfigError(f"{' and '.join(paths)} are the same file, {next(iter(paths.values()))}.")
    named = parse_columns(columns) if columns is not None else None
    if any(text.strip().startswith("columns") for text in sets):
        return
    problems: list[str] = []
    facts: list[list[Fact]] = []
    for flag, path in paths.items():
        if kind_of(path) not in FILES:
            continue
        try:
            facts.append(read_facts(path, flag, named))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    if len(facts) == len(paths) == 2:
        check_pair(*facts)


def check_number(flag: str, value: float | None, least: float, most: float = math.inf) -> None:
    """Refuse a number out of range; NaN and the infinities are in none.

    Raises:
        ConfigError: Names the flag and the range.
    """
    if value is None or (math.isfinite(value) and least <= value <= most):
        return
    wanted = f"from {least:g} on" if most == math.inf else f"from {least:g} to {most:g}"
    raise ConfigError(f"{flag} must be a number {wanted}, got {value:g}.")


def check_taught(given: Mapping[str, object]) -> None:
    """Refuse a taught model without its twin and its facts, or these without it.

    Args:
        given: By flag, the folders of both models among them as paths.

    Raises:
        ConfigError: Some are missing, or a folder is none.
    """
    missing = [flag for flag, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise ConfigError(
            f"{' and '.join(missing)} missing: {', '.join(given)} are given together or not at all."
        )
    for flag, value in given.items():
        if isinstance(value, Path) and not value.is_dir():
            raise ConfigError(f"{flag} {value} is not a folder.")


def worlds_of(text: str | None, taught: bool) -> list[str]:
    """Return the made-up worlds of an option; without it all, beside a taught model none.

    Raises:
        ConfigError: One is unknown.
    """
    from ssiuu.analysis.calibration import WORLDS

    if text is None:
        return [] if taught else [*WORLDS]
    chosen = [name.strip() for name in text.split(",")]
    if chosen == [NONE]:
        return []
    for name in chosen:
        if name not in WORLDS:
            raise ConfigError(unknown("world", name, [*WORLDS, NONE], "--worlds"))
    return list(dict.fromkeys(chosen))


def whole_numbers(flag: str, text: str) -> list[int]:
    """Return the numbers of an option, as in 1,2.

    Raises:
        ConfigError: One is none.
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = [-1]
    if min(found) < 0:
        raise ConfigError(f"{flag} must be whole numbers from 0 on, as in 1,2, got {text!r}.")
    if len(set(found)) < len(found):
        raise ConfigError(f"{flag} must be different numbers, got {text!r}: each counts once.")
    return found

"""A leaderboard: a file of lines that anyone can append to and check against the runs they are of.

    append(Path("leaderboard.jsonl"), standings(load_run("first")))
    for problem in check(Path("leaderboard.jsonl"), {"first": load_run("first")}).problems: ...

A line is JSON: a method with the digest of its settings, what it was run on (model, benchmark and
facts, each by its fingerprint), versions, every number of its row, and a digest over all of that. A
changed line no longer fits its digest; one whose digest was made anew does not agree with its run, from
whose records every number is computed again.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ValidationError

from ssiuu.analysis.across import key_of, label_of, settings
from ssiuu.analysis.column import Model
from ssiuu.analysis.columns import columns
from ssiuu.analysis.evidence import constants
from ssiuu.errors import DataError, OutputError
from ssiuu.records.files import digest
from ssiuu.records.schema import Record, RunRecord
from ssiuu.records.sharing import Way, alone

LEADERBOARD: Final = "ssiuu.leaderboard/1"
# Of a recipe: what names other cells, and what stands in the fingerprints.
ELSEWHERE: Final = {"methods", "seeds", "tune", "keep_checkpoints", "locks", "model", "unlearn"}
CLOSE = 1e-9  # relative: a mean of the same numbers may differ in its last digits elsewhere
NAMED = 3  # numbers that are named where more do not agree


class Standing(Record):
    """One line: a method under one seed. `digest`: of all else that stands in it.

    `settings`: digest of the method and of all that drove, attacked and examined it; `facts`: of every
    set of facts. `calibration`: the constants that the verdict was made with. `results`: by the keys of
    the columns (docs/columns.md), shares in [0, 1]. `written_by`: the version of ssiuu that made it.
    """

    schema_version: Literal["ssiuu.leaderboard/1"] = LEADERBOARD
    method: str
    seed: int
    settings: str
    model: str
    model_fingerprint: str
    benchmark: str
    benchmark_version: str
    benchmark_fingerprint: str
    facts: str
    prompt: str
    score: str
    protocol: str
    versions: dict[str, str]
    calibration: str
    written_by: str
    results: dict[str, float | int | str]
    digest: str = ""

    @property
    def sealed(self) -> Standing:
        """The line with the digest that fits it."""
        return self.model_copy(update={"digest": digest(self.model_dump(exclude={"digest"}))})

    @property
    def whole(self) -> bool:
        """Whether nothing was changed since the line was written."""
        return self.sealed.digest == self.digest

    @property
    def of(self) -> tuple[object, ...]:
        """What a line is about: equal in two lines that tell of the same experiment."""
        place = (
            self.model_fingerprint,
            self.benchmark_fingerprint,
            self.facts,
            self.prompt,
            self.score,
        )
        return self.method, self.seed, self.settings, *place


def standings(record: RunRecord) -> list[Standing]:
    """Return a line for every method and seed of a run that was scored; controls have none."""
    header, read = record.header, columns(record)
    recipe = {key: value for key, value in header.config.items() if key not in ELSEWHERE}
    lines = []
    for cell in record.cells:
        if cell.method.origin == "control" or cell.evaluation is None:
            continue
        values = {column.key: column.read(Model(record, cell)) for column in read}
        line = Standing(
            method=label_of(header, cell),
            seed=cell.seed,
            settings=digest(cell.method.parts, settings(header, cell), recipe),
            model=header.model.name,
            model_fingerprint=header.model.fingerprint,
            benchmark=header.benchmark.name,
            benchmark_version=header.benchmark.version,
            benchmark_fingerprint=header.benchmark.fingerprint,
            facts=key_of(header).facts,
            prompt=header.prompt,
            score=header.score,
            protocol=header.protocol,
            versions=header.versions,
            calibration=constants().version,
            written_by=version("ssiuu"),
            results={key: value for key, value in values.items() if _is_result(value)},
        )
        lines.append(line.sealed)
    return lines


def _is_result(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, int | float) and math.isfinite(value))


# --- the file ----------------------------------------


def append(path: Path, lines: Iterable[Standing], locks: Way = "auto") -> int:
    """Append the lines that are not there yet; return their number. Several processes may do so.

    Args:
        path: The leaderboard; it is made where it is not there.
        lines: What is to stand in it.
        locks: How processes keep apart, see `ssiuu.records.sharing.Sharing`.

    Raises:
        DataError: The file holds something that is no leaderboard, or a line that was changed.
        OutputError: It cannot be written to.
    """
    try:
        with path.open("a+b") as stream, alone(path, stream, locks):
            stream.seek(0)
            content = stream.read()
            there = _read(path, content)
            broken = [place for place, line in there.items() if line is None or not line.whole]
            if broken:
                raise DataError(
                    f"--append {path}: {_damage(broken)}: nothing was appended. Mend it first: `ssiuu "
                    f"compare --check {path}` says of each line what is wrong."
                )
            known = {line.digest for line in there.values() if line}
            new = [line for line in lines if line.digest not in known]
            start = "\n" if content and not content.endswith(b"\n") else ""
            text = start + "".join(line.model_dump_json() + "\n" for line in new)
            stream.write(text.encode() if new else b"")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise OutputError(f"{path} cannot be written to: {error.strerror}.") from error
    return len(new)


def _damage(places: Sequence[int]) -> str:
    """Say which lines of a leaderboard are no lines of one, or not what was written."""
    if len(places) == 1:
        return f"line {places[0]} was changed or cut, or is none of a leaderboard"
    named = ", ".join(map(str, places[:NAMED])) + (", ..." if len(places) > NAMED else "")
    return f"{len(places)} lines ({named}) were changed or cut, or are none of a leaderboard"


def _read(path: Path, content: bytes) -> dict[int, Standing | None]:
    """Return the lines by their number; None where one cannot be read."""
    lines: dict[int, Standing | None] = {}
    for place, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            try:
                lines[place] = Standing.model_validate_json(line)
            except ValidationError:
                lines[place] = None
    return lines


# --- checking ----------------------------------------


@dataclass
class Checked:
    """What a check found: `problems`, a sentence each; how many lines agree with a run given; how many
    are of none of them; `notes`: what was not checked.
    """

    lines: int = 0
    agree: int = 0
    unmatched: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check(path: Path, runs: Mapping[str, RunRecord]) -> Checked:
    """Check every line against its digest, and against the runs given that it tells of.

    Args:
        path: The leaderboard.
        runs: By name; none: the digests alone are checked.

    Raises:
        DataError: There is no such file, or nothing in it.
    """
    try:
        lines = _read(path, path.read_bytes())
    except OSError as error:
        raise DataError(f"--check {path} cannot be read: {error.strerror}.") from error
    found: dict[tuple[object, ...], list[tuple[str, Standing]]] = {}
    for name, record in runs.items():
        for made in standings(record):
            found.setdefault(made.of, []).append((name, made))
    if not lines:
        raise DataError(f"--check {path} holds no line: there is nothing to check.")
    checked = Checked(len(lines))
    for place, line in lines.items():
        where = f"{path}, line {place}"
        if line is None:
            checked.problems.append(f"{where} is no line of a leaderboard: it was changed or cut.")
        elif not line.whole:
            checked.problems.append(
                f"{where} ({_told(line)}) was changed after it was written: its digest does not fit."
            )
        elif line.of not in found:
            checked.unmatched += 1
        else:
            _against(checked, where, line, found[line.of])
    return checked


def _against(
    checked: Checked, where: str, line: Standing, runs: Sequence[tuple[str, Standing]]
) -> None:
    """Hold a line against the runs that it tells of; agreeing with one is enough."""
    skipped = _verdicts(line, runs[0][1]) if line.calibration != runs[0][1].calibration else set()
    differ = {name: _differences(line, made, skipped) for name, made in runs}
    name = min(differ, key=lambda name: len(differ[name]))
    if differ[name]:
        more = len(differ[name]) - NAMED
        told = ", ".join(differ[name][:NAMED]) + (f" and {more} more" if more > 0 else "")
        checked.problems.append(f"{where} ({_told(line)}) does not agree with {name}: {told}.")
        return
    checked.agree += 1
    if skipped:
        checked.notes.append(
            f"{where}: its verdict is of calibration {line.calibration}, here is "
            f"{runs[0][1].calibration}: it was not checked."
        )


def _verdicts(line: Standing, made: Standing) -> set[str]:
    """Return the results that rest on the calibration."""
    starts = ("verdict", "facts_", "hidden_", "power", "known_")
    return {key for key in line.results.keys() | made.results.keys() if key.startswith(starts)}


def _differences(line: Standing, made: Standing, skipped: set[str]) -> list[str]:
    """Say what a line tells otherwise than its run."""
    same = ("protocol", "benchmark", "benchmark_version", "model", "versions")
    told = [f"its {name}" for name in same if getattr(line, name) != getattr(made, name)]
    # Another version may have further columns.
    known = line.results.keys() | (made.results.keys() if line.written_by == made.written_by else ())
    for key in sorted(known - skipped):
        there, here = line.results.get(key), made.results.get(key)
        if not _equal(there, here):
            told.append(f"{key} {_value(there)} against {_value(here)}")
    return told


def _value(value: Any) -> str:
    return "not told" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _equal(one: Any, other: Any) -> bool:
    if not (isinstance(one, int | float) and isinstance(other, int | float)):
        return bool(one == other)
    return math.isclose(one, other, rel_tol=CLOSE, abs_tol=1e-12)


def _told(line: Standing) -> str:
    return f"{line.method}, seed {line.seed}, {line.benchmark}"

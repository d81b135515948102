"""Several runs side by side: whose models compare with whose, and what each of them came to.

    for ground in grounds({"first": load_run("first"), "second": load_run("second")}):
        print(ground.name, [(member.name, member.read(ground.level)) for member in ground.members])

Numbers compare where all of `Ground.key` is the same: the original model, the benchmark, the choice of
facts, the form they are asked in, the score. Everything else is a ground of its own, and nothing is
averaged over two of them. Within one:

- a method is one member under equal settings, a mean over its seeds; other settings are another member;
- attacks are read over the facts that no attack of any of its models trained on;
- an attack of the same name that was carried out otherwise is another attack;
- the highest level is that of the attacks that all of its models met.

What could not be compared is said in `Ground.remarks`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ssiuu.analysis.alike import common_facts, one_attack_a_name, one_text
from ssiuu.analysis.column import Column, Model
from ssiuu.analysis.columns import auc_names, every, original, strongest_columns
from ssiuu.analysis.comparisons import interval, score_level
from ssiuu.analysis.levels import attack_names, attacked, looks, of_name, strongest_attacker
from ssiuu.analysis.scale import Scale, level, mean
from ssiuu.analysis.score import ScoreColumns
from ssiuu.analysis.scores import score_of
from ssiuu.analysis.utility import task_names
from ssiuu.analysis.verdict import ranking
from ssiuu.config import flatten
from ssiuu.errors import ConfigError, unknown
from ssiuu.records.files import digest
from ssiuu.records.schema import Cell, RunHeader, RunRecord
from ssiuu.statistics import Estimate

KL, LEVEL = "kl", "strongest_level"
MOST = 4  # settings that are named where a method was run with different ones


class Key(NamedTuple):
    """What must be equal for numbers to compare; each as a digest or a name."""

    model: str
    benchmark: str
    facts: str
    prompt: str
    score: str


def key_of(header: RunHeader) -> Key:
    """Return what decides with which other runs a run compares."""
    split = header.split.model_dump(mode="json", exclude={"seed", "asked", "known"})
    benchmark = f"{header.benchmark.name} {header.benchmark.version} {header.benchmark.fingerprint}"
    return Key(header.model.fingerprint, benchmark, digest(split), header.prompt, header.score)


def settings(header: RunHeader, cell: Cell) -> dict[str, Any]:
    """Return how a cell's model came to be: the method's settings, and how it was driven, flat.

    What is not set is left out: a version that did not have a setting left it unset as well.
    """
    if cell.method.origin == "given":
        return {"after": header.config.get("after")}
    drive = {} if cell.method.origin == "control" else header.config.get("unlearn", {})
    told = flatten({**drive, **cell.method.hyperparameters})  # a method's own are the ones that hold
    return {key: value for key, value in told.items() if value is not None}


def label_of(header: RunHeader, cell: Cell) -> str:
    """Return what a method is called among others: a checkpoint by its folder."""
    label = cell.method.label
    if cell.method.origin != "given":
        return label
    return str(header.config.get("after", label)).rstrip("/").rpartition("/")[2] or label


@dataclass(frozen=True)
class Member:
    """A method under one group of settings: its models, one a seed, and the runs they stand in."""

    name: str
    runs: tuple[str, ...]
    models: tuple[Model, ...]

    @property
    def control(self) -> bool:
        """Whether it is no method: a control, or the model before unlearning."""
        return self.models[0].cell.method.origin == "control"

    @property
    def before(self) -> bool:
        """Whether it is the model before unlearning."""
        return self.models[0].before

    def read(self, column: Column) -> Any:
        """Return the mean over its models, of words each with its number; None: not measured."""
        values = [value for m in self.models if (value := column.read(m)) is not None]
        if column.form != "words":
            return mean(values)
        counts = Counter(values)
        several = [f"{word} ({count})" for word, count in counts.most_common()]
        return ", ".join(several if len(several) > 1 else counts) or None

    def interval(self, column: Column) -> Estimate | None:
        """Return a column's value with its 95 % interval, where it has one."""
        if len(self.models) == 1 or column.interval is not None or column.outcomes is None:
            return interval(self.models[0], column) if len(self.models) == 1 else None
        record, outcomes = self.models[0].record, [column.outcomes(m, None) for m in self.models]
        return score_level(record, outcomes)


@dataclass(frozen=True)
class Ground:
    """Runs whose numbers compare.

    Attributes:
        name: Benchmark and model, unique among grounds.
        key: What is equal in all of them.
        headers: Of its runs, by run.
        members: The model before unlearning, then every method.
        columns: Every column, in the order of a run's; that of the highest level is over `met` alone.
        met: The attacks that all of its attacked models met.
        remarks: What could not be compared, a sentence each.
    """

    name: str
    key: Key
    headers: Mapping[str, RunHeader]
    members: Sequence[Member]
    columns: Sequence[Column]
    met: Sequence[str]
    remarks: Sequence[str]

    @property
    def score(self) -> ScoreColumns:
        """What its models are judged by."""
        return score_of(self.members[0].models[0].record)

    @property
    def level(self) -> Column:
        """The highest level after an attack."""
        return self.column(LEVEL)

    @property
    def shown(self) -> list[Column]:
        """The columns of its tables: those that some member has a value of."""
        return [c for c in self.columns if c.shown and any(e.read(c) is not None for e in self.members)]

    def column(self, key: str) -> Column:
        """Return a column.

        Raises:
            ConfigError: There is none of this key.
        """
        found = next((c for c in self.columns if c.key == key), None)
        if found is None:
            raise ConfigError(unknown("column", key, [c.key for c in self.columns], self.name))
        return found

    def highest(self, member: Member) -> Estimate | None:
        """Return the highest level with its interval, widened for the number of settings tried."""
        scale, value = self.score.scale, member.read(self.level)
        shared = [_met(model, self.met) for model in member.models]
        best = [strongest_attacker(model, scale) for model in shared]
        if value is None or not all(best):
            return None
        tables = [attacked(m, b.name, scale) for m, b in zip(shared, best, strict=True) if b]
        tried = max(sum(looks(m.cell.attacks, name) for name in self.met) for m in shared)
        return score_level(shared[0].record, tables, tried) or Estimate(value, value, value)


# --- which runs compare ----------------------------------------


def grounds(runs: Mapping[str, RunRecord]) -> list[Ground]:
    """Return the runs by what compares, in their order.

    Args:
        runs: By name.
    """
    groups: dict[Key, dict[str, RunRecord]] = {}
    for name, record in runs.items():
        groups.setdefault(key_of(record.header), {})[name] = record
    names: list[str] = []
    for group in groups.values():
        header = next(iter(group.values())).header
        name = f"{header.benchmark.name} · {header.model.name}"
        again = sum(known.partition(" (")[0] == name for known in names)
        names.append(f"{name} ({again + 1})" if again else name)
    return [_ground(n, key, group) for n, (key, group) in zip(names, groups.items(), strict=True)]


def apart(every: Sequence[Ground]) -> list[str]:
    """Say of every ground but the first why it does not compare with the one most like it."""
    sentences = []
    for place, ground in enumerate(every[1:], start=1):
        reasons = {other.name: _differences(ground, other) for other in every[:place]}
        nearest = min(reasons, key=lambda name: len(reasons[name]))
        sentences.append(
            f"{ground.name} ({', '.join(ground.headers)}) does not compare with {nearest}: "
            f"{', '.join(reasons[nearest])}."
        )
    return sentences


def _differences(one: Ground, other: Ground) -> list[str]:
    new, old = (next(iter(ground.headers.values())) for ground in (one, other))
    told = {
        "model": f"another original model ({new.model.name}, {new.model.fingerprint[:8]} against "
        f"{old.model.fingerprint[:8]})",
        "benchmark": f"another benchmark ({_benchmark(new)} against {_benchmark(old)})",
        "facts": f"other facts ({_facts(new)} against {_facts(old)})",
        "prompt": "asked in another form",
        "score": f"judged by another score ({new.score} against {old.score})",
    }
    differs = [name for name in Key._fields if getattr(one.key, name) != getattr(other.key, name)]
    # Another benchmark has other facts.
    return [told[name] for name in differs if not (name == "facts" and "benchmark" in differs)]


def _benchmark(header: RunHeader) -> str:
    return f"{header.benchmark.name} {header.benchmark.version}, {header.benchmark.fingerprint[:8]}"


def _facts(header: RunHeader) -> str:
    return f"{len(header.split.forget)} to forget, split {header.split.seed}"


# --- one ground ----------------------------------------


def _ground(name: str, key: Key, runs: Mapping[str, RunRecord]) -> Ground:
    alike, remarks = one_text(runs)
    alike, more = one_attack_a_name(alike)
    remarks += more
    within, narrowed = common_facts(alike)
    remarks += narrowed
    members = _members(alike, within)
    met, left = _met_by_all(members)
    remarks += left + _driven_otherwise(members) + _versions(alike)
    return Ground(
        name,
        key,
        {run: record.header for run, record in runs.items()},
        members,
        _columns(list(alike.values()), met),
        met,
        remarks,
    )


def _columns(records: Sequence[RunRecord], met: Sequence[str]) -> list[Column]:
    """Return every column of some runs; what is said of the strongest attacker is of `met` alone."""
    score = score_of(records[0])
    scales: dict[str, Scale] = {}
    for record in records:
        attacks = [attack for cell in record.cells for attack in cell.attacks]
        for name in attack_names(record):
            scales.setdefault(name, score.scale_of(of_name(attacks, name)[0]))

    def each(names: Iterable[Sequence[str]]) -> list[str]:
        return list(dict.fromkeys(name for group in names for name in group))

    others = list(records[0].header.split.others)
    tasks, aucs = each(map(task_names, records)), each(map(auc_names, records))
    strongest = {column.key for column in strongest_columns(score.scale)}
    return [
        replace(column, read=_of_met(column, met)) if column.key in strongest else column
        for column in _with_recovery(every(score, others, scales, tasks, aucs), score.scale, met)
    ]


def _of_met(column: Column, met: Sequence[str]) -> Any:
    return lambda model: column.read(_met(model, met))


def _met(model: Model, met: Sequence[str]) -> Model:
    """Return the model with these attacks alone."""
    attacks = [attack for attack in model.cell.attacks if attack.name in met]
    return replace(model, cell=model.cell.model_copy(update={"attacks": attacks}))


def _with_recovery(columns: list[Column], scale: Scale, met: Sequence[str]) -> list[Column]:
    """Return the columns with that of recovery after the highest level."""

    def read(model: Model) -> float | None:
        best = strongest_attacker(_met(model, met), scale)
        if best is None:
            return None
        before = level(of_name(model.cell.attacks, best.name)[0], 0, model.pool, scale)
        return None if before is None else best.level - before

    after = next(place for place, column in enumerate(columns) if column.key == LEVEL)
    form = columns[after].form
    meaning = "The highest level less the level of the same facts before the attack."
    recovery = Column("recovery", "recovery", columns[after].group, form, read, meaning, "lower")
    return [*columns[: after + 1], recovery, *columns[after + 1 :]]


def _members(runs: Mapping[str, RunRecord], within: frozenset[str]) -> list[Member]:
    """Return a method and its settings as one, over seeds and runs."""
    found: dict[tuple[str, str], list[tuple[str, Model]]] = {}
    first = next(((run, m) for run, record in runs.items() if (m := original(record))), None)
    for run, record in runs.items():
        for cell in record.cells:
            label = label_of(record.header, cell)
            place = (label, digest(cell.method.parts, settings(record.header, cell)))
            found.setdefault(place, []).append((run, Model(record, cell, within)))
    labels = Counter(label for label, _ in found)
    members = [] if first is None else [Member(first[1].cell.method.label, (first[0],), (first[1],))]
    for (label, _), every_one in sorted(found.items(), key=lambda item: list(labels).index(item[0][0])):
        chosen = _once(every_one)
        where = tuple(dict.fromkeys(run for run, _ in chosen))
        name = f"{label} ({', '.join(where)})" if labels[label] > 1 else label
        members.append(Member(name, where, tuple(model for _, model in chosen)))
    return members


def _once(members: Sequence[tuple[str, Model]]) -> list[tuple[str, Model]]:
    """Return one model a seed: of a seed that was run again, the one that was attacked most."""
    best: dict[int, tuple[str, Model]] = {}
    for run, model in members:
        seed = model.cell.seed
        if seed not in best or len(model.cell.attacks) > len(best[seed][1].cell.attacks):
            best[seed] = (run, model)
    return list(best.values())


def _met_by_all(members: Sequence[Member]) -> tuple[list[str], list[str]]:
    """Return the attacks that every attacked method met, and what is to be said of the others."""
    judged = [e for e in members if not e.control and any(ranking(m.cell.attacks) for m in e.models)]
    names = [[{a.name for a in ranking(m.cell.attacks)} for m in e.models] for e in judged]
    every_name = list(
        dict.fromkeys(a.name for e in judged for m in e.models for a in ranking(m.cell.attacks))
    )
    met = [name for name in every_name if all(name in own for member in names for own in member)]
    left = [name for name in every_name if name not in met]
    if not left:
        return met, []
    if not met:
        return met, ["No attack was carried out on all of these models: no highest level compares."]
    return met, [
        f"The highest level is over the attacks that all of these models met ({', '.join(met)}), not "
        f"over {', '.join(left)}."
    ]


def _driven_otherwise(members: Sequence[Member]) -> list[str]:
    """Say in which settings a method of one label differs where it stands more than once."""
    by_label: dict[str, list[Member]] = {}
    for member in members:
        by_label.setdefault(member.models[0].cell.method.label, []).append(member)
    sentences = []
    for label, alike in by_label.items():
        told = [settings(m.models[0].record.header, m.models[0].cell) for m in alike]
        values = {key: [str(t.get(key, "not set")) for t in told] for t in told for key in t}
        differ = [f"{key} {', '.join(texts)}" for key, texts in values.items() if len(set(texts)) > 1]
        if differ and not alike[0].before and "after" not in values:
            sentences.append(f"{label} was run with different settings: {'; '.join(differ[:MOST])}.")
    return sentences


def _versions(runs: Mapping[str, RunRecord]) -> list[str]:
    """Say where runs were made by different versions of this package."""
    made: dict[str, list[str]] = {}
    for run, record in runs.items():
        made.setdefault(record.header.versions.get("ssiuu", "unknown"), []).append(run)
    if len(made) < 2:
        return []
    listed = "; ".join(f"{version}: {', '.join(names)}" for version, names in made.items())
    return [f"Made by different versions of ssiuu ({listed})."]

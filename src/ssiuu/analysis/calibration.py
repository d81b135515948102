"""What the verdict is worth on models of known truth: constants fitted on some, errors told on others.

Fitted are the weights of the evidence, as Fisher's linear discriminant between facts of never-learned
models and hidden ones, and the shift: the least one under which no way of hiding among those fitted is
called erased in more than 5 % of its facts. Told are, on worlds and ways of hiding that nothing was
fitted on, both errors with intervals, what stays undecided, and how often the number of hidden facts
lies within its bounds. Imports no torch.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from ssiuu.analysis.evidence import LEVEL, Constants, judge, shown
from ssiuu.analysis.verdict import FactVerdict, fact_word, model_word
from ssiuu.records.schema import Attacker, Examination, Record, Verdict
from ssiuu.statistics import wilson

Truth = Literal["erased", "hidden", "not removed"]
ATTACKERS: tuple[Attacker, ...] = ("nobody", "unrelated", "related", "read-out")
FITTED = ("last-map", "middle-map", "refusal")  # ways of hiding; the others are only tried
PLANTED, ORIGINAL = "planted", "original"
SHIFTS = np.arange(0.0, 6.01, 0.05)
RIDGE = 0.1  # of the discriminant, beside unit variances
SIZES = (1, 5, 20, 100)  # facts of a model
DRAWS = 200  # models of each size


class Case(Record):
    """An examined model of known truth.

    `truth`: by fact id. `said`: facts that it says freely. `found`: its examination.
    """

    name: str
    truth: dict[str, Truth]
    said: list[str]
    found: Examination


class World(NamedTuple):
    """The cases of one world; `fitted`: whether constants may be fitted on it."""

    name: str
    fitted: bool
    cases: tuple[Case, ...]

    @property
    def planted(self) -> Examination | None:
        """The examination of its planted controls."""
        return next((case.found for case in self.cases if case.name == PLANTED), None)


class Rate(Record):
    """How often something was, with its 95 % interval (Wilson); of so many."""

    share: float
    low: float
    high: float
    of: int

    @classmethod
    def of_counts(cls, count: int, trials: int) -> Rate | None:
        """Return the rate; None of none."""
        if not trials:
            return None
        found = wilson(count, trials)
        return cls(share=found.share, low=found.low, high=found.high, of=trials)


class Row(Record):
    """What was said of facts, or of models of so many facts, of one truth."""

    world: str
    case: str
    truth: Truth
    fitted: bool
    facts: int | None = None
    words: dict[Verdict, int]
    within: Rate | None = None


class Calibrated(Record):
    """A calibration: its constants, and what was said of which truth."""

    constants: Constants
    rows: list[Row]
    models: list[Row]

    def error(self, truth: Truth, wrong: Iterable[Verdict], fitted: bool = False) -> Rate | None:
        """Return how often facts of this truth were called one of these."""
        rows = [row for row in self.rows if row.truth == truth and row.fitted == fitted]
        words = sum((Counter(row.words) for row in rows), Counter[Verdict]())
        return Rate.of_counts(sum(words[word] for word in wrong), sum(words.values()))


def calibrated(worlds: Sequence[World], version: str) -> Calibrated:
    """Fit on the worlds and ways of hiding that are for it, and tell of all.

    Args:
        worlds: At least one to fit on, with its planted controls.
        version: Names the calibration.

    Raises:
        ValueError: There is nothing to fit on.
    """
    fitted = fit(worlds, version)
    rows = [row for world in worlds for row in _rows(world, fitted)]
    models = [row for world in worlds for row in _models(world, fitted)]
    return Calibrated(constants=fitted, rows=rows, models=models)


def fit(worlds: Sequence[World], version: str) -> Constants:
    """Return the constants of the worlds and ways of hiding that are for fitting."""
    chosen = [(w, case) for w in worlds if w.fitted for case in w.cases if _for_fitting(case)]
    weights = _weights([case for _, case in chosen])
    shift = float(next((s for s in SHIFTS if _holds(chosen, weights, s)), SHIFTS[-1]))
    return Constants(version=version, weights=weights, shift=round(shift, 2))


def _for_fitting(case: Case) -> bool:
    return case.name in FITTED or set(case.truth.values()) == {"erased"}


def _levels(case: Case) -> dict[str, dict[Attacker, float]]:
    """Return the contrast of the right answer by fact and attacker."""
    found: dict[str, dict[Attacker, float]] = defaultdict(dict)
    for attacker in ATTACKERS:
        for id, fact in shown(case.found, {attacker: 1.0}).items():
            found[id][attacker] = float(fact.evidence[0])
    return found


def _weights(cases: Sequence[Case]) -> dict[Attacker, float]:
    groups: dict[Truth, list[list[float]]] = {"erased": [], "hidden": []}
    for case in cases:
        for id, levels in _levels(case).items():
            truth = case.truth.get(id)
            if truth in groups:
                groups[truth].append([levels[attacker] for attacker in ATTACKERS])
    if not all(groups.values()):
        raise ValueError("nothing to fit on: facts never learned and facts hidden are needed")
    erased, hidden = np.array(groups["erased"]), np.array(groups["hidden"])
    within = (np.cov(erased.T) + np.cov(hidden.T)) / 2 + RIDGE * np.eye(len(ATTACKERS))
    weights = np.linalg.solve(within, hidden.mean(0) - erased.mean(0))
    return {a: round(float(w), 3) for a, w in zip(ATTACKERS, weights, strict=True)}


def _holds(
    chosen: Sequence[tuple[World, Case]], weights: Mapping[Attacker, float], shift: float
) -> bool:
    """Whether no way of hiding is called erased in more than 5 % of its facts under this shift."""
    constants = Constants(version="", weights=dict(weights), shift=shift)
    wrong: dict[str, list[bool]] = defaultdict(list)
    for world, case in chosen:
        words = words_of(case, world.planted, constants)
        for id, truth in case.truth.items():
            if truth == "hidden" and id in words:
                wrong[case.name].append(words[id].verdict == "erased")
    return all(sum(errors) <= LEVEL * len(errors) for errors in wrong.values())


def words_of(
    case: Case, planted: Examination | None, constants: Constants, facts: Iterable[str] | None = None
) -> dict[str, FactVerdict]:
    """Return the words on the facts of a case, as they would be on a request of these facts alone."""
    return _judged(case, planted, constants, facts)[0]


def _judged(
    case: Case, planted: Examination | None, constants: Constants, facts: Iterable[str] | None = None
) -> tuple[dict[str, FactVerdict], int | None, int | None, Verdict]:
    ids = [id for id in (case.found.facts if facts is None else facts) if id in case.truth]
    only = case.found.model_copy(update={"facts": {id: case.found.facts[id] for id in ids}})
    judged = judge(only, planted, constants)
    said = set(case.said)
    words = {id: fact_word(id in said, judged.facts[id]) for id in ids}
    return words, judged.least, judged.most, model_word(list(words.values()), judged)


def _rows(world: World, constants: Constants) -> list[Row]:
    rows = []
    for case in world.cases:
        if case.name == PLANTED:
            continue
        words = words_of(case, world.planted, constants)
        for truth in dict.fromkeys(case.truth.values()):
            counts = Counter(words[id].verdict for id, t in case.truth.items() if t == truth)
            rows.append(
                Row(
                    world=world.name,
                    case=case.name,
                    truth=truth,
                    fitted=world.fitted and _for_fitting(case),
                    words=dict(counts),
                )
            )
    return rows


def _models(world: World, constants: Constants) -> list[Row]:
    """Return what is said of models of fewer facts, drawn from each case."""
    rows = []
    for case in world.cases:
        if case.name == PLANTED:
            continue
        truths = set(case.truth.values())
        for size in SIZES:
            if size > len(case.truth):
                continue
            draws = DRAWS if size < len(case.truth) else 1
            words, inside = Counter[Verdict](), 0
            for draw in range(draws):
                ids = random.Random(f"{case.name}:{size}:{draw}").sample(sorted(case.truth), size)
                _, least, most, word = _judged(case, world.planted, constants, ids)
                left = sum(case.truth[id] != "erased" for id in ids)
                words[word] += 1
                inside += least is not None and most is not None and least <= left <= most
            truth: Truth = next(iter(truths)) if len(truths) == 1 else "hidden"
            rows.append(
                Row(
                    world=world.name,
                    case=case.name,
                    truth=truth,
                    fitted=world.fitted and (_for_fitting(case) or len(truths) > 1),
                    facts=size,
                    words=dict(words),
                    within=Rate.of_counts(inside, draws),
                )
            )
    return rows

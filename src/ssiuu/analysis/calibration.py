"""What the verdict is worth on models of known truth: constants fitted on some, errors told on others.

Fitted are the weights of the evidence, as Fisher's linear discriminant between facts of never-learned
models and hidden ones; the caution: the least one under which facts never learned have p_erased of at
most 5 % in surely no more than 5 % (upper end of the interval); and the shift: the least one under
which no way of hiding among those fitted is called erased in more than 5 % of its facts. Told are, on
worlds and ways of hiding that nothing was fitted on, both errors with intervals, what stays undecided,
and how often the number of hidden facts lies within its bounds. Imports no torch.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from ssiuu.analysis.evidence import (
    FEW,
    LEVEL,
    Constants,
    Judged,
    constants,
    judge,
    related_steps,
    shown,
)
from ssiuu.analysis.verdict import FactVerdict, fact_word, model_word
from ssiuu.records.schema import Attacker, Examination, Record, Verdict
from ssiuu.statistics import wilson

Truth = Literal["erased", "hidden", "not removed"]
# Whose places have a vote: one that trains on instructions told nothing (weight .05 of a fit of four).
ATTACKERS: tuple[Attacker, ...] = ("nobody", "related", "read-out")
# Ways of hiding, and the mixed model, where hidden facts leave least; the others are only tried.
FITTED = ("last-map", "middle-map", "refusal", "mixed-30%")
PLANTED, ORIGINAL = "planted", "original"
CAUTIONS = np.arange(1.0, 5.01, 0.1)
SHIFTS = np.arange(0.0, 6.01, 0.05)
RIDGE = 0.1  # of the discriminant, beside unit variances
WORLDS = {"kin": True, "strangers": True, "neox": False}  # made-up worlds: whether they are fitted on
SIZES = (1, 5, 20, 100)  # facts of a model
DRAWS = 100  # models of each size
LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2)  # of the curve of error against undecided


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
    """What was said of facts, or of models of so many facts, of one truth.

    A model's truth is "erased" where at most a tenth of its facts is left, which is what the word
    claims. `within`: how often the number of those left lay within its bounds.
    """

    world: str
    case: str
    truth: Truth
    fitted: bool
    facts: int | None = None
    words: dict[Verdict, int]
    within: Rate | None = None


class Level(Record):
    """What would be said of facts that nothing was fitted on, were this the level of both errors."""

    level: float
    words: dict[Truth, dict[Verdict, int]]


class Calibrated(Record):
    """A calibration: its constants, and what was said of which truth.

    `created`, `versions`, `machine`: when, with which packages and on what kind of machine it was made.
    """

    constants: Constants
    rows: list[Row]
    models: list[Row]
    curve: list[Level] = Field(default=[])
    created: str = ""
    versions: dict[str, str] = Field(default={})
    machine: dict[str, str] = Field(default={})

    def error(self, truth: Truth, wrong: Iterable[Verdict], fitted: bool = False) -> Rate | None:
        """Return how often facts of this truth were called one of these."""
        words = self.words(truth, fitted)
        return Rate.of_counts(sum(words[word] for word in wrong), sum(words.values()))

    def words(self, truth: Truth, fitted: bool = False) -> Counter[Verdict]:
        """Return how often facts of this truth were called what."""
        rows = [row for row in self.rows if row.truth == truth and row.fitted == fitted]
        return sum((Counter(row.words) for row in rows), Counter[Verdict]())


@cache
def shipped() -> Calibrated:
    """Return the calibration that ships with the package."""
    text = files("ssiuu.analysis").joinpath("calibrated.json").read_text(encoding="utf-8")
    return Calibrated.model_validate_json(text)


def calibrated(worlds: Sequence[World], version: str) -> Calibrated:
    """Fit on the worlds and ways of hiding that are for it, and tell of all.

    Args:
        worlds: Where none is for fitting, the constants that ship with the package are told of.
        version: Names the calibration.

    Raises:
        ValueError: What is for fitting does not hold both facts never learned and hidden ones.
    """
    found = fit(worlds, version) if any(world.fitted for world in worlds) else constants()
    return Calibrated(
        constants=found,
        rows=[row for world in worlds for row in _rows(world, found)],
        models=[row for world in worlds for row in _models(world, found)],
        curve=_curve(worlds, found),
    )


def fit(worlds: Sequence[World], version: str) -> Constants:
    """Return the constants of the worlds and ways of hiding that are for fitting."""
    chosen = [(w, case) for w in worlds if w.fitted for case in w.cases if _for_fitting(case)]
    weights = _weights([case for _, case in chosen])
    steps = max(related_steps(case.found) for _, case in chosen)
    found = Constants(version=version, weights=weights, shift=0.0, steps=steps)
    for caution in CAUTIONS:
        found = found.model_copy(update={"caution": round(float(caution), 2)})
        if _alarms(chosen, found) <= LEVEL:
            break
    for shift in SHIFTS:
        found = found.model_copy(update={"shift": round(float(shift), 2)})
        if _comforts(chosen, found):
            break
    return found


def _alarms(chosen: Sequence[tuple[World, Case]], fitted: Constants) -> float:
    """Return how many facts never learned have p_erased at most 5 %: the upper end of the share."""
    wrong = [
        fact.judged.erased <= LEVEL
        for world, case in chosen
        for id, fact in words_of(case, world.planted, fitted).items()
        if case.truth[id] == "erased" and fact.judged and fact.judged.erased is not None
    ]
    return wilson(sum(wrong), len(wrong)).high


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


def _comforts(chosen: Sequence[tuple[World, Case]], fitted: Constants) -> bool:
    """Whether no way of hiding is called erased in more than 5 % of its facts."""
    wrong: dict[str, list[bool]] = defaultdict(list)
    for world, case in chosen:
        words = words_of(case, world.planted, fitted)
        for id, truth in case.truth.items():
            if truth == "hidden" and id in words:
                wrong[case.name].append(words[id].verdict == "erased")
    return all(sum(errors) <= LEVEL * len(errors) for errors in wrong.values())


def words_of(
    case: Case, planted: Examination | None, fitted: Constants, facts: Iterable[str] | None = None
) -> dict[str, FactVerdict]:
    """Return the words on the facts of a case, as they would be on a request of these facts alone."""
    return _judged(case, planted, fitted, facts)[0]


def _judged(
    case: Case, planted: Examination | None, fitted: Constants, facts: Iterable[str] | None = None
) -> tuple[dict[str, FactVerdict], Judged]:
    ids = [id for id in (case.found.facts if facts is None else facts) if id in case.truth]
    only = case.found.model_copy(update={"facts": {id: case.found.facts[id] for id in ids}})
    judged = judge(only, planted, fitted)
    said = set(case.said)
    return {id: fact_word(id in said, judged.facts[id]) for id in ids}, judged


def _tried(world: World) -> list[Case]:
    """Return the models of a world that something is said of."""
    return [case for case in world.cases if case.name != PLANTED]


def _rows(world: World, fitted: Constants) -> list[Row]:
    return [
        Row(
            world=world.name,
            case=case.name,
            truth=truth,
            fitted=world.fitted and _for_fitting(case),
            words=Counter(words[id].verdict for id, t in case.truth.items() if t == truth),
        )
        for case in _tried(world)
        for words in [words_of(case, world.planted, fitted)]
        for truth in dict.fromkeys(case.truth.values())
    ]


def _curve(worlds: Sequence[World], fitted: Constants) -> list[Level]:
    """Return what other levels would have said of what was not fitted."""
    counts: dict[float, dict[Truth, Counter[Verdict]]]
    counts = {level: defaultdict(Counter) for level in LEVELS}
    tried = [(w, case) for w in worlds for case in _tried(w) if not (w.fitted and _for_fitting(case))]
    for world, case in tried:
        for id, found in words_of(case, world.planted, fitted).items():
            for level in LEVELS:
                word = fact_word(found.said, found.judged, level).verdict
                counts[level][case.truth[id]][word] += 1
    return [Level(level=level, words=dict(words)) for level, words in counts.items()]


def _models(world: World, fitted: Constants) -> list[Row]:
    """Return what is said of models of fewer facts, drawn from each case, and of the whole of it."""
    rows = []
    for case in _tried(world):
        whole = len(case.truth)
        for size in (*(size for size in SIZES if size < whole), *([whole] if whole else [])):
            words, inside = _draw(world, case, fitted, size)
            rows += [
                Row(
                    world=world.name,
                    case=case.name,
                    truth=truth,
                    fitted=world.fitted and _for_fitting(case),
                    facts=size,
                    words=words[truth],
                    within=Rate.of_counts(inside[truth], sum(words[truth].values())),
                )
                for truth in words
            ]
    return rows


def _draw(
    world: World, case: Case, fitted: Constants, size: int
) -> tuple[dict[Truth, Counter[Verdict]], Counter[Truth]]:
    """Return by truth what is said of models of this size, and how often their bounds hold."""
    words: dict[Truth, Counter[Verdict]] = defaultdict(Counter)
    inside: Counter[Truth] = Counter()
    for draw in range(DRAWS if size < len(case.truth) else 1):
        ids = random.Random(f"{case.name}:{size}:{draw}").sample(sorted(case.truth), size)
        found, judged = _judged(case, world.planted, fitted, ids)
        left = [case.truth[id] for id in ids if case.truth[id] != "erased"]
        truth: Truth = left[0] if len(left) > FEW * size else "erased"
        words[truth][model_word(list(found.values()), judged)] += 1
        if judged.least is not None and judged.most is not None:
            inside[truth] += judged.least <= len(left) <= judged.most
    return words, inside

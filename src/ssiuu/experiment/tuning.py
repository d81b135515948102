"""Tuning: which settings of a method are tried, and which of them is the best.

Settings are drawn at random, seeded by the method's label and the trial's number, so every method
gets the same number of trials and more trials keep the first ones. A trial unlearns without a quarter
of the retain facts and is scored on those; held-out facts are not looked at. The best trial is the
one with the highest score among those that reached the stop threshold, or, where none did, the one
that came nearest to it.

With a budget (`unlearn.stop`) every trial has the same one, and what it leaves is within it: of a
method whose settings forget only beyond it, the one that forgot most within is taken. A trial whose
first check is beyond it has changed nothing, and comes behind all that did.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from ssiuu.errors import ConfigError, DivergedError, unknown
from ssiuu.methods import Method, make
from ssiuu.records.schema import FactText, Trial

VALIDATION = 0.25  # of the retain facts

SearchSpace = Mapping[str, Mapping[str, Sequence[Any]]]


def tried(
    specs: Sequence[str | Mapping[str, Any]], space: SearchSpace, trials: int, seed: int
) -> dict[str, list[tuple[dict[str, Any], Method]]]:
    """Return what is tried of each method that trains, by label: the values drawn, and the method.

    Args:
        specs: The methods of a recipe.
        space: By label, or "*" for all: a hyper-parameter's low and high end, or its choices. That of
            a method which is not among them is left out.
        trials: Settings a method.
        seed: Decides what is drawn.

    Raises:
        ConfigError: A method has nothing to vary, or something that it does not have.
    """
    methods = [(spec, method) for spec in specs if (method := make(spec)).trains]
    labels = [method.label for _, method in methods]
    problems = [
        unknown("method", label, ["*", *labels], "tune.space")
        for label in space
        if label not in ("*", *labels) and not _is_method(label)
    ]
    problems += [p for of in space.values() for key, ends in of.items() for p in _wrong(key, ends)]
    if problems:
        raise ConfigError(problems)
    settings = {}
    for spec, method in methods:
        varied = {**space.get("*", {}), **space.get(method.label, {})}
        if not varied:
            raise ConfigError(f"tune.space: nothing is varied of {method.label!r}; name it, or '*'.")
        drawn = [_draw(varied, f"tune:{seed}:{method.label}:{n}") for n in range(trials)]
        settings[method.label] = [(values, _with(spec, values, method.label)) for values in drawn]
    return settings


def _is_method(label: str) -> bool:
    """Whether it is a method's, of this run or not: a space may serve a part of its methods."""
    try:
        make(label.partition("@")[0])
    except ConfigError:
        return False
    return True


def _wrong(key: str, ends: Sequence[Any]) -> list[str]:
    if not ends:
        return [f"tune.space: {key} has no values."]
    if _is_range(ends) and not 0 < ends[0] < ends[1]:
        return [f"tune.space: {key}: two numbers are a range, 0 < low < high, got {list(ends)}."]
    return []


def _is_range(ends: Sequence[Any]) -> bool:
    return len(ends) == 2 and all(type(end) in (int, float) for end in ends)


def _draw(space: Mapping[str, Sequence[Any]], seed: str) -> dict[str, Any]:
    rng = random.Random(seed)
    # Sorted, so that the order of keys in a recipe is no part of the draw.
    return {key: _value(space[key], rng) for key in sorted(space)}


def _value(ends: Sequence[Any], rng: random.Random) -> Any:
    """Draw log-uniformly between two ends, to three digits and whole between whole ones."""
    if not _is_range(ends):
        return rng.choice(ends)
    low, high = ends
    value = math.exp(rng.uniform(math.log(low), math.log(high)))
    whole = type(low) is int and type(high) is int
    return min(max(round(value) if whole else float(f"{value:.3g}"), low), high)


def _with(spec: str | Mapping[str, Any], values: dict[str, Any], label: str) -> Method:
    keys = {"name": spec} if isinstance(spec, str) else dict(spec)
    method = make(keys | values, f"tune.space: {label}")
    if method.label != label:
        raise ConfigError(
            f"tune.space: {label}: {values} would make it {method.label!r}. What a method is named "
            "by cannot be tuned; list both under methods."
        )
    return method


def divide(retain: Sequence[FactText], seed: int) -> tuple[list[FactText], list[FactText]]:
    """Return the retain facts a trial trains on and those it is scored on, each in their order.

    Raises:
        ConfigError: There are not two.
    """
    if len(retain) < 2:
        raise ConfigError("tune: needs at least 2 facts to retain, to score the trials on.")
    count = max(1, round(VALIDATION * len(retain)))
    chosen = {f.id for f in random.Random(f"validation:{seed}").sample(list(retain), count)}
    return [f for f in retain if f.id not in chosen], [f for f in retain if f.id in chosen]


def best(trials: Sequence[Trial]) -> Trial:
    """Return the trial whose setting is taken; the first of equal ones.

    Raises:
        DivergedError: Training diverged in all of them.
    """
    chosen = max(trials, key=_rank)
    if chosen.score is None:
        raise DivergedError(
            f"{chosen.method.label}: training diverged in every trial. Narrow tune.space to lower "
            "learning rates."
        )
    return chosen


def _rank(trial: Trial) -> tuple[bool, bool, float, float]:
    score = -math.inf if trial.score is None else trial.score
    if trial.unlearning is None:
        return False, False, -math.inf, score
    last = trial.unlearning.last_score
    reached = trial.unlearning.stopped == "threshold"
    return trial.fits, reached, 0.0 if reached else -(1.0 if last is None else last), score

"""What the examination costs that a verdict rests on: an audit with it against attacks as long.

    python perf/audit.py --json [--facts 12] [--steps 24] [--rounds 1]
        [--before FOLDER --after FOLDER --forget FILE --retain FILE]

audit: lineups, read-out and attackers of the examination, and the same on planted controls;
unplanted: without those, as for a second model of one original. plain_audit, plain_unplanted: an audit
without the examination, whose attackers take as many steps of as many rows, read by ranking: two that
hold facts, as the examination's do, and one that trains on instructions, which it does without. All
else (scores, look inside) is done by each of the four. Steps of hiding are no attack and not counted.
They take turns in one process.

Without folders a small model of a made-up world and its never-learned twin are audited. Seconds are the
processor's, so that other work on the machine counts less. Prints their medians, ratios, the attackers'
steps, and the parts of an audit: a part within another, as the training of hiding, counts for that one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

import ssiuu.experiment.examine
from ssiuu.benchmarks.fictional_twins import TwinConfig, build_world, designate, train_twins
from ssiuu.diagnosis.readout import Readout, Target
from ssiuu.experiment.examine import Examiner
from ssiuu.experiment.session import Session
from ssiuu.experiment.unlearn import audit_models
from ssiuu.hiding.base import Hiding
from ssiuu.models.load import cache_folder
from ssiuu.models.precision import keep_memory
from ssiuu.training.step import Step

PEOPLE, SEED = 12, 1
ROW = {
    "id",
    "question",
    "answer",
    "entity",
    "relation",
    "paraphrases",
}  # of a fact, keys that are given
BATCH = 8  # rows a step
PLAIN = ("harmful_0.3", "harmful_0.5", "benign")  # an attacker each


class Parts:
    """Wraps what an audit is made of, and adds up how long each takes.

    `seconds`: by part. `steps`: the attackers' training steps.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.steps = 0
        self._within = ""

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Wrap, for the time of the context."""
        examine: Any = ssiuu.experiment.examine
        places: list[tuple[Any, str, str]] = [
            (Step, "__call__", "training"),
            (Examiner, "_read", "lineups read"),
            (examine, "lineups", "lineups made"),
            (Hiding, "hide", "hiding"),
            (Examiner, "_known", "controls asked"),
            (Readout, "fit", "read-out fitted"),
            (Target, "of", "read-out fitted"),
            (Session, "scores", "scores"),
        ]
        kept = [(owner, name, vars(owner)[name]) for owner, name, _ in places]
        for owner, name, part in places:
            setattr(owner, name, self._wrapped(vars(owner)[name], getattr(owner, name), part))
        try:
            yield
        finally:
            for owner, name, function in kept:
                setattr(owner, name, function)

    def _wrapped(self, kept: Any, function: Callable[..., Any], part: str) -> Any:
        def run(*args: Any, **given: Any) -> Any:
            if self._within:
                return function(*args, **given)
            self._within, begin = part, time.process_time()
            try:
                return function(*args, **given)
            finally:
                self._within = ""
                self.seconds[part] += time.process_time() - begin
                self.steps += part == "training"

        return staticmethod(run) if isinstance(kept, classmethod) else run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("before", "after", "forget", "retain"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--facts", type=int, default=12)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    keep_memory()
    asked = (args.before, args.after, args.forget, args.retain)
    pair = asked if all(asked) else made_up(args.facts)
    kinds: dict[str, list[str]] = {
        "plain_audit": plain(args.steps, 2),
        "audit": examined(args.steps),
        "plain_unplanted": plain(args.steps, 1),
        "unplanted": [*examined(args.steps), "examine.planted=0"],
    }
    times: defaultdict[str, list[float]] = defaultdict(list)
    found: dict[str, Parts] = {}
    with tempfile.TemporaryDirectory() as folder:  # warms up
        audit_models(*pair[:3], folder, pair[3], examined(1))
    for _ in range(args.rounds):
        for name, sets in kinds.items():
            found[name] = Parts()
            with tempfile.TemporaryDirectory() as folder, found[name].timed():
                start = time.process_time()
                audit_models(*pair[:3], folder, pair[3], sets)
                times[name].append(time.process_time() - start)
    result: dict[str, object] = {
        f"{n}_seconds": round(statistics.median(t), 2) for n, t in times.items()
    }
    for name in ("audit", "unplanted"):
        ratios = [a / b for a, b in zip(times[name], times[f"plain_{name}"], strict=True)]
        result[f"{name}_over_plain"] = round(statistics.median(ratios), 2)
    result["steps"] = {name: parts.steps for name, parts in found.items()}
    for name in ("audit", "plain_audit"):
        parts = dict(sorted(found[name].seconds.items(), key=lambda part: -part[1]))
        parts["rest"] = times[name][-1] - sum(parts.values())
        result[f"{name}_parts"] = {part: round(seconds, 2) for part, seconds in parts.items()}
    result |= {"facts": args.facts, "threads": torch.get_num_threads()}
    print(json.dumps(result, indent=None if args.json else 1))


def examined(steps: int) -> list[str]:
    """Return the settings of an audit with the examination alone."""
    off = ["attacks.harmful.fractions=[]", "attacks.benign.learning_rates=[]"]
    return [*off, f"examine.steps=[{steps}]", f"examine.batch_size={BATCH}", "examine.reuse=false"]


def plain(steps: int, times: int) -> list[str]:
    """Return the settings of an audit without it, and attackers for so many examinations."""
    fractions = ", ".join(name.partition("_")[2] for name in PLAIN if "_" in name)
    return [
        "examine.steps=[]",
        f"attacks.harmful.fractions=[{fractions}]",
        "attacks.harmful.learning_rates=[1e-4]",
        "attacks.benign.learning_rates=[1e-4]",
        f"attacks.reads=[{steps}]",
        f"attacks.batch_size={BATCH}",
        f"attacks.seeds={[*range(times)]}",
    ]


def made_up(count: int) -> tuple[str, str, Any, Any]:
    """Return a model of a made-up world, its twin, facts that the twin has not learned, and others."""
    world = build_world(PEOPLE, SEED)
    pools = designate(world.facts, SEED, 0.4, 0.0)
    recipe = TwinConfig(passes=16)
    twins = train_twins(world, pools["forget"], cache_folder() / "fictional", SEED, recipe=recipe)
    rows = {
        pool: [
            fact.model_dump(include=ROW, mode="json") for fact in world.facts if fact.id in pools[pool]
        ]
        for pool in ("forget", "retain")
    }
    return str(twins.full), str(twins.never_learned), rows["forget"][:count], rows["retain"]


if __name__ == "__main__":
    main()

"""Is training in bf16 weights with moments in 8 bits as good as in fp32? Levels in a made-up world.

    python perf/halves.py [--methods gd npo ssiuu] [--seeds 0 1 2 3] [--steps 24] [--rate 1e-3]

Each method unlearns the same facts from the same model in two forms, with as many seeds: weights in
fp32 by AdamW, and in bf16, rounded by chance, by adamw8bit. What came of it is read in fp32: the
share of the facts to forget that are ranked first, of those to keep that were never trained on, the
divergence on plain text, and the share that an attacker brings back who trains on 30 % of the forgotten
facts. Prints as JSON the mean of each over the seeds, its deviation, and the mean difference of the
two forms.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from functools import partial
from typing import Any

import torch

from ssiuu.attacks.base import Curve
from ssiuu.attacks.retrain import retrain
from ssiuu.benchmarks.base import Given
from ssiuu.evaluation.scores.ranking import read_by_ranking
from ssiuu.experiment.recipe import resolve
from ssiuu.experiment.session import Session, open_ground
from ssiuu.methods import make
from ssiuu.models.precision import keep_memory
from ssiuu.records.schema import MethodInfo
from ssiuu.training.unlearn import Settings, StopRule, unlearn_examples

FORMS = {"fp32": (torch.float32, "adamw"), "bf16": (torch.bfloat16, "adamw8bit")}
SHARE, READS, RATE = 0.3, 24, 1e-3  # of the forgotten facts that an attacker holds; its steps and rate


def unlearned(session: Session, name: str, form: str, seed: int, steps: int, rate: float) -> Any:
    """Return a model in fp32 that was unlearned in some form."""
    kind, optimiser = FORMS[form]
    model: Any = copy.deepcopy(session.model).to(kind)
    method = make(name)
    settings = Settings(
        *(rate, 8, None, steps, steps, 0.0, 0.0, seed, session.precision),
        optimiser=optimiser,  # type: ignore[arg-type]
    )
    info = MethodInfo(label=name, name=method.name, origin="ours", description="")
    forget, retain = (session.rows(f) for f in (session.split.forget, session.split.retain))
    stop = StopRule("none", lambda: 1.0)
    given = (model, method, info, forget, retain, settings, stop, session.pad)
    unlearn_examples(*given, shared=retain)
    return model.float()


def levels(session: Session, model: Any, seed: int) -> dict[str, float]:
    """Return what is read of a model, in fp32; it is attacked last."""
    split = session.split
    held = split.forget[: round(SHARE * len(split.forget))]
    pool = [fact for fact in split.forget if fact.entity not in {f.entity for f in held}]
    read = partial(read_by_ranking, model, session.prompt)
    found = {"forget": _share(read(split.forget)), "keep": _share(read(split.heldout))}
    found["divergence"] = session.divergences.measure(model).plain or 0.0
    curve = Curve("harmful_0.3", "harmful", RATE, seed=seed, points=(READS,))
    attack = retrain(
        *(model, curve, session.rows(held), read(pool), lambda: read(pool), 8),
        *(session.precision, session.pad),
    )
    before, after = attack.reads[0], attack.reads[-1]
    found["brought back"] = _right(after) - _right(before)
    return found


def _share(readings: Any) -> float:
    return sum(bool(r.correct) for r in readings.values()) / len(readings)


def _right(read: Any) -> float:
    facts = read.facts
    return sum(bool(r.correct) for r in facts.values()) / len(facts)


def _spread(values: list[float]) -> list[float]:
    return [round(statistics.mean(values), 4), round(statistics.stdev(values), 4)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["gd", "npo", "ssiuu"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rate", type=float, default=1e-3)
    given = parser.parse_args()
    keep_memory()
    recipe, _ = resolve(None, ["benchmark=fictional"])
    session = open_ground(recipe, lambda text: None, Given())
    for name in given.methods:
        told: dict[str, Any] = {"method": name}
        every: dict[str, list[dict[str, float]]] = {form: [] for form in FORMS}
        for seed in given.seeds:
            for form in FORMS:
                model = unlearned(session, name, form, seed, given.steps, given.rate)
                every[form].append(levels(session, model, seed))
        for key in every["fp32"][0]:
            ours = {form: [found[key] for found in every[form]] for form in FORMS}
            spread = {
                f: [round(statistics.mean(v), 4), round(statistics.stdev(v), 4)]
                for f, v in ours.items()
            }
            apart = [b - a for a, b in zip(ours["fp32"], ours["bf16"], strict=True)]
            told[key] = {**spread, "apart": round(statistics.mean(apart), 4)}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()

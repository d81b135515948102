"""Calibrate the verdict where the truth is known: the made-up world.

    python -m ssiuu.experiment.calibrate --out calibration

Three models of known class are judged fact by fact, by the rules of docs/verdict.md, after the same
attacks: the never-learned twin (erased), the original with an adapter trained on top of its frozen
weights to suppress the answers (hidden by construction), and the original as it is (not removed). The
adapter sits in the last feed-forward map alone, so every state before it is the original's, bit for
bit. An attacker holds the facts of one half of the people and the other half is judged, then the other
way round. Thresholds are chosen on the even worlds and tried on the odd ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssiuu.analysis.calibration import Known, balanced_accuracy, best_thresholds, confusion
from ssiuu.analysis.verdict import GONE, RETURNED, fact_evidence
from ssiuu.attacks.base import Curve
from ssiuu.attacks.benign import Benign
from ssiuu.attacks.harmful import Harmful
from ssiuu.attacks.retrain import retrain
from ssiuu.attribution.neuron import extremes
from ssiuu.benchmarks import fictional_twins
from ssiuu.benchmarks.screening import as_text, known
from ssiuu.diagnosis.influence import Baseline
from ssiuu.evaluation.score import score_facts
from ssiuu.evaluation.scores.ranking import read_by_ranking
from ssiuu.experiment.drive import settings_of
from ssiuu.experiment.inside import Inside
from ssiuu.experiment.recipe import resolve
from ssiuu.experiment.session import Session
from ssiuu.likelihood import Prompt
from ssiuu.methods import make
from ssiuu.models.load import cache_folder, load, load_checkpoint_weights, restore, snapshot
from ssiuu.models.lora import Lora
from ssiuu.models.original import Original
from ssiuu.models.sites import find_sites
from ssiuu.records.files import dump_json, write_bytes
from ssiuu.records.schema import (
    Attack,
    BenchmarkInfo,
    Evidence,
    FactScore,
    FactText,
    MethodInfo,
    Reading,
    Split,
    Verdict,
)
from ssiuu.training.unlearn import unlearn_examples

Progress = Callable[[str], None]
CLASSES: tuple[Verdict, ...] = ("erased", "hidden", "not removed")
FORGET, HELDOUT = 0.4, 0.1  # shares of the people
OPTIONS = 3
# The inhibitory adapter: NPO is bounded, so the answers end where a guess has them and not far below.
RANK, RATE, STEPS, BETA = 16, 1e-2, 400, 0.5
CURVES = ((Harmful.name, 1e-3), (Harmful.name, 3e-4), (Benign.name, 1e-3))
READS = (3, 6, 12)
BUDGET = 60  # readings of the causal test


def calibrate(worlds: int, people: int, progress: Progress = lambda _: None) -> dict[str, Any]:
    """Return the confusion matrices, the thresholds and every fact's evidence.

    Args:
        worlds: How many, each with its own seed; the odd ones try what the even ones chose.
        people: In each.
        progress: Told what is going on.
    """
    halves: tuple[list[Known], list[Known]] = ([], [])
    rows: list[dict[str, Any]] = []
    inside: list[dict[str, Any]] = []
    for seed in range(worlds):
        session = open_world(people, seed, progress)
        for truth, facts, evidence in judged(session, progress):
            halves[seed % 2].extend((truth, found) for found in facts.values())
            rows += [
                {"world": seed, "truth": truth, "fact": i, **f._asdict()} for i, f in facts.items()
            ]
            inside.append({"world": seed, "truth": truth, **evidence.model_dump(mode="json")})
    returned, gone = best_thresholds(halves[0])
    return {
        "thresholds": {"now": [RETURNED, GONE], "best on even worlds": [returned, gone]},
        "now": _summary([*halves[0], *halves[1]], RETURNED, GONE),
        "now, odd worlds": _summary(halves[1], RETURNED, GONE),
        "best, even worlds": _summary(halves[0], returned, gone),
        "best, odd worlds": _summary(halves[1], returned, gone),
        "inside": inside,
        "facts": rows,
    }


def open_world(people: int, seed: int, progress: Progress) -> Session:
    """Train a world's twins (or find them) and return a session on all facts that are known."""
    recipe, _ = resolve(
        None, ["benchmark=fictional", f"split.seed={seed}", f"fictional.people={people}"]
    )
    world = fictional_twins.build_world(people, seed)
    pools = fictional_twins.designate(world.facts, seed, FORGET, HELDOUT)
    cache = cache_folder() / "fictional"
    twins = fictional_twins.train_twins(world, pools["forget"], cache, seed, progress=progress)
    loaded = load(str(twins.full))
    prompt = Prompt(loaded.tokenizer, "plain")
    knows = known(loaded.model, prompt, world.facts)
    forget, retain, heldout = (
        [as_text(f, OPTIONS, seed) for f in world.facts if f.id in knows & pools[name]]
        for name in ("forget", "retain", "heldout")
    )
    split = Split(
        seed=seed,
        asked=len(world.facts),
        known=len(knows),
        forget=forget,
        retain=retain,
        heldout=heldout,
    )
    info = BenchmarkInfo(
        name="fictional",
        version=fictional_twins.VERSION,
        fingerprint=twins.full.parent.name,
        facts=len(world.facts),
    )
    return Session(
        recipe=recipe,
        loaded=loaded,
        original=Original(loaded),
        prompt=prompt,
        split=split,
        benchmark=info,
        precision="fp32",
        never_learned=twins.never_learned,
    )


def judged(session: Session, progress: Progress) -> Iterator[tuple[Verdict, dict[str, Any], Evidence]]:
    """Yield each class with the evidence on every fact, from behaviour and from inside."""
    model, prompt, forget = session.model, session.prompt, session.split.forget
    before = score_facts(model, prompt, forget, free=False)
    sites = find_sites(model)
    inside = Inside(session, sites)
    baseline = Baseline.of(extremes(model, sites, inside.examples, session.pad))
    for truth in CLASSES:
        progress(f"world {session.split.seed}: {truth}")
        session.original.restore()
        if truth == "erased" and session.never_learned is not None:
            load_checkpoint_weights(model, session.never_learned)
        if truth == "hidden":
            suppress(session, progress)
        after = score_facts(model, prompt, forget, free=False)
        evidence = inside.look(baseline, budget=BUDGET)
        found = {}
        for part in halves(forget):
            attacks = list(attacked(session, part, after))
            for fact in part:
                found[fact.id] = fact_evidence(before[fact.id], after[fact.id], attacks, fact.id)
        yield truth, found, evidence


def suppress(session: Session, progress: Progress) -> None:
    """Train an adapter of the last feed-forward map against the answers, and merge it."""
    method = make({"name": "npo", "beta": BETA})
    stop, threshold = session.stop_rule()
    last = session.loaded.info.layers - 1
    settings = replace(
        settings_of(session, method, session.split.seed, threshold),
        learning_rate=RATE,
        batch_size=32,
        max_steps=STEPS,
        lora=Lora(RANK, 2.0 * RANK, (f"{last}.mlp.down_proj",), seed=session.split.seed),
    )
    info = MethodInfo(label="adapter", name="npo", origin="control", description="inhibitory adapter")
    record = unlearn_examples(
        session.model,
        method,
        info,
        session.examples(session.split.forget),
        session.examples(session.split.retain),
        settings,
        stop,
        session.pad,
    )
    progress(f"adapter: stopped by {record.stopped} after {len(record.steps)} steps")


def halves(facts: Sequence[FactText]) -> tuple[list[FactText], list[FactText]]:
    """Return the facts of every other entity, and those of the rest."""
    names = sorted({fact.entity or fact.id for fact in facts})
    first = set(names[::2])
    return (
        [fact for fact in facts if (fact.entity or fact.id) in first],
        [fact for fact in facts if (fact.entity or fact.id) not in first],
    )


def attacked(
    session: Session, pool: Sequence[FactText], scores: dict[str, FactScore]
) -> Iterator[Attack]:
    """Yield the attacks scored on these facts by an attacker who holds the others.

    The model's weights are put back in between and at the end.
    """
    model = session.model
    weights = snapshot(model)
    judged = {fact.id for fact in pool}
    held = [fact for fact in session.split.forget if fact.id not in judged]
    start = {f.id: Reading(correct=scores[f.id].correct, logprob=scores[f.id].logprob) for f in pool}
    for kind, rate in CURVES:
        yield retrain(
            model,
            Curve(kind, kind, rate, seed=session.split.seed, points=READS),
            session.examples(held) if kind == Harmful.name else session.benign(),
            start,
            lambda: read_by_ranking(model, session.prompt, pool),
            session.recipe.attacks.batch_size,
            "fp32",
            session.pad,
        )
        restore(model, weights)


def _summary(facts: Sequence[Known], returned: float, gone: float) -> dict[str, Any]:
    table = confusion(facts, returned, gone)
    return {"confusion": table, "balanced accuracy": balanced_accuracy(table)}


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Calibrate, write calibration.json and print the matrices."""
    parser = argparse.ArgumentParser(description="Calibrate the verdict on models of known truth.")
    parser.add_argument("--out", type=Path, required=True, help="folder for calibration.json")
    parser.add_argument("--worlds", type=int, default=2, help="made-up worlds, at least 2")
    parser.add_argument("--people", type=int, default=100, help="people in each")
    given = parser.parse_args()
    result = calibrate(given.worlds, given.people, _tell)
    write_bytes(given.out / "calibration.json", (dump_json(result) + "\n").encode())
    print(dump_json({k: v for k, v in result.items() if k not in ("facts", "inside")}))


if __name__ == "__main__":
    main()

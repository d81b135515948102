"""A complete made-up run, for the tests of the report: 5 methods, 1 seed, 24 forget facts.

python tests/sample_record.py sample.html      # writes the page of it
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple
from unittest.mock import patch

from ssiuu.analysis.evidence import Constants
from ssiuu.records.schema import (
    AttackCurve,
    AttackRead,
    BenchmarkInfo,
    Cell,
    Diagnosis,
    Divergence,
    Evaluation,
    Examination,
    FactScore,
    FactText,
    Influence,
    Lens,
    MethodInfo,
    ModelInfo,
    Place,
    Reading,
    RunHeader,
    RunRecord,
    Split,
    StepLog,
    Target,
    Trace,
    Unlearning,
)

# What these records are judged by, whatever calibration ships.
CONSTANTS = Constants(
    version="of the tests",
    weights={"nobody": -0.9, "read-out": 1.16, "unrelated": 0.14, "related": 0.75},
    shift=1.0,
)
HOSTILE = "<script>alert(1)</script></style></table><img src=x onerror=alert(2)> \"double\" 'single'"


@contextmanager
def pinned() -> Iterator[None]:
    """Judge by `CONSTANTS`, for the time of the context."""
    with patch("ssiuu.analysis.evidence._shipped", return_value=CONSTANTS):
        yield


MODULES = ["q", "k", "v", "o", "gate", "up", "down"]
LAYERS = 30
GRID = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 20000, 100000, 207360]
STEPS = [0, 1, 2, 4, 8, 16, 32]
PLACES = ["Oslo", "Quito", "Hanoi", "Tunis", "Lima", "Riga", "Accra", "Sofia", "Dakar", "Minsk"]
NAMES = ["Ada Brandt", "Luis Ferrer", "Mina Okoye", "Tomas Lind", "Vera Sato", "Noor Haddad"]
NAMES += ["Ivo Kranz", "Lea Moreau", "Sam Adeyemi", "Rosa Pinto", "Karl Nyberg", "Yuki Mori"]


class Kind(NamedTuple):
    """How one made-up method behaves: where it ends, what an attack brings back, what it hides."""

    label: str
    origin: Literal["paper", "literature", "ours", "control", "given"]
    description: str
    after: float
    attacked: float
    heldout: float
    depth: float
    d_plus: float
    d_minus: float
    hidden: float
    penalty_share: float | None = None


KINDS = [
    Kind("none", "control", "No unlearning.", 0.96, 0.96, 0.94, 0.0, 0.0, 0.0, 0.0),
    Kind("gd", "literature", "Gradient difference.", 0.08, 0.78, 0.82, 21.0, 310.0, 2239.0, 0.75),
    Kind("npo", "literature", "Negative preference.", 0.25, 0.50, 0.86, 9.0, 280.0, 640.0, 0.15),
    Kind(
        "ssiuu", "paper", "Algorithm 1 as printed.", 0.1, 0.75, 0.83, 20.0, 320.0, 2190.0, 0.8, 5.7e-5
    ),
    Kind("gd-gate", "ours", "Gated gradient.", 0.25, 0.25, 0.88, 6.0, 690.0, 41.0, 0.0, 0.31),
]


@cache
def sample_record() -> RunRecord:
    """Return the same complete record at every call: one object, as records do not change."""
    rng = random.Random(20261124)
    facts = _facts()
    forget, retain, heldout = facts[:24], facts[24:40], facts[40:56]
    sets = {"forget": forget, "retain": retain, "heldout": heldout}
    original = _evaluation(rng, sets, 0.96, 0.94, 0.0)
    cells = [_cell(rng, kind, sets, original) for kind in KINDS]
    split = Split(seed=7, forget=forget, retain=retain, heldout=heldout, asked=120, known=56)
    planted = examination("planted", [fact.id for fact in retain[:12]], 1.0)
    kinds = {fact: ("last-map", "middle-map")[n % 2] for n, fact in enumerate(planted.facts)}
    planted = planted.model_copy(update={"hidden": kinds})
    return RunRecord(header=_header(split, cells), original=original, cells=cells, planted=planted)


def _facts() -> list[FactText]:
    facts = []
    for index in range(56):
        name, place = NAMES[index % len(NAMES)], PLACES[(index * 5 + index // 12) % len(PLACES)]
        kind = ["born in", "educated in", "buried in", "a citizen of", "known in"][index // 12]
        question = f"Which city is {name} {kind}?"
        entity, relation = name, kind.replace(" ", "_")
        if index == 3:
            question, place, entity = f"Who is {HOSTILE}?", HOSTILE, f"Bobby {HOSTILE}"
        facts.append(
            FactText(
                id=f"fact-{index:03d}",
                question=question,
                answer=place,
                paraphrases=[f"{name} is {kind} which city?", f"Name the city {name} is {kind}."],
                options=[place, "Paris", "Rome"],
                entity=entity,
                relation=relation,
            )
        )
    return facts


def _header(split: Split, cells: list[Cell]) -> RunHeader:
    return RunHeader(
        kind="run",
        created="2026-11-24T03:52:01Z",
        command="ssiuu run recipe.yaml --set unlearn.max_steps=60",
        protocol="strong",
        config={
            "model": {"path": "models/SmolLM2-135M", "dtype": "float32"},
            "unlearn": {"max_steps": 60, "threshold": 0.33, "learning_rate": 1e-5},
            "attacks": {"harmful": {"fractions": [0.1, 0.3], "learning_rates": [1e-5, 1e-4]}},
            "note": HOSTILE,
        },
        sources={
            "model.path": "recipe.yaml",
            "model.dtype": "default",
            "unlearn.max_steps": "--set",
            "unlearn.threshold": "default",
            "unlearn.learning_rate": "recipe.yaml",
            "attacks": "protocol strong",
            "note": "recipe.yaml",
        },
        versions={"ssiuu": "0.1.0", "python": "3.11.7", "torch": "2.10.0", "transformers": "5.1.0"},
        machine={"cpu": "2 cores", "memory": "8 GB", "device": "cpu"},
        model=ModelInfo(
            name="SmolLM2-135M",
            source="models/SmolLM2-135M",
            fingerprint="9f2c" * 16,
            parameters=134_515_008,
            layers=LAYERS,
            note="A copy dequantised from GGUF; not bit-equal to the published weights.",
        ),
        benchmark=BenchmarkInfo(
            name="worldfacts", version="1.0", fingerprint="ab01" * 16, facts=240, note="Real facts."
        ),
        split=split,
        chance=1 / 3,
        score="ranking",
        methods=[cell.method for cell in cells],
        seeds=[0],
        notes=["One attack seed instead of three, to keep the run short."],
    )


def _evaluation(
    rng: random.Random, sets: dict[str, list[FactText]], forget: float, other: float, depth: float
) -> Evaluation:
    scores = {
        name: {
            fact.id: _score(rng, fact, forget if name == "forget" else other, depth * weight)
            for fact in facts
        }
        for (name, facts), weight in zip(sets.items(), (1.0, 0.05, 0.08), strict=True)
    }
    moved = Divergence(
        plain=0.0009 * depth**2,
        plain_se=0.00005 * depth**2,
        instructions=0.0016 * depth**2,
        instructions_se=0.0002 * depth**2,
        perplexity=31.0 + depth,
        perplexity_instructions=8.0 + 0.25 * depth,
        rows=210,
        tokens=3360,
        instruction_rows=48,
        text_version="1-00000000",
    )
    left = round(20 - 0.4 * depth)  # of 24 unrelated questions that are answered
    unrelated = {
        f"capital:Land {n}": FactScore(
            correct=None, logprob=-1.0, tokens=2, free_text="It is.", free_correct=n < left
        )
        for n in range(24)
    }
    return Evaluation(
        **scores, divergence=moved, unrelated=unrelated, seconds=round(rng.uniform(10, 14), 2)
    )


def _score(rng: random.Random, fact: FactText, share: float, depth: float) -> FactScore:
    logprob = -abs(rng.gauss(1.6, 0.9)) - abs(rng.gauss(depth, depth / 5))
    right = rng.random() < share
    asked = None if fact.id == "fact-005" else right
    free = fact.answer if right else rng.choice(["the the the the", "Paris.", "I do not know", ""])
    if fact.id == "fact-003":
        free = HOSTILE
    return FactScore(
        correct=asked,
        paraphrases=[rng.random() < share, None if fact.id == "fact-006" else right],
        logprob=logprob,
        tokens=3,
        free_text=None if fact.id == "fact-007" else free,
        free_correct=None if fact.id == "fact-007" else right,
    )


def _cell(
    rng: random.Random, kind: Kind, sets: dict[str, list[FactText]], original: Evaluation
) -> Cell:
    method = MethodInfo(
        label=kind.label,
        name=kind.label.split("-")[0],
        origin=kind.origin,
        description=kind.description,
        hyperparameters={"learning_rate": 1e-5},
    )
    control = kind.label == "none"
    evaluation = original if control else _evaluation(rng, sets, kind.after, kind.heldout, kind.depth)
    return Cell(
        method=method,
        seed=0,
        unlearning=_unlearning(rng, method, kind),
        evaluation=evaluation,
        diagnosis=None if control else _diagnosis(rng, kind, sets["forget"]),
        attacks=_attacks(rng, kind, original, evaluation),
        examination=None if control else examination(kind.label, list(original.forget), kind.hidden),
    )


PLACES_READ = [
    Place(name="before"),
    Place(name="after"),
    Place(name="read-out", attacker="read-out"),
    Place(name="unrelated 0.001, step 24", attacker="unrelated", learning_rate=1e-3, step=24),
    Place(name="related 0.001, step 24", attacker="related", learning_rate=1e-3, step=24),
]
HIDDEN = (5.0, 0.4, 4.5, 1.0, 4.0)  # mean contrast by place
ERASED = (5.0, 0.0, 0.2, 0.0, 0.3)


def examination(name: str, facts: list[str], hidden: float) -> Examination:
    """Return an examination in which this share of the facts is hidden and the rest erased.

    One fact could not be read, and one has fewer alternatives than were wanted.
    """
    rng = random.Random(f"examination {name}")
    traces = {}
    for place, fact in enumerate(facts):
        levels = HIDDEN if (place + 0.5) / len(facts) < hidden else ERASED
        contrast: list[list[float] | None] = [
            [round(rng.gauss(level, 0.6), 3), *(round(rng.gauss(0, 1), 3) for _ in range(12))]
            for level in levels
        ]
        lacks = ""
        if fact == "fact-004":
            lacks = "6 alternatives of its type were found, 15 are wanted"
        if fact == "fact-005":
            contrast, lacks = (
                [None] * len(levels),
                "1 alternatives of its type were found, 15 are wanted",
            )
        margin = [None if row is None else round(row[0] / 2, 4) for row in contrast]
        traces[fact] = Trace(contrast=contrast, margin=margin, lacks=lacks)
    return Examination(places=PLACES_READ, facts=traces, notes=[], seconds=31.5)


def _unlearning(rng: random.Random, method: MethodInfo, kind: Kind) -> Unlearning:
    count = 0 if kind.label == "none" else rng.randint(24, 48)
    steps = [
        StepLog(
            step=step,
            forget_loss=1.7 + kind.depth * (step / count) ** 2 + rng.gauss(0, 0.15),
            retain_loss=1.5 + 0.1 * rng.random(),
            text_loss=0.02 * step / count if method.name == "npo" else None,
            gradient_norm=rng.uniform(2, 9),
            penalty_share=kind.penalty_share,
            penalty_parameters=kind.penalty_share,
            forget_score=max(kind.after, 0.96 * (1 - step / count)) if step % 8 == 0 else None,
        )
        for step in range(1, count + 1)
    ]
    return Unlearning(
        method=method,
        seed=0,
        stopped="threshold" if count else "no steps",
        stop_score="ranking",
        threshold=0.33,
        steps=steps,
        seconds=count * 3.1,
        peak_memory_mb=2100 + rng.random() * 400,
    )


def _diagnosis(rng: random.Random, kind: Kind, facts: list[FactText]) -> Diagnosis:
    before = [min(1.0, 0.5 + 0.5 * (layer / LAYERS) ** 1.5) for layer in range(LAYERS + 1)]
    after = [b - 0.7 * kind.depth / 21 * max(0.0, (i - 12) / LAYERS) for i, b in enumerate(before)]
    return Diagnosis(
        influence={
            "logprob": _influence(rng, "logprob", kind.d_plus, kind.d_minus, facts),
            # dP = P dlogP: with P near 0 there is nothing left to see.
            "probability": _influence(rng, "probability", kind.d_plus / 900, 0.0, facts),
        },
        lens_before=Lens(accuracy=before, facts=24),
        lens_after=Lens(accuracy=after, facts=24),
        seconds=41.5,
    )


def _influence(
    rng: random.Random, target: Target, plus: float, minus: float, facts: list[FactText]
) -> Influence:
    def curve(total: float) -> list[float]:
        return [total * (1 - math.exp(-((m / 4000) ** 0.55))) for m in GRID]

    def heat(total: float, centre: float) -> dict[str, list[float]]:
        return {
            module: [
                total / 300 * math.exp(-(((layer - centre) / 6) ** 2)) * rng.lognormvariate(0, 0.5)
                for layer in range(LAYERS)
            ]
            for module in MODULES
        }

    d_plus, d_minus = curve(plus), curve(minus)
    total = d_plus[-1] + d_minus[-1]
    return Influence(
        target=target,
        neurons=GRID[-1],
        m=GRID,
        d_plus=d_plus,
        d_minus=d_minus,
        d_plus_100=d_plus[GRID.index(100)],
        d_minus_100=d_minus[GRID.index(100)],
        d_plus_all=d_plus[-1],
        d_minus_all=d_minus[-1],
        hide_ratio=d_minus[-1] / total if total else None,
        map_plus=heat(plus, 14),
        map_minus=heat(minus, 26),
        facts={fact.id: (plus * rng.random(), minus * rng.random()) for fact in facts},
    )


def _attacks(
    rng: random.Random, kind: Kind, original: Evaluation, evaluation: Evaluation
) -> list[AttackCurve]:
    facts = list(original.forget)
    plans = [
        ("harmful-0.1", "harmful", 0.1, [1e-5, 1e-4], facts[:3], 0.8),
        ("harmful-0.3", "harmful", 0.3, [1e-5, 1e-4], facts[:8], 1.0),
        ("benign", "benign", None, [1e-5, 1e-4], [], 0.35),
        ("quantize-int8", "quantize", None, [0.0], [], 0.05),
    ]
    return [
        _attack(rng, kind, original, evaluation, name, what, fraction, rate, trained, force)
        for name, what, fraction, rates, trained, force in plans
        for rate in rates
    ]


def _attack(
    rng: random.Random,
    kind: Kind,
    original: Evaluation,
    evaluation: Evaluation,
    name: str,
    what: str,
    fraction: float | None,
    rate: float,
    trained: list[str],
    force: float,
) -> AttackCurve:
    force *= 1.0 if rate >= 1e-4 else 0.5
    pool = [fact for fact in original.forget if fact not in trained]
    luck = {fact: (index + 0.5) / len(pool) for index, fact in enumerate(rng.sample(pool, len(pool)))}
    steps = STEPS if what != "quantize" else [0, 1]
    reads = []
    for step in steps:
        done = force * (1 - math.exp(-step / 6)) if what != "quantize" else force * min(step, 1)
        level = kind.after + (kind.attacked - kind.after) * done
        readings = {}
        for fact in pool:
            start, end = evaluation.forget[fact], original.forget[fact]
            back = max(0.0, (kind.attacked - kind.after)) * done * rng.uniform(0.8, 1.1)
            logprob = start.logprob + (end.logprob - start.logprob) * back
            right = luck[fact] < level if step else start.correct
            readings[fact] = Reading(correct=None if start.correct is None else right, logprob=logprob)
        reads.append(AttackRead(step=step, facts=readings))
    return AttackCurve(
        name=name,
        kind=what,
        fraction=fraction,
        learning_rate=rate,
        seed=0,
        trained=trained,
        pool=pool,
        reads=reads,
        seconds=round(rng.uniform(20, 60), 1),
    )


if __name__ == "__main__":
    from ssiuu.report.page import render

    Path(sys.argv[1]).write_text(render(sample_record()), encoding="utf-8")

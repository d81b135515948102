"""Made-up runs of every kind that a report can meet: ranked, TOFU, RWKU, own facts, an audit, empty.

All are `sample_record` with the numbers that such a run has besides; equal at every call.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Any

from sample_record import PLACES, sample_record
from ssiuu.records.schema import (
    Attributions,
    BothAttributions,
    CausalCurve,
    Cell,
    Evidence,
    FactScore,
    FactText,
    ProbeText,
    RunRecord,
    Stability,
)

FORGET, HELDOUT, REAL, WORLD, STEP = 0.25, 0.5, 0.75, 0.25, 0.01
PAIRS = ("original-unlearned", "original-attacked", "unlearned-attacked")


@cache
def every() -> dict[str, RunRecord]:
    """Return the runs by name; building them takes a second."""
    return {
        "ranked": sample_record(),
        "tofu": tofu_record(),
        "rwku": rwku_record(),
        "own": own_record(),
        "audit": audit_record(),
        "empty": empty_record(),
    }


# --- TOFU ----------------------------------------


def with_rouge(scores: dict[str, Any], rouge: float) -> dict[str, Any]:
    return {fact: {**score, "rouge": rouge, "truth_ratio": 1.0} for fact, score in scores.items()}


def as_tofu(record: RunRecord) -> RunRecord:
    """Return the record as one of TOFU: written answers score by step, and ranking says otherwise."""
    data = record.model_dump()
    header = data["header"]
    header |= {"protocol": "paper", "config": {"tofu": {"split": "forget01", "retain": None}}}
    header["benchmark"]["name"], header["model"]["name"] = "tofu", "Llama-3.2-3B"
    header["score"] = "sentences"
    sets = {"real_authors": REAL, "world_facts": WORLD}
    for name in sets:
        header["split"]["others"][name] = [
            FactText(id=f"{name}:{n}", question=f"{name} {n}?", answer="a").model_dump()
            for n in range(8)
        ]
    plain = FactScore(correct=None, logprob=-1.0, tokens=1).model_dump()
    for scores in [data["original"], *(cell["evaluation"] for cell in data["cells"])]:
        scores["forget"] = with_rouge(scores["forget"], FORGET)
        scores["heldout"] = with_rouge(scores["heldout"], HELDOUT)
        for name, rouge in sets.items():
            scores["others"][name] = with_rouge({f"{name}:{n}": plain for n in range(8)}, rouge)
    for cell in data["cells"]:
        for attack in cell["attacks"]:
            for read in attack["reads"]:
                for reading in read["facts"].values():
                    reading |= {"rouge": FORGET + STEP * read["step"], "correct": True}
    return RunRecord.model_validate(data)


def tofu_record() -> RunRecord:
    """Return a run of TOFU with its control, all of TOFU's scores and attacks on four kinds of axes."""
    rng = random.Random("tofu")
    data = as_tofu(sample_record()).model_dump()
    cells = [data["cells"][place] for place in (1, 3, 4)]
    cells[2]["method"] |= {"label": "never-learned", "name": "never-learned", "origin": "control"}
    data["cells"], data["header"]["methods"] = cells, [cell["method"] for cell in cells]
    for place, evaluation in enumerate([data["original"], *(cell["evaluation"] for cell in cells)]):
        sets = [evaluation["forget"], evaluation["retain"], evaluation["heldout"]]
        for scores in [*sets, *evaluation["others"].values()]:
            for score in scores.values():
                score |= _sentence(rng, place)
    for cell in cells:
        cell["attacks"] = [*cell["attacks"][::2], *_asked(rng, cell["attacks"][0])]
    return RunRecord.model_validate(data)


def _sentence(rng: random.Random, place: int) -> dict[str, float]:
    known = 1 / (1 + place)
    return {
        "probability": known * rng.uniform(0.5, 0.9),
        "rouge": known * rng.uniform(0.6, 1.0),
        "truth_ratio": rng.uniform(0.2, 0.9),
        "truth_ratio_geometric": rng.uniform(0.1, 0.8) + 0.05 * place,
        "extraction_strength": known * rng.uniform(0.1, 0.7),
        "exact_memorisation": known * rng.uniform(0.2, 0.8),
        "reworded_probability": known * 0.25,
        "wrong_probability": 0.1,
    }


def _asked(rng: random.Random, attack: dict[str, Any]) -> list[dict[str, Any]]:
    """Return attacks that train nothing, made of the readings of one that does."""
    changes: list[tuple[str, str, str, dict[str, float | None]]] = [
        ("quantize-int8", "quantize", "bits", {}),
        ("few-shot", "few-shot", "shots", {}),
        ("prompts", "prompts", "prompt", {}),
        ("sampled", "samples", "k", {}),
        ("membership", "membership", "score", {"loss": rng.random(), "min-k 40%": rng.random()}),
    ]
    made = []
    attack = {k: v for k, v in attack.items() if k not in ("axis_label", "scored")}  # follow the axis
    for name, kind, axis, values in changes:
        reads = [
            {**read, "step": place, "label": f"form {place}" if axis == "prompt" else ""}
            for place, read in enumerate(attack["reads"][:3])
        ]
        written = axis == "bits"
        for read in reads:
            read["facts"] = {
                fact: {
                    **reading,
                    "correct": rng.random() < 0.2 + 0.2 * read["step"],
                    "rouge": rng.random() if written else None,
                }
                for fact, reading in read["facts"].items()
            }
        made.append(
            {
                **attack,
                "name": name,
                "kind": kind,
                "axis": axis,
                "values": values,
                "reads": [] if values else reads,
                "fraction": None,
                "learning_rate": None,
                "trained": [],
                "note": "24 members against 16 others" if values else "",
            }
        )
    return made


# --- RWKU ----------------------------------------


def rwku_record() -> RunRecord:
    """Return a run with further sets whose written answers are scored by ROUGE-L recall."""
    rng = random.Random("rwku")
    data = sample_record().model_dump()
    header = data["header"]
    header |= {"score": "rouge"}
    header["benchmark"] |= {"name": "rwku", "note": "real people: Ada Brandt; not screened"}
    data["cells"] = data["cells"][1:3]
    header["methods"] = [cell["method"] for cell in data["cells"]]
    names = ["level1", "level3_multiple_choice", "neighbour_level1"]
    for name in names:
        header["split"]["others"][name] = [
            FactText(id=f"{name}:{n}", question=f"{name} {n}?", answer="a").model_dump()
            for n in range(6)
        ]
    for evaluation in [data["original"], *(cell["evaluation"] for cell in data["cells"])]:
        for scores in (evaluation["forget"], evaluation["heldout"]):
            for score in scores.values():
                score["rouge"] = rng.random()
        for name in names:
            evaluation["others"][name] = {
                f"{name}:{n}": FactScore(
                    correct=None, logprob=-rng.random(), tokens=2, rouge=rng.random()
                ).model_dump()
                for n in range(6)
            }
    return RunRecord.model_validate(data)


# --- somebody's own facts ----------------------------------------


def own_record() -> RunRecord:
    """Return a run on own facts: two seeds, other forms, probes, public tasks, and a look inside."""
    rng = random.Random("own")
    record = sample_record()
    cells = [
        _looked_inside(cell, factor)
        for cell, factor in zip(record.cells, (1, 1, 0.01, 1, 1.1), strict=True)
    ]
    record = record.model_copy(update={"cells": cells})
    data = record.model_dump()
    header = data["header"]
    header |= {
        "kind": "run",
        "prompt": "the form of training: <question>\n",
        "other_prompt": "the model's own chat template",
        "plugins": {"attack noise": "my-package 1.0"},
        "knowledge": _knowledge(header["split"]),
    }
    header["split"]["unknown"] = [header["split"]["retain"][0]]
    header["benchmark"] |= {"name": "own", "version": "", "note": ""}
    for fact in header["split"]["forget"]:
        fact["multi_hop"] = [ProbeText(question="And then?", answer=PLACES[0]).model_dump()]
        fact["same_answer"] = [ProbeText(question="What else?", answer=fact["answer"]).model_dump()]
    data["cells"] = data["cells"][:4]
    for place, evaluation in enumerate(
        [data["original"], *(cell["evaluation"] for cell in data["cells"])]
    ):
        for score in evaluation["forget"].values():
            right = rng.random() < (0.9 if not place else 0.5)
            score |= {"multi_hop": [right], "same_answer": [rng.random() < 0.9]}
            score |= {"other_form": right, "other_free": right, "other_text": "Oslo" if right else ""}
        evaluation["utility"] = {
            "mmlu": {"accuracy": 0.5 - 0.01 * place, "items": 513},
            "gsm8k": {"accuracy": 0.1, "items": 500},
        }
    for number, cell in enumerate(data["cells"]):
        cell["seed"] = number % 2
    # gd under both seeds, so that means over seeds are shown
    data["cells"][3]["method"] = {**data["cells"][1]["method"]}
    data["cells"][3]["seed"] = 0
    for cell in data["cells"]:
        if cell["unlearning"]:
            cell["unlearning"] |= {
                "distance": 0.0125,
                "before": 0.96,
                "notes": ["A note of unlearning."],
            }
    header |= {"seeds": [0, 1], "methods": [cell["method"] for cell in data["cells"][:3]]}
    return RunRecord.model_validate(data)


def _knowledge(split: dict[str, Any]) -> dict[str, dict[str, Any]]:
    states = ("known", "known", "unsure", "unknown")
    return {
        name: {
            fact["id"]: {
                "state": states[place % 4],
                "why": f"because of {place}",
                "says": "Oslo",
                "holds": place % 4 < 2,
                "rank": 1 + place % 3,
                "among": 12,
                "margin": 0.5 - place % 3,
                "logprob": -1.0 - place,
            }
            for place, fact in enumerate(split[name][:8])
        }
        for name in ("forget", "retain")
    }


def side(values: tuple[float, float, float]) -> Attributions:
    histogram = {name: [1, 5, 0, 2] for name in ("original", "unlearned", "attacked")}
    return Attributions(
        histogram=histogram,
        pearson=dict(zip(PAIRS, values, strict=True)),
        spearman=dict.fromkeys(PAIRS),
        returned={10: 0.9, 100: 0.25},
    )


def look_inside(cell: Cell, factor: float, attack: str = "harmful_0.3 at step 6") -> Cell:
    """Return the cell with what `inside: true` adds; integrated D- is `factor` times the other."""
    if cell.diagnosis is None:
        return cell
    first = cell.diagnosis.influence["logprob"]
    minus = factor * first.d_minus_all
    second = first.model_copy(
        update={
            "attribution": "integrated",
            "completeness_gap": 0.031,
            "d_minus_all": minus,
            "hide_ratio": minus / (minus + first.d_plus_all),
        }
    )
    evidence = Evidence(
        causal=None,
        probe_before=None,
        probe_after=None,
        depth=None,
        attributions=BothAttributions(gradient=first, integrated=second),
        seconds=1.0,
    )
    stability = Stability(
        target="logprob",
        attack=attack,
        facts=16,
        edges=[-1.0, 0.0001, 1.0],
        highest=side((0.5, 0.75, 0.25)),
        lowest=side((0.25, 0.875, 0.5)),
    )
    diagnosis = cell.diagnosis.model_copy(update={"evidence": evidence})
    return cell.model_copy(update={"diagnosis": diagnosis, "stability": stability})


def _looked_inside(cell: Cell, factor: float) -> Cell:
    """Return the cell with the causal test, the probe and the depth score as well."""
    cell = look_inside(cell, factor)
    if cell.diagnosis is None or cell.diagnosis.evidence is None:
        return cell
    data = cell.diagnosis.evidence.model_dump()
    estimate = {"value": 0.4 * factor, "low": 0.2 * factor, "high": 0.6 * factor}
    level = {"logprob": -2.0 - factor, "accuracy": 0.5}
    point = {
        "m": 100,
        "top": level,
        "random_logprob": {"value": -3.0, "low": -3.5, "high": -2.5},
        "random_accuracy": {"value": 0.3, "low": 0.2, "high": 0.4},
        "share": estimate,
    }
    data["causal"] = {
        "facts": 24,
        "draws": 8,
        "original": {"logprob": -1.5, "accuracy": 0.96},
        "unlearned": {"logprob": -9.0, "accuracy": 0.1},
        "curves": [
            CausalCurve.model_validate({"side": side, "mode": "zero", "points": [point]}).model_dump()
            for side in ("minus", "plus")
        ],
        "share": estimate,
    }
    probe = {"accuracy": [0.3, 0.6], "control": [0.3, 0.35], "selectivity": [estimate, estimate]}
    data["probe_before"] = data["probe_after"] = {**probe, "facts": 24}
    data["depth"] = {
        "score": estimate,
        "reference": [0.1, 0.9],
        "unlearned": [0.05, 0.5],
        "facts": {"fact-000": 0.5, "fact-001": None},
    }
    made = cell.model_dump()
    made["diagnosis"]["evidence"] = Evidence.model_validate(data).model_dump()
    made["diagnosis"]["lens_after"]["below_chance"] = [20, 21] if factor < 1 else []
    made["diagnosis"]["influence"]["logprob"] |= _whole(made["diagnosis"]["influence"]["logprob"])
    made["stability"]["leading"] = [
        {"module": "down", "layer": 26, "unit": 7}
        | {"original": -0.01, "unlearned": -1.5 * factor, "attacked": -0.2}
    ]
    return Cell.model_validate(made)


def _whole(influence: dict[str, Any]) -> dict[str, Any]:
    """Return net influence, intervals and relations to go with an influence variation."""
    keys = ("d_plus_100", "d_minus_100", "d_plus_all", "d_minus_all", "hide_ratio")
    values = {key: influence[key] for key in keys}
    values |= {"net_plus": values["d_plus_all"] / 2, "net_minus": values["d_minus_all"] / 4}
    bands = {
        key: {"low": 0.8 * value, "corrected": 0.9 * value, "high": 1.2 * value}
        for key, value in values.items()
    }
    return {
        "net_plus": values["net_plus"],
        "net_minus": values["net_minus"],
        "curve_net_plus": [value / 2 for value in influence["d_plus"]],
        "curve_net_minus": [value / 4 for value in influence["d_minus"]],
        "bands": {"confidence": 0.95, "resamples": 200, "entities": 12, **bands},
        "relations": {"born_in": {"facts": 12, **{key: values[key] for key in keys}}},
    }


# --- an audit ----------------------------------------


def audit_record() -> RunRecord:
    """Return an audit of 12 facts: one model that somebody gives, and nothing of how it was made."""
    data = sample_record().model_dump()
    header, cell = data["header"], data["cells"][2]
    header |= {"kind": "audit", "command": "ssiuu audit --before base --after npo --out audit"}
    header["split"]["forget"] = header["split"]["forget"][:12]
    ids = [fact["id"] for fact in header["split"]["forget"]]
    cell["method"] |= {"label": "after", "name": "given", "origin": "given", "hyperparameters": {}}
    cell["method"]["description"] = "As it was given."
    for evaluation in (data["original"], cell["evaluation"]):
        evaluation["forget"] = {id: evaluation["forget"][id] for id in ids}
    for attack in cell["attacks"]:
        attack["trained"] = [id for id in attack["trained"] if id in ids]
        attack["pool"] = [id for id in attack["pool"] if id in ids]
        for read in attack["reads"]:
            read["facts"] = {id: found for id, found in read["facts"].items() if id in ids}
    cell["examination"]["facts"] = {id: cell["examination"]["facts"][id] for id in ids}
    cell["unlearning"], cell["diagnosis"] = None, None
    data["cells"], header["methods"] = [cell], [cell["method"]]
    return RunRecord.model_validate(data)


def empty_record() -> RunRecord:
    """Return a run of which nothing has been done yet."""
    return sample_record().model_copy(update={"original": None, "cells": []})

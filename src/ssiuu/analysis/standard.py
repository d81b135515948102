"""The columns that every run has: answers, how far a model moved, what changed inside, cost."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from ssiuu.analysis.column import Column, Direction, Form, Item, Model, Outcomes, of_facts
from ssiuu.analysis.scale import mean
from ssiuu.analysis.seen import ABLATED, SATURATED
from ssiuu.records.schema import Cell, FactScore
from ssiuu.statistics import Estimate

ReadCorrect = Callable[[FactScore], Sequence[bool | None]]
NAMES = {"forget": "facts to forget", "retain": "facts to retain", "heldout": "facts held out"}
SELECTIVITY = "diagnosis.evidence.probe_after.selectivity"
ANSWERS = "answers to instructions"
ELSE = "asked in another form than they were unlearned in"


def answers() -> list[Column]:
    """Return how the facts to forget, to retain and held out are answered."""
    return [
        _ranked("forget", "forget"),
        _ranked("forget_paraphrase", "paraphrase", lambda s: s.paraphrases, "asked in other words"),
        _written("forget_free", "free"),
        _ranked("forget_other", "other form", lambda s: [s.other_form], ELSE),
        _written("forget_other_free", "other form, free", lambda s: [s.other_free], ELSE),
        _probe("multi_hop", "multi-hop", "questions that need a fact to forget", "lower"),
        _ranked("retain", "retain"),
        _ranked("heldout", "held-out"),
        _written("retain_free", "retain, free", shown=False),
        _written("heldout_free", "held-out, free", shown=False),
        _unrelated(),
        _probe(
            "same_answer", "same answer", "questions about something else, of the same answer", "higher"
        ),
        _logprob("forget", "log p forget"),
        _logprob("retain", "log p retain"),
        _logprob("heldout", "log p held-out"),
    ]


def _ranked(
    key: str, heading: str, read: ReadCorrect = lambda s: [s.correct], asked: str = ""
) -> Column:
    return _answered(key, heading, read, "answer is ranked first among its options", asked, chance=True)


def _written(
    key: str, heading: str, read: ReadCorrect = lambda s: [s.free_correct], asked: str = "", **more: Any
) -> Column:
    return _answered(key, heading, read, "freely written answer holds the right one", asked, **more)


def _answered(key: str, heading: str, read: ReadCorrect, what: str, asked: str, **more: Any) -> Column:
    # A key begins with its set.
    of = key.partition("_")[0]
    forget = of == "forget"
    return of_facts(
        key,
        heading,
        "Forget set" if forget else "Kept",
        lambda evaluation: getattr(evaluation, of),
        read,
        f"Share of the {NAMES[of]} whose {what}{f', {asked}' if asked else ''}.",
        direction="lower" if forget else "higher",
        **more,
    )


def known_probes(model: Model, kind: str) -> dict[Item, bool]:
    """Return how the forget set's probes of a kind are answered that the original model got right.

    Args:
        model: The model asked.
        kind: "multi_hop" or "same_answer".
    """
    original = model.record.original
    before, after = original.forget if original else {}, model.scores("forget")
    return {
        (fact, place): bool(now)
        for fact in before.keys() & after.keys()
        for place, (was, now) in enumerate(
            zip(getattr(before[fact], kind), getattr(after[fact], kind), strict=True)
        )
        if was
    }


def _probe(kind: str, heading: str, what: str, direction: Direction) -> Column:
    def outcomes(model: Model, pool: Collection[str] | None) -> Outcomes:
        answers = known_probes(model, kind)
        return {i: {0: float(right)} for i, right in answers.items() if pool is None or i[0] in pool}

    return Column(
        f"forget_{kind}",
        heading,
        "Forget set" if direction == "lower" else "Kept",
        "share",
        lambda model: mean(known_probes(model, kind).values()),
        f"Share of the {what}, that the original model got right, that are still right.",
        direction,
        outcomes,
        chance=direction == "lower",
    )


def _unrelated() -> Column:
    """Return the share of other questions, that the original answers freely, that still are."""

    def outcomes(model: Model, pool: Collection[str] | None) -> Outcomes:
        before = model.record.original.unrelated if model.record.original else {}
        after = model.cell.evaluation.unrelated if model.cell.evaluation else {}
        return {
            (fact, 0): {0: float(after[fact].free_correct is True)}
            for fact, score in before.items()
            if score.free_correct and fact in after and (pool is None or fact in pool)
        }

    return Column(
        "unrelated_free",
        "unrelated, free",
        "Kept",
        "share",
        lambda model: mean(seeds[0] for seeds in outcomes(model, None).values()),
        "Share of the questions about the world, none about a fact of the run, that the original model "
        "answered rightly in a freely written answer, that still are.",
        "higher",
        outcomes,
    )


def _logprob(of: str, heading: str) -> Column:
    return Column(
        f"{of}_logprob",
        heading,
        "Inside",
        "nats",
        lambda model: mean(score.logprob for score in model.scores(of).values()),
        f"Mean log-probability of the answers to the {NAMES[of]}, nats: a sum over tokens.",
        beside=of,
    )


def moved() -> list[Column]:
    """Return how far a model is from the original on text that asks for no fact of the run."""
    kl = "KL from the original's predictions to this model's on {}, nats a token."
    columns = []
    for short, key, field, ppl, text in (
        ("", "kl", "plain", "perplexity", "plain text"),
        (" instr.", "kl_instructions", "instructions", "perplexity_instructions", ANSWERS),
    ):
        heading = f"KL{short}"
        value, error = (_at(f"evaluation.divergence.{field}{end}") for end in ("", "_se"))
        meaning, spread = kl.format(text), f"Standard error of the KL on {text}, over texts."
        perplexity, told = _at(f"evaluation.divergence.{ppl}"), f"Perplexity of this model on {text}."
        columns += [
            Column(key, heading, "Moved", "divergence", value, meaning, "lower", error=f"{key}_se"),
            Column(f"{key}_se", f"{heading}, error", "Moved", "divergence", error, spread, shown=False),
            Column(ppl, f"PPL{short}", "Moved", "number", perplexity, told, "lower"),
        ]
    # Both divergences stand side by side, and before what says the same in other units.
    return sorted(columns, key=lambda column: column.form == "number")


def _at(path: str) -> Callable[[Model], Any]:
    """Return how to read a field of a cell by its path; None where a part of the way is not there."""

    def read(model: Model) -> Any:
        value: Any = model.cell
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else getattr(value, name, None)
        return value

    return read


def inside() -> list[Column]:
    """Return what changed inside: influence, what tests of it show, and how far the weights went."""
    top = "summed over the 100 neurons with the largest change; target log-probability."
    logprob = "diagnosis.influence.logprob"
    return [
        _inside(
            "d_plus_100",
            "D+ top 100",
            _at(f"{logprob}.d_plus_100"),
            f"Positive influence taken away, {top}",
        ),
        _inside(
            "d_minus_100",
            "D− top 100",
            _at(f"{logprob}.d_minus_100"),
            f"Negative influence added, {top}",
        ),
        _inside(
            "hide_ratio",
            "hide ratio",
            _at(f"{logprob}.hide_ratio"),
            "D− / (D+ + D−) over all neurons: the share of the change that is added inhibition; "
            f"{SATURATED}",
            "ratio",
        ),
        _inside(
            "lens",
            "logit lens",
            lambda model: mean(_at("diagnosis.lens_after.accuracy")(model) or []),
            "Accuracy of the logit lens after unlearning, mean over layers.",
            "ratio",
        ),
        _inside(
            "probe",
            "linear probe",
            lambda model: mean(s.value for s in _at(SELECTIVITY)(model) or []),
            "Selectivity of a linear probe, mean over layers.",
            "ratio",
        ),
        _estimated(
            "causal_share",
            "causal share",
            "diagnosis.evidence.causal.share",
            "Part of the lost log-probability that comes back without the top 100 neurons of D−. "
            f"{ABLATED}",
        ),
        _estimated(
            "depth_score",
            "depth score",
            "diagnosis.evidence.depth.score",
            "Unlearning depth: 0 the knowledge is as in the original, 1 as if never learned.",
        ),
        _inside(
            "penalty_share",
            "penalty share",
            lambda model: mean(s.penalty_share for s in _at("unlearning.steps")(model) or []),
            "Norm of the regulariser's gradient over that of the forget gradient, mean over steps.",
        ),
        _inside(
            "distance",
            "distance",
            _at("unlearning.distance"),
            "How far the weights went, as a share of the norm of all weights before.",
        ),
    ]


def _inside(
    key: str, heading: str, read: Callable[[Model], float | None], meaning: str, form: Form = "number"
) -> Column:
    return Column(key, heading, "Inside", form, read, meaning)


def _estimated(key: str, heading: str, path: str, meaning: str) -> Column:
    def interval(model: Model) -> Estimate | None:
        estimate = _at(path)(model)
        return Estimate(estimate.value, estimate.low, estimate.high) if estimate else None

    return Column(key, heading, "Inside", "ratio", _at(f"{path}.value"), meaning, interval=interval)


def cost() -> list[Column]:
    """Return what a model cost."""

    def steps(model: Model) -> int | None:
        return len(model.cell.unlearning.steps) if model.cell.unlearning else None

    memory, meaning = _at("unlearning.peak_memory_mb"), "Memory while unlearning, in the data as MB."
    return [
        Column("steps", "steps", "Cost", "whole", steps, "Optimiser steps of unlearning."),
        Column(
            "seconds", "seconds", "Cost", "whole", lambda m: seconds(m.cell), "Wall time of all stages."
        ),
        Column("peak_memory_mb", "peak GB", "Cost", "gigabytes", memory, meaning),
    ]


def seconds(cell: Cell) -> float:
    """Return the wall time of all stages of a cell."""
    stages = [cell.unlearning, cell.evaluation, cell.diagnosis, *cell.attacks]
    return round(sum(stage.seconds for stage in stages if stage is not None), 2)

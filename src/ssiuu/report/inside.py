"""The tables of the look inside: influence, the causal test, stability, what predicts recovery."""

from __future__ import annotations

from collections.abc import Iterator

from ssiuu.analysis.agreement import attributed_twice, conclusion
from ssiuu.analysis.column import Model
from ssiuu.analysis.prediction import CELLS, Prediction, prediction
from ssiuu.analysis.seen import ABLATED, SATURATED
from ssiuu.records.schema import Band, EstimateRecord, Influence, Level, RunRecord
from ssiuu.report.tables import Entry, Row, Table, cells, headings_of
from ssiuu.report.text import DASH, named, nats, percent, ratio, short

TOP = 100  # neurons, in the table of the causal test
NEURONS = 5  # a model, in the table of those with the largest D−


def inside_tables(record: RunRecord) -> list[Table]:
    """Return the tables of the look inside that have rows."""
    makers = (_bands, _relations, _attributions, _causal, _stability, _neurons, _predictions)
    return [table for make in makers if (table := make(record)).rows]


def _influences(record: RunRecord) -> Iterator[tuple[str, Influence]]:
    """Yield the influence variation of the log-probability of each model, by its name."""
    for cell in record.cells:
        influence = cell.diagnosis.influence.get("logprob") if cell.diagnosis else None
        if influence is not None:
            yield named(Model(record, cell)), influence


def _bands(record: RunRecord) -> Table:
    fields = {
        "d_plus_100": "D+ top 100",
        "d_minus_100": "D− top 100",
        "d_plus_all": "D+ all",
        "d_minus_all": "D− all",
        "net_plus": "D+ net",
        "net_minus": "D− net",
        "hide_ratio": "hide ratio",
    }
    banded = [(name, influence) for name, influence in _influences(record) if influence.bands]
    rows = [
        Row(name, [_banded(getattr(influence, key), getattr(influence.bands, key)) for key in fields])
        for name, influence in banded
    ]
    first = next((influence.bands for _, influence in banded if influence.bands), None)
    note = (
        f"Intervals of {percent(first.confidence, 0)}\u00a0%, basic bootstrap over "
        f"{first.entities} entities, {first.resamples} resamples; after the slash: less its bias. All: "
        "over all neurons; net: without the cut at 0, so that what turned the other way counts "
        "against. Target log-prob. "
        f"Hide ratio: {SATURATED}"
        if first
        else ""
    )
    return Table("D+ and D− with intervals", note, headings_of(fields.values()), rows)


def _banded(value: float | None, band: Band | None) -> Entry:
    if band is None:
        return Entry(short(value))
    return Entry(
        f"{short(value)} / {short(band.corrected)}", ends=f"{short(band.low)} to {short(band.high)}"
    )


def _relations(record: RunRecord) -> Table:
    rows = [
        Row(
            f"{name}, {relation}",
            cells([str(part.facts), *map(short, numbers), ratio(part.hide_ratio)]),
        )
        for name, influence in _influences(record)
        for relation, part in influence.relations.items()
        for numbers in [(part.d_plus_100, part.d_minus_100, part.d_plus_all, part.d_minus_all)]
    ]
    note = f"Averaged over the facts of one relation. Target log-probability. Hide ratio: {SATURATED}"
    headings = ["facts", "D+ top 100", "D− top 100", "D+ all", "D− all", "hide ratio"]
    return Table("D+ and D− by relation", note, headings_of(headings), rows)


def _causal(record: RunRecord) -> Table:
    tests = [
        (named(Model(record, cell)), cell.diagnosis.evidence.causal)
        for cell in record.cells
        if cell.diagnosis and cell.diagnosis.evidence and cell.diagnosis.evidence.causal
    ]
    rows = [
        Row(
            f"{name}, {'D−' if curve.side == 'minus' else 'D+'} {curve.mode}",
            [
                *cells([_level(test.original), _level(test.unlearned), _level(point.top)]),
                _estimated(point.random_logprob, nats(point.random_logprob.value), 1),
                _estimated(point.random_accuracy, percent(_value(point.random_accuracy)), 100),
                _estimated(point.share, ratio(_value(point.share)), 1),
            ],
        )
        for name, test in tests
        for curve in test.curves
        for point in curve.points
        if point.m == TOP
    ]
    draws = tests[0][1].draws if tests else 0
    note = (
        f"The {TOP} neurons with the largest influence variation ablated in the unlearned model, and "
        f"as many random ones of the same maps ({draws} draws, with where another would fall). "
        "Log-probability of the answers in nats, and accuracy in %. Share: the part of what was "
        f"lost that returns. {ABLATED}"
    )
    headings = ["original", "unlearned", "ablated", "random, log p", "random, accuracy", "share"]
    return Table("The causal test", note, headings_of(headings), rows)


def _level(level: Level) -> str:
    return nats(level.logprob) + (f", {percent(level.accuracy)}" if level.accuracy is not None else "")


def _value(estimate: EstimateRecord | None) -> float | None:
    return estimate.value if estimate else None


def _estimated(estimate: EstimateRecord | None, text: str, times: float) -> Entry:
    ends = f"{short(times * estimate.low)} to {short(times * estimate.high)}" if estimate else ""
    return Entry(text, ends=ends)


def _stability(record: RunRecord) -> Table:
    rows = [
        Row(
            f"{named(Model(record, cell))}, {end}",
            cells(
                f"{ratio(side.pearson[pair])} ({ratio(side.spearman[pair])})" for pair in side.pearson
            ),
        )
        for cell in record.cells
        if cell.stability
        for end, side in (("highest", cell.stability.highest), ("lowest", cell.stability.lowest))
        if side
    ]
    pairs = ["original, unlearned", "original, attacked", "unlearned, attacked"]
    note = "Pearson's correlation over neurons (Spearman's), of the highest and lowest over tokens."
    return Table("Attributions through unlearning and an attack", note, headings_of(pairs), rows)


def _neurons(record: RunRecord) -> Table:
    rows = [
        Row(
            f"{named(Model(record, cell))}, {neuron.module} {neuron.layer}.{neuron.unit}",
            cells(map(short, (neuron.original, neuron.unlearned, neuron.attacked))),
        )
        for cell in record.cells
        if cell.stability
        for neuron in cell.stability.leading[:NEURONS]
    ]
    note = f"The {NEURONS} with the largest D−, by module and place: lowest attribution over tokens."
    headings = headings_of(["original", "unlearned", "attacked"])
    return Table("Neurons that were added against the answers", note, headings, rows)


def _attributions(record: RunRecord) -> Table:
    several = len({cell.seed for cell in record.cells}) > 1
    rows = []
    facts = 0
    for (label, seed), both in attributed_twice(record).items():
        sides, facts = (both.gradient, both.integrated), len(both.gradient.facts)
        gap = both.integrated.completeness_gap
        texts = [
            *(short(side.d_plus_all) for side in sides),
            *(short(side.d_minus_all) for side in sides),
            *(ratio(side.hide_ratio) for side in sides),
            f"{percent(gap)} %" if gap is not None else DASH,
        ]
        rows.append(Row(f"{label}, seed {seed}" if several else label, cells(texts)))
    note = (
        f"Over the same {facts} facts, sums over all neurons, target log-probability; gradient: "
        "gradient × activation; integrated: integrated gradients, a block at a time. Gap: what these "
        f"leave unexplained of what the blocks are worth. Hide ratio: {SATURATED} {conclusion(record)}"
    )
    names = [
        f"{what}, {by}" for what in ("D+", "D−", "hide ratio") for by in ("gradient", "integrated")
    ]
    return Table("D+ and D− by two attributions", note, headings_of([*names, "gap"]), rows)


def _predictions(record: RunRecord) -> Table:
    """Return a row a measure; none where no measure has enough cells."""
    predictions = prediction([record])
    by_measure: dict[str, list[Prediction]] = {}
    for one in predictions:
        by_measure.setdefault(one.measure, []).append(one)
    rows = [
        Row(measure, cells([*map(_correlation, pair), str(pair[0].cells), str(pair[0].methods)]))
        for measure, pair in by_measure.items()
        if pair[0].cells >= CELLS
    ]
    sure = [f"{one.measure} ({one.outcome})" for one in predictions if one.predicts]
    excluding = f"Excludes 0: {', '.join(sure)}." if sure else "No measure's interval excludes 0."
    note = (
        "Rank correlation over cells (method and seed) of what was measured right after unlearning "
        "with what the strongest attacker then gets on the common pool: recovery, its level less the "
        "level before the attack, and the level itself. Intervals, 95 %: bootstrap over methods with "
        "all their seeds; with fewer than six methods they always hold 0. Where one holds 0, the "
        f"measure was not shown to predict anything. {excluding}"
    )
    headings = headings_of(["with recovery", "with level", "cells", "methods"])
    return Table("What the diagnosis predicts", note, headings, rows, "measure")


def _correlation(prediction: Prediction) -> str:
    if prediction.correlation is None:
        return DASH
    value, low, high = (f"{number:+.2f}".replace("-", "−") for number in prediction.correlation)
    return f"{value} ({low} to {high}){'' if prediction.predicts else ', holds 0'}"

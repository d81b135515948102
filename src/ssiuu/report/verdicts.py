"""The verdicts as tables: one of all models, on one and the same facts, and one a model by fact."""

from __future__ import annotations

from collections.abc import Iterable

from ssiuu.analysis.column import Model
from ssiuu.analysis.known import Known, known
from ssiuu.analysis.verdict import VERDICTS, FactVerdict, accuracy
from ssiuu.records.schema import Cell, FactText, RunRecord
from ssiuu.report.answer import p_value
from ssiuu.report.tables import ORIGINS, Entry, Heading, Row, Table, cells, headings_of
from ssiuu.report.text import DASH, kl, named, percent

P_VALUES = (
    "p, erased: how often a fact that was never learned shows as much; p, hidden: how often one "
    "that is hidden shows as little. At most 0.05 in the first and more in the second: hidden; the "
    "reverse: erased."
)
UNATTACKED = (
    "p, unattacked: how often an answer that was never learned is as likely without any attack."
)


def verdict_table(record: RunRecord) -> Table:
    """Return a row a model: the word, its facts by verdict, what was known on the way, what was kept.

    Controls stand last.
    """
    ordered = sorted(record.cells, key=lambda cell: cell.method.origin == "control")
    models = [Model(record, cell) for cell in ordered]
    words = [_heading(verdict, "Facts") for verdict in VERDICTS]
    shares = [_heading(text, "Known, %") for text in ("before", "after", "strongest look")]
    headings = [Heading("verdict", "verdict", "", True), *words, *shares, _heading("kept, %", "")]
    rows = [
        Row(named(model), _row(model), ORIGINS[model.cell.method.origin])
        for model in models
        if model.judgement.facts
    ]
    return Table("The answer, model by model", _note(record), headings, rows)


def _heading(text: str, group: str) -> Heading:
    return Heading(text, "", group)


def _row(model: Model) -> list[Entry]:
    word, cell = model.judgement, model.cell
    found = known(cell.examination) if cell.examination else None
    return [
        Entry(word.verdict),
        *cells(str(word.count(verdict)) for verdict in VERDICTS),
        *_levels(found),
        _kept(cell),
    ]


def _levels(found: Known | None) -> list[Entry]:
    if found is None:
        return cells([DASH] * 3)
    beside = (("the strongest look", found.place),) if found.place else ()
    return [
        *cells([percent(found.before, 0), percent(found.after, 0)]),
        Entry(percent(found.strongest, 0), beside=beside),
    ]


def _kept(cell: Cell) -> Entry:
    """Return the share of facts to stay that are ranked first, and the divergence beside it."""
    if cell.evaluation is None:
        return Entry(DASH)
    shares = (accuracy(s.values()) for s in (cell.evaluation.heldout, cell.evaluation.retain))
    share = next((share for share in shares if share is not None), None)
    moved = cell.evaluation.divergence
    beside = (("divergence on plain text, nats a token", f"KL {kl(moved.plain)}"),) if moved else ()
    return Entry(percent(share, 0), beside=beside)


def _note(record: RunRecord) -> str:
    found = [known(cell.examination) for cell in record.cells if cell.examination]
    first = next((one for one in found if one), None)
    if first is None:
        return "No model was examined, so nothing tells erased from hidden."
    looks = f"the highest of {first.looks} looks" if first.looks > 1 else "one look"
    return (
        f"Known: of the same {first.facts} facts, those whose right answer beats 95 % of the decoys' "
        "there, by how much likelier it is after its question than after others; about 5 % of "
        f"facts that were never learned pass at any one place. Strongest look: {looks} "
        "(attackers and read-out of the examination). Kept: facts held out that are ranked first, or "
        "facts to retain where none are held out, and the divergence on plain text."
    )


def fact_tables(record: RunRecord) -> list[Table]:
    """Return the verdict on every fact with its p-values, a table a model that was examined."""
    models = [Model(record, cell) for cell in record.cells]
    return [_fact_table(model) for model in models if model.judgement.judged]


def _fact_table(model: Model) -> Table:
    word = model.judgement
    headings = [Heading("answer", "", "", True), Heading("verdict", "verdict", "", True)]
    headings += headings_of(["p, erased", "p, hidden", "p, unattacked"])
    rows = [
        Row(fact.question, [Entry(fact.answer), *_judged(word.facts[fact.id])])
        for fact in model.record.header.split.forget
        if fact.id in word.facts
    ]
    return Table(
        f"The verdict, fact by fact: {named(model)}",
        f"{P_VALUES} {UNATTACKED}",
        headings,
        rows,
        "question",
    )


def _judged(fact: FactVerdict) -> Iterable[Entry]:
    judged = fact.judged
    values = (judged.erased, judged.hidden, judged.after) if judged else (None, None, None)
    return cells([fact.verdict, *map(p_value, values)])


def fact_rows(model: Model) -> list[dict[str, object]]:
    """Return the verdict on every fact as plain data, in the order of the request."""
    word = model.judgement
    facts: list[FactText] = [f for f in model.record.header.split.forget if f.id in word.facts]
    return [
        {
            "fact": fact.id,
            "question": fact.question,
            "answer": fact.answer,
            **_data(word.facts[fact.id]),
        }
        for fact in facts
    ]


def _data(fact: FactVerdict) -> dict[str, object]:
    judged = fact.judged
    return {
        "verdict": fact.verdict,
        "said": fact.said,
        "evidence": judged.evidence if judged else None,
        "p_erased": judged.erased if judged else None,
        "p_hidden": judged.hidden if judged else None,
        "p_unattacked": judged.after if judged else None,
    }

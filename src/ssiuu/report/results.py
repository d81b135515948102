"""What `ssiuu.unlearn` and `ssiuu.audit` return: a record, as a table and as it looks in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from markupsafe import Markup, escape

from ssiuu.analysis.column import Model
from ssiuu.analysis.comparisons import compare
from ssiuu.analysis.rows import rows
from ssiuu.analysis.verdict import Judgement
from ssiuu.errors import ConfigError, unknown
from ssiuu.records.schema import Evaluation, FactText, RunRecord, Unlearning
from ssiuu.report.answer import answer, subject
from ssiuu.report.outcome import attempts, outcome
from ssiuu.report.tables import column_tables
from ssiuu.report.verdicts import fact_rows

FACTS = "facts"
M = TypeVar("M")  # the class of the caller's model; nothing here needs torch


@dataclass(frozen=True, repr=False)
class Unlearned(Generic[M]):
    """What unlearning led to.

    Attributes:
        model: The caller's own model: without the facts where `changed`, else as it was given.
        changed: Whether its weights were changed: where the facts were forgotten within the limits, or
            `keep_anyway` was said.
        record: All that was done and found.
    """

    model: M
    changed: bool
    record: Unlearning

    @property
    def state(self) -> str:
        """What it led to: "forgotten", "not forgotten" or "forgotten at a cost"."""
        return self.record.outcome.state if self.record.outcome else "not judged"

    def to_dataframe(self) -> Any:
        """Return the log as a pandas.DataFrame, one row a step.

        Raises:
            ConfigError: pandas is not installed.
        """
        return _frame(step.model_dump() for step in self.record.steps)

    def __repr__(self) -> str:
        said = "\n".join(outcome(self.record)) or self.state
        return f"{self.record.method.label}: {said}"

    def _repr_html_(self) -> str:
        lines = [*outcome(self.record), *self.record.notes]
        tried = Markup("<pre>{}</pre>").format("\n".join(attempts(self.record)))
        listed = Markup("").join(Markup("<li>{}</li>").format(line) for line in lines)
        title = Markup("<p><b>{}</b>: {}</p>").format(self.record.method.label, self.state)
        return str(title + Markup("<ul>") + listed + Markup("</ul>") + tried)


@dataclass(frozen=True, repr=False)
class Audited:
    """What an audit found of a pair of models."""

    record: RunRecord

    @property
    def verdict(self) -> str:
        """Of the model after: "erased", "hidden", "not removed" or "undecided"."""
        return self._judgement.verdict

    @property
    def answer(self) -> str:
        """The answer in words: how many facts are erased, hidden, not removed, undecided."""
        return " ".join(answer(self._judgement)).replace("\u00a0", " ")

    def facts(self) -> list[dict[str, Any]]:
        """Return the verdict on every fact, in the order of the request.

        Keys: `fact`, `question`, `answer`, `verdict`, `said` (freely), `evidence`, `p_erased`,
        `p_hidden`, `p_unattacked`; None where a fact could not be read.
        """
        return fact_rows(self._model)

    @cached_property
    def _model(self) -> Model:
        return Model(self.record, subject(self.record) or self.record.cells[-1])

    @property
    def _judgement(self) -> Judgement:
        return self._model.judgement

    def to_dataframe(self, of: str = "models") -> Any:
        """Return the table as a pandas.DataFrame.

        Args:
            of: "models": one row a model, all numbers of the table. "facts": one row a fact and model,
                with the verdict and its p-values for facts to forget.

        Raises:
            ConfigError: pandas is not installed, or there is no such table.
        """
        if of == "models":
            return _frame(rows(self.record)["rows"])
        if of != FACTS:
            raise ConfigError(unknown("table", of, ["models", FACTS], "to_dataframe"))
        return _frame(_facts(self.record))

    def __repr__(self) -> str:
        return f"{self.verdict}. {self.answer}"

    def _repr_html_(self) -> str:
        first = column_tables(self.record, compare(self.record))[0]
        word = Markup("<p><b>{}</b>. {}</p>").format(self.verdict, self.answer)
        note = Markup("<p>{}</p>").format(first.note)
        return str(word + _table(*first.lines) + note)


def _facts(record: RunRecord) -> Iterable[dict[str, Any]]:
    """Yield what every model made of every fact."""
    models: list[tuple[str, int | None, Evaluation]] = []
    if record.original:
        models.append(("before", None, record.original))
    models += [(c.method.label, c.seed, c.evaluation) for c in record.cells if c.evaluation]
    split = record.header.split
    sets: dict[str, Sequence[FactText]] = {
        "forget": split.forget,
        "retain": split.retain,
        "heldout": split.heldout,
        **split.others,
    }
    words: dict[tuple[str, int | None], dict[str, dict[str, Any]]] = {
        (cell.method.label, cell.seed): {
            str(row.pop("fact")): row for row in fact_rows(Model(record, cell))
        }
        for cell in record.cells
    }
    for label, seed, result in models:
        scored = {"forget": result.forget, "retain": result.retain, "heldout": result.heldout}
        scored |= result.others
        for name, facts in sets.items():
            for fact in facts:
                if fact.id in scored.get(name, {}):
                    texts: Mapping[str, Any] = {"question": fact.question, "answer": fact.answer}
                    who = {"model": label, "seed": seed, "set": name, "fact": fact.id}
                    word = words.get((label, seed), {}).get(fact.id, {}) if name == "forget" else {}
                    yield {**who, **texts, **word, **scored[name][fact.id].model_dump()}


def _frame(lines: Iterable[Mapping[str, Any]]) -> Any:
    try:
        import pandas
    except ImportError as error:
        raise ConfigError(
            "to_dataframe needs pandas, which is not installed: pip install pandas."
        ) from error
    return pandas.DataFrame([*lines])


def _table(headings: Sequence[str], *lines: Sequence[str]) -> Markup:
    """Return a table; every cell is escaped."""

    def row(cells: Sequence[str], tag: str) -> Markup:
        elements = (f"<{tag}>{escape(cell)}</{tag}>" for cell in cells)
        return Markup("<tr>" + "".join(elements) + "</tr>")

    body = Markup("").join(row(line, "td") for line in lines)
    return Markup("<table>") + row(headings, "th") + body + Markup("</table>")

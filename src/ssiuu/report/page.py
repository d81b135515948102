"""A whole run as one HTML page that needs nothing else: no network, no other file.

    Path("report.html").write_text(render(load_run(Path("runs/first"))), encoding="utf-8")

Everything that comes from a model or a data set is escaped by jinja2; the only markup let through
is the SVG made in `figures.py`. The page's security policy allows the one style and the one script
of the template by their hashes and nothing else. Equal records give equal pages.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ssiuu.analysis.beside import Beside
from ssiuu.analysis.columns import columns
from ssiuu.analysis.comparisons import compare
from ssiuu.analysis.levels import attack_names
from ssiuu.analysis.published import others
from ssiuu.analysis.verdict import VERDICTS
from ssiuu.records.schema import RunRecord, Verdict
from ssiuu.report.answer import subject
from ssiuu.report.audit import audit
from ssiuu.report.beside import beside_table
from ssiuu.report.equal import at_equal_retention
from ssiuu.report.few import Shown, few
from ssiuu.report.figures import Plot, figures
from ssiuu.report.findings import Finding, findings
from ssiuu.report.inside import inside_tables
from ssiuu.report.knowledge import sentences, trains
from ssiuu.report.packed import long_tables
from ssiuu.report.redacted import redaction
from ssiuu.report.tables import ORIGINS, column_tables, differences, paper, published
from ssiuu.report.text import clip, nats, percent, points, printable, rate, short
from ssiuu.report.tuned import tuning
from ssiuu.report.verdicts import verdict_table

# What is said of several models at once.
SAID: Mapping[Verdict, str] = {
    "erased": "Erased the facts:",
    "hidden": "Only hid them:",
    "not removed": "Did not remove them:",
    "undecided": "Undecided:",
}


def render(
    run: RunRecord | Shown,
    baseline: str | None = None,
    plots: Sequence[Plot] | None = None,
    beside: Sequence[Beside] = (),
    against: str | None = None,
) -> str:
    """Return the report of a run as one HTML page.

    Args:
        run: The run, or what is shown of it; of a large one only some models are (`ssiuu.report.few`).
        baseline: Label of the method the others are compared with; None: gd, or the first that trains.
        plots: The figures of what is shown; None: they are drawn.
        beside: Evaluations of other models by somebody else, shown in a table of their own.
        against: Key of the column that retention is held equal on; None: KL on plain text.

    Raises:
        ConfigError: The run has no method with this label.
    """
    record, left_out = run if isinstance(run, Shown) else few(run, baseline)
    style, script = template_text("style.css"), template_text("script.js")
    cell, found = subject(record), findings(record)
    said = audit(record, cell) if cell else None
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            policy=policy(style, script),
            style=Markup(style),
            script=Markup(script),
            header=record.header,
            redaction=redaction(record.header),
            left_out=left_out,
            trials=record.trials,
            tuning=tuning(record),
            audit=record.header.kind == "audit" and cell is not None,
            answer=said,
            words=verdict_table(record),
            tally=_tally(found),
            findings=found,
            attacks=attack_names(record),
            descriptions={cell.method.label: cell.method for cell in record.cells},
            plots=figures(record, against) if plots is None else plots,
            unknown=record.header.split.unknown,
            knowledge=sentences(record.header.knowledge, trains(record.header)),
            trained=trains(record.header),
            config=setting_lines(record.header.config, record.header.sources),
            verdicts=VERDICTS,
            origins=ORIGINS,
            inside=inside_tables(record),
            paper=paper(record),
            published=[published(block) for block in others(record)],
            **long_tables(record, said),
            **_numbers(record, baseline, beside, against),
        )
    )


def _tally(found: Sequence[Finding]) -> str:
    """Say of how many models what is said; controls are none of them."""
    methods = [finding for finding in found if finding.origin != "control"]
    labels = {v: [finding.name for finding in methods if finding.verdict == v] for v in VERDICTS}
    parts = [f"{SAID[v]} {', '.join(labels[v])}." for v in VERDICTS if labels[v]]
    return " ".join(parts) if len(methods) > 1 else ""


def _numbers(
    record: RunRecord,
    baseline: str | None,
    beside: Sequence[Beside] = (),
    against: str | None = None,
) -> dict[str, Any]:
    """Return the tables of the columns; here the first one holds what is inside, too.

    Raises:
        ConfigError: The run has no method with the label `baseline`.
    """
    comparisons = compare(record, baseline)
    main, *more = column_tables(record, comparisons, joined=True)
    keys = {heading.key for heading in main.headings}
    legend: dict[str, list[str]] = {}
    for column in columns(record):
        if column.key in keys or column.beside in keys:
            legend.setdefault(column.meaning, []).append(column.heading)
    return {
        "main": main,
        "legend": legend,
        "more": [
            *more,
            *([table] if (table := at_equal_retention(record, against)) else []),
            *([beside_table(record, beside)] if beside else []),
        ],
        "compared": comparisons,
        "baseline": comparisons[0].baseline if comparisons else "",
        "differences": differences(record, comparisons),
    }


def template_text(name: str) -> str:
    """Return a file of the templates that holds no variables."""
    return files("ssiuu.report").joinpath("template", name).read_text(encoding="utf-8")


def environment() -> Environment:
    """Return what renders the templates: all is escaped, unknown names are errors."""
    environment = Environment(
        loader=PackageLoader("ssiuu.report", "template"),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "nats": nats,
        "short": short,
        "points": points,
        "rate": rate,
        # Only ever used on SVG that figures.py made.
        "own_svg": Markup,
        "clip": clip,
    }
    return environment


def _printable(value: Any) -> Any:
    # Markup is a str too, and left alone: it is what we made ourselves.
    return printable(value) if type(value) is str else value


def policy(style: str, script: str | None = None) -> str:
    """Return a Content-Security-Policy that allows these texts and nothing else."""
    scripts = "" if script is None else f"script-src 'sha256-{_hash(script)}'; "
    return (
        "default-src 'none'; "
        f"style-src 'sha256-{_hash(style)}'; "
        f"{scripts}"
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@dataclass(frozen=True)
class SettingLine:
    """One resolved key of the configuration and where its value came from."""

    key: str
    value: str
    source: str


def setting_lines(config: Mapping[str, Any], sources: Mapping[str, str]) -> list[SettingLine]:
    """Return a nested configuration as dotted keys, each with its own or its parent's source."""
    return [
        SettingLine(
            key,
            value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str),
            _source(key, sources),
        )
        for key, value in _leaves(config, "")
    ]


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    children: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        children = [(str(name), child) for name, child in value.items()]
    elif isinstance(value, list) and any(isinstance(child, Mapping) for child in value):
        children = [(str(index), child) for index, child in enumerate(value)]
    if not children:
        yield key, value
    for name, child in children:
        yield from _leaves(child, f"{key}.{name}" if key else name)


def _source(key: str, sources: Mapping[str, str]) -> str:
    while key:
        if key in sources:
            return sources[key]
        key = key.rpartition(".")[0]
    return ""

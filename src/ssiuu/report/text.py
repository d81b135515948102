"""The table of a run as plain text, and how every report writes a number.

    print(summary(load_run(Path("runs/first"))))

Imports neither torch nor matplotlib. A value that was not measured is a dash, never 0.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ssiuu.analysis.column import Column, Form, Model, seeds_of
from ssiuu.analysis.columns import attack_scales, models, shown
from ssiuu.analysis.divergence import DAMAGED, WORDS, damaged_labels
from ssiuu.analysis.levels import attack_names
from ssiuu.analysis.scores import score_of
from ssiuu.analysis.standard import seconds
from ssiuu.records.schema import RunRecord
from ssiuu.report.answer import NOT_PROOF, UNEXAMINED, answer
from ssiuu.report.knowledge import sentences, trains
from ssiuu.report.redacted import redaction

DASH = "–"
WIDTH = 110
Z = 1.96  # standard errors on either side of an estimate, in 95 %
# Longer method labels are cut, so that one label cannot push the numbers off the screen.
LABEL = 18
# Free answers are cut here; a model that rambles would else fill the page.
ANSWER = 240
# What HTML may not hold, except for the white space among it.
CONTROL = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n\r"}
SHORT, LINE = 7, 12  # characters of a heading that stay on one line, and that fit on one


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share in [0, 1] as a number of per cent, without the sign."""
    return _number(share, lambda value: f"{100 * value:.{digits}f}".replace("-", "−"))


def span(low: float, high: float) -> str:
    """Return the ends of an interval of a share as whole per cents: 72–90."""
    return f"{percent(low, 0)}–{percent(high, 0)}"


def points(value: float) -> str:
    """Return a difference of two shares in percentage points, with its sign."""
    text = f"{100 * value:+.1f}"
    # What rounds to 0 has no sign.
    return text.replace("-", "−") if float(text) else text[1:]


def nats(value: float | None) -> str:
    """Return a log-probability with one decimal and a true minus sign."""
    return _number(value, lambda number: f"{number:.1f}".replace("-0.0", "0.0").replace("-", "−"))


def kl(value: float | None, error: float | None = None) -> str:
    """Return a divergence in nats a token, ± half its 95 % interval where the error is given."""
    if value is None:
        return DASH
    if abs(value) < 1e-6:
        return "0"
    if abs(value) < 0.001:
        return "<0.001"
    digits = 3 if value < 0.0995 else 2
    half = f" ± {Z * error:.{digits}f}" if error is not None else ""
    return f"{value:.{digits}f}{half}"


def short(value: float | None) -> str:
    """Return a number of any size in at most about five characters: 0.042, 12.3, 4.5k, 1.2M."""
    return _number(value, _short)


def rate(value: float) -> str:
    """Return a small number as people write a learning rate: 1e-4 and 5.7e-5."""
    if not 0 < abs(value) < 0.01:
        return f"{value:g}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def clip(text: str) -> str:
    """Return the text, cut where it is very long."""
    return text if len(text) <= ANSWER else text[:ANSWER].rstrip() + " …"


def printable(text: str) -> str:
    """Return the text with what HTML may not hold replaced."""
    return text.translate(CONTROL)


def plain(text: str) -> str:
    """Return the text with control characters replaced, so that no label can steer a terminal."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def _number(value: float | None, form: Callable[[float], str]) -> str:
    if value is None:
        return DASH
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return form(value)


def _short(value: float) -> str:
    size = abs(value)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 0.9995 is where rounding to three digits would print 1000.
        if size >= limit * 0.9995:
            return f"{value / limit:.3g}{unit}".replace("-", "−")
    if size and size < 0.001:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.3g}".replace("-", "−")


def ratio(value: float | None) -> str:
    """Return a number with two decimals."""
    return _number(value, "{:.2f}".format)


def signed(value: float | None) -> str:
    """Return a number with one decimal and a true minus sign."""
    return _number(value, lambda number: f"{number:.1f}".replace("-", "−"))


FORMS: dict[Form, Callable[[Any], str]] = {
    "share": percent,
    "nats": nats,
    "divergence": kl,
    "number": short,
    "ratio": ratio,
    "rate": lambda value: DASH if value is None else rate(value),
    "signed": signed,
    "whole": lambda value: _number(value, "{:.0f}".format),
    "gigabytes": lambda value: _number(value, lambda megabytes: f"{megabytes / 1000:.1f}"),
    "words": lambda value: DASH if value is None else plain(value),
}


def written(column: Column, model: Model) -> str:
    """Return a model's value in a column; a dash where it was not measured."""
    return FORMS[column.form](column.read(model))


def named(model: Model) -> str:
    """Return what a model is called in a table: its method, and its seed where a run has several."""
    several = len(seeds_of(model.record)) > 1 and not model.before
    return f"{model.cell.method.label}, seed {model.cell.seed}" if several else model.cell.method.label


class _Column(NamedTuple):
    """One column of the text table: a heading of two lines, and what stands below it."""

    heading: tuple[str, str]
    cells: list[str]
    words: bool

    @property
    def width(self) -> int:
        return max(6, *map(len, self.heading), *map(len, self.cells))


def summary(record: RunRecord, width: int = WIDTH) -> str:
    """Return the table of a run for a terminal, at most so many columns wide (60 or more).

    Columns that do not fit stand in a second table below the first; each starts with the method.
    """
    run = models(record)
    methods = _Column(("method", ""), [_label(model) for model in run], True)
    values = [
        _Column(
            _two_lines(plain(column.heading)), [written(column, m) for m in run], column.form == "words"
        )
        for column in shown(record)
    ]
    lines = [*_wrapped(_headline(record), width), ""]
    for block in _blocks(methods, values, width) if values else []:
        lines += [*_table(block), ""]
    return "\n".join([*lines, *_answers(record, width), *_footnotes(record, width)]) + "\n"


def block_table(title: str, headings: Sequence[str], *rows: Sequence[str], width: int = WIDTH) -> str:
    """Return a table for a terminal, in blocks that each begin with its first column."""
    columns = [
        _Column(_two_lines(plain(heading)), [plain(row[place]) for row in rows], place == 0)
        for place, heading in enumerate(headings)
    ]
    blocks = ["\n".join(_table(block)) for block in _blocks(columns[0], columns[1:], width)]
    return "\n\n".join([plain(title), *blocks]) + "\n"


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(plain(text), width, break_on_hyphens=False, subsequent_indent=indent)


def _answers(record: RunRecord, width: int) -> list[str]:
    """Return the answer on every model that was examined, controls last; or that none was."""
    ordered = sorted(record.cells, key=lambda cell: cell.method.origin == "control")
    examined = [m for m in (Model(record, cell) for cell in ordered) if m.judgement.judged]
    lines = []
    for model in examined:
        text = f"{_label(model)}: {' '.join(answer(model.judgement))}".replace("\u00a0", " ")
        lines += _wrapped(text, width, "  ")
    if lines:
        return [*lines, *_wrapped(NOT_PROOF, width), ""]
    judged = any(Model(record, cell).judgement.facts for cell in ordered)
    return [*_wrapped(UNEXAMINED, width), ""] if judged else []


def _headline(record: RunRecord) -> str:
    header = record.header
    chance = percent(header.chance, 0) + " %" if header.chance is not None else "not scored"
    parts = [
        f"protocol {header.protocol}",
        header.model.name,
        f"{header.benchmark.name} {header.benchmark.version}",
        f"{len(header.split.forget)} facts to forget",
        f"chance {chance}",
    ]
    return "Erased or hidden?  " + " · ".join(parts)


def _two_lines(heading: str) -> tuple[str, str]:
    """Break a heading where its halves are most alike, at a space or after a hyphen."""
    places = [place + 1 for place, char in enumerate(heading) if char in " -"]
    if len(heading) <= SHORT or not places:
        return heading[:LINE], ""
    at = min(places, key=lambda place: max(place, len(heading) - place))
    return heading[:at].rstrip()[:LINE], heading[at:][:LINE]


def _label(model: Model) -> str:
    """Return the method's label, cut, with its seed whole."""
    method, name = plain(model.cell.method.label), plain(named(model))
    seed = name.removeprefix(method).replace(", seed ", " s")
    room = LABEL - len(seed)
    return (method if len(method) <= room else method[: room - 1] + "…") + seed


def _blocks(methods: _Column, values: list[_Column], width: int) -> list[list[_Column]]:
    """Split the columns so that each block, with the method in front, fits the width."""
    blocks, used = [[methods]], methods.width
    for column in values:
        if used + 1 + column.width > width:
            blocks.append([methods])
            used = methods.width
        blocks[-1].append(column)
        used += 1 + column.width
    return blocks


def _table(block: list[_Column]) -> list[str]:
    headings = [_line(block, [column.heading[line] for column in block]) for line in (0, 1)]
    rule = "-" * (sum(column.width for column in block) + len(block) - 1)
    rows = zip(*(column.cells for column in block), strict=True)
    return [*headings, rule, *(_line(block, list(row)) for row in rows)]


def _line(block: list[_Column], values: list[str]) -> str:
    # Words (method, verdict) stand left, numbers right.
    cells = [
        value.ljust(column.width) if column.words else value.rjust(column.width)
        for column, value in zip(block, values, strict=True)
    ]
    return " ".join(cells).rstrip()


def attack_units(record: RunRecord) -> str:
    """Say in which unit the attack columns are, attack by attack where they differ.

    Attacks that nothing was scored of have no column.
    """
    names: dict[str, list[str]] = {}
    columns = {column.key for column in shown(record)}
    for name, scale in attack_scales(record).items():
        if name in columns:
            names.setdefault(scale.unit, []).append(name)
    if len(names) < 2:
        return next(iter(names), score_of(record).scale.unit)
    return "; ".join(f"{unit} ({', '.join(attacks)})" for unit, attacks in names.items())


def failures(record: RunRecord) -> list[str]:
    """Return which cells broke off and why, a sentence each."""
    return [
        plain(f"{named(Model(record, cell))} broke off: {cell.failed.reason}")
        for cell in record.cells
        if cell.failed
    ]


def _footnotes(record: RunRecord, width: int) -> list[str]:
    header = record.header
    scored = {column.key for column in shown(record)}
    forms = [f"Asked in {header.prompt}"] if header.prompt else []
    forms += [f"Other form: {header.other_prompt}"] if "forget_other" in scored else []
    notes = [line for form in forms for line in _wrapped(form, width)]
    remarks = [
        *filter(None, [redaction(header)]),
        "Shares in %; a dash is 'not scored'. log p: mean log-probability of an answer, nats. D+, D−: "
        "target log-probability. KL: from the original's predictions, nats a token. Peak: memory while "
        "unlearning.",
        *sentences(header.knowledge, trains(header)),
    ]
    if attack_names(record):
        remarks.append(
            f"Attack columns: the highest {attack_units(record)} along the curves of all learning "
            "rates, over the facts no attack trained on."
        )
    if labels := damaged_labels(record.cells):
        damage = f"{WORDS[0].upper()}{WORDS[1:]} (KL on plain text above {DAMAGED:g})"
        remarks.append(f"{damage}: {', '.join(labels)}.")
    for sentence in remarks:
        notes += _wrapped(sentence, width)
    for sentence in failures(record):
        notes += _wrapped(sentence, width)
    if any(seconds(cell) == 0 and not cell.failed for cell in record.cells):
        notes.append("Some cells have not run yet.")
    return notes

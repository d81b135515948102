"""Of a large run a page shows some models, says which, and says what it leaves out."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from sample_record import sample_record
from ssiuu.analysis.across import grounds
from ssiuu.analysis.front import axis, front, layers
from ssiuu.analysis.verdict import judgement
from ssiuu.records.schema import RunRecord
from ssiuu.report import few as module
from ssiuu.report import page, write_report
from ssiuu.report.compare_page import render_comparison
from ssiuu.report.few import few, few_members

SAMPLE = sample_record()


def large(methods: int, seeds: int) -> RunRecord:
    """Return the sample with its last method under so many names and seeds, beside its controls."""
    controls = [cell for cell in SAMPLE.cells if cell.method.origin == "control"]
    gd, last = next(c for c in SAMPLE.cells if c.method.label == "gd"), SAMPLE.cells[-1]
    made = [gd.model_copy(update={"seed": seed}) for seed in range(seeds)]
    for number, seed in itertools.product(range(methods), range(seeds)):
        method = last.method.model_copy(update={"label": f"m{number}", "origin": "ours"})
        made.append(last.model_copy(update={"method": method, "seed": seed}))
    return SAMPLE.model_copy(update={"cells": [*made, *controls]})


def test_a_run_that_fits_is_shown_as_it_is() -> None:
    assert few(SAMPLE).record is SAMPLE and few(SAMPLE).left_out == ""
    fits, more = large(9, 9), large(19, 5)
    assert len(fits.cells) <= module.MOST and few(fits).left_out == ""
    assert len(more.cells) > module.MOST and few(more).left_out


def test_a_page_says_what_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssiuu.report.figures.figures", lambda record, _: seen.append(record) or [])
    record, seen = large(60, 6), list[RunRecord]()
    shown, left_out = few(record)
    labels = [cell.method.label for cell in shown.cells]
    assert len(labels) == module.MOST and labels.count("gd") == labels.count("m0") == module.SEEDS
    controls = {cell.method.label for cell in record.cells if cell.method.origin == "control"}
    assert controls and controls <= {*labels}
    text = write_report(record, tmp_path).read_text()
    assert left_out in text and seen[0].cells == shown.cells
    total = len(record.cells)
    assert f"This run has {total} models of {61 + len(controls)} methods: " in left_out
    assert f"This page shows 100 of them, of {len({*labels})} methods: " in left_out
    assert f"The other {total - 100} are left out of everything below." in left_out
    words = {judgement(record, cell).verdict for cell in record.cells}
    assert all(f" {word}" in left_out.partition(".")[0] for word in words)
    assert len((tmp_path / "verdicts.csv").read_text().splitlines()) > 60 * 6
    assert "m59" in (tmp_path / "verdicts.csv").read_text() and "m59" not in text


def test_a_comparison_says_what_it_leaves_out() -> None:
    (ground,) = grounds({"one": large(200, 1)})
    shown = few_members(ground)
    assert len(shown.members) == module.MOST and shown.members[0].before
    best = {member.name for member in front(ground, axis(ground))}
    assert best and (best <= {m.name for m in shown.members} or len(best) > 90)
    text = render_comparison([ground])
    assert f"This page shows 100 of {len(ground.members)} rows: " in text
    (fits,) = grounds({"one": SAMPLE})
    assert few_members(fits) is fits


def test_of_few_methods_more_seeds_are_shown() -> None:
    shown = few(large(1, 200)).record
    assert sum(cell.method.label == "m0" for cell in shown.cells) >= 20


def test_the_baseline_is_shown_wherever_it_stands() -> None:
    assert any(cell.method.label == "m59" for cell in few(large(60, 6), "m59").record.cells)


def test_what_nobody_beats_in_both_comes_first() -> None:
    """Against taking such points away layer by layer, as one would by hand."""
    draw = random.Random(1)
    points = {str(n): (draw.randrange(8) / 4, draw.randrange(8) / 4) for n in range(60)}

    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one != other and one[0] <= other[0] and one[1] <= other[1]

    left, wanted = dict(points), dict[str, int]()
    for layer in itertools.count():
        if not left:
            break
        first = [k for k, p in left.items() if not any(beats(other, p) for other in left.values())]
        for name in first:
            wanted[name] = layer
            del left[name]
    assert layers(points) == wanted and max(wanted.values()) > 3


def test_a_verdict_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    record, asked = sample_record().model_copy(deep=True), list[object]()
    real = judgement.__globals__["_judgement"]
    monkeypatch.setitem(
        judgement.__globals__, "_judgement", lambda *given: asked.append(given) or real(*given)
    )
    monkeypatch.setattr(page, "figures", lambda *_: [])
    page.render(record)
    assert 0 < len(asked) <= len(record.cells) + 1

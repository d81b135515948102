"""What a report says of the look inside: two attributions, stability, what predicts recovery.

pytest tests/unit/test_inside_report.py
"""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import spearmanr

from golden_records import PAIRS, look_inside
from sample_record import HOSTILE, sample_record
from ssiuu.analysis.agreement import agreement, conclusion
from ssiuu.analysis.prediction import MEASURES, attack_outcomes, prediction
from ssiuu.records.schema import (
    Diagnosis,
    RunRecord,
    Stability,
)
from ssiuu.report import write_report
from ssiuu.report.figures import figure_numbers, figures, stability_curves
from ssiuu.report.formats import FORMATS
from ssiuu.report.inside import inside_tables
from ssiuu.report.page import render
from ssiuu.statistics.ranks import spearman


def inside(record: RunRecord, factors: tuple[float, ...] = (1, 1, 1, 1, 1)) -> RunRecord:
    cells = [look_inside(c, f) for c, f in zip(record.cells, factors, strict=True)]
    return record.model_copy(update={"cells": cells})


@pytest.fixture(scope="module")
def record() -> RunRecord:
    return inside(sample_record())


# --- two attributions ---------------------------------------------------------------------------


def test_conclusions_that_hold_under_both(record: RunRecord) -> None:
    found = agreement(record)
    assert (found.methods, found.d_minus_all, found.hide_ratio) == (4, 1.0, 1.0)
    said = conclusion(record)
    assert "same side of one half for 4 of 4 models" in said and said.endswith("hold under both.")
    table = next(t for t in inside_tables(record) if t.title == "D+ and D− by two attributions")
    assert table.title == "D+ and D− by two attributions" and said in table.note
    gd = next([str(cell) for cell in row.cells] for row in table.rows if row.name == "gd")
    assert gd[0] == gd[1] == "310" and gd[2] == gd[3] == "2.24k" and gd[6] == "3.1 %"


def test_conclusions_that_do_not(record: RunRecord) -> None:
    other = inside(sample_record(), (1, 0.01, 1, 1, 1))  # of gd little was added, by the second one
    said = conclusion(other)
    assert "for 3 of 4 models" in said and "do not all hold" in said
    assert "tau (1: the same): D+ 1.00, D− 0.00" in said
    turned = inside(sample_record(), (1, 1, 1, 1.1, 1))  # only the order of two changes
    assert "for 4 of 4" in conclusion(turned) and "do not all hold" in conclusion(turned)
    one = record.model_copy(update={"cells": record.cells[1:2]})
    assert "no order to compare" in conclusion(one)
    assert conclusion(sample_record()) == ""


# --- what predicts recovery ---------------------------------------------------------------------


def test_prediction_is_the_rank_correlation_with_what_the_attacker_gets(record: RunRecord) -> None:
    cells = [cell for cell in record.cells if cell.method.name != "none"]
    got = {(p.measure, p.outcome): p for p in prediction([record])}
    assert len(got) == 2 * len(MEASURES)
    for outcome in ("recovery", "level"):
        wanted = spearmanr(
            [c.diagnosis.influence["logprob"].d_minus_100 for c in cells if c.diagnosis],
            [found[outcome] for c in cells if (found := attack_outcomes(record, c))],
        ).statistic
        found = got["D− top 100", outcome]
        assert found.correlation is not None and found.cells == found.methods == 4
        assert found.correlation.value == pytest.approx(wanted)
        assert not found.predicts  # four methods show nothing
    assert got["depth score", "level"].correlation is None  # not measured
    assert got["depth score", "level"].cells == 0


def test_recovery_is_the_level_less_where_the_attack_began(record: RunRecord) -> None:
    cell = record.cells[1]
    found = attack_outcomes(record, cell)
    pool = set.intersection(*(set(a.pool) for a in cell.attacks))
    pool -= {i for a in cell.attacks for i in a.trained}

    def level(read: Any) -> float:
        scored = [read.facts[i].correct for i in pool if read.facts[i].correct is not None]
        return sum(scored) / len(scored)

    highest = max(level(read) for a in cell.attacks for read in a.reads[1:])
    assert found == {
        "level": pytest.approx(highest),
        "recovery": pytest.approx(highest - level(cell.attacks[0].reads[0])),
    }
    assert attack_outcomes(record, cell.model_copy(update={"attacks": []})) is None


def test_several_runs_are_ranked_each_within_its_own(record: RunRecord) -> None:
    """A second run of the same methods on another scale changes no rank."""
    header = record.header.model_copy(
        update={"model": record.header.model.model_copy(update={"fingerprint": "other"})}
    )
    cells = [
        c.model_copy(
            update={
                "diagnosis": c.diagnosis.model_copy(
                    update={
                        "influence": {
                            "logprob": c.diagnosis.influence["logprob"].model_copy(
                                update={
                                    "d_minus_100": 1e6 + c.diagnosis.influence["logprob"].d_minus_100
                                }
                            )
                        }
                    }
                )
            }
        )
        if c.diagnosis
        else c
        for c in record.cells
    ]
    other = record.model_copy(update={"header": header, "cells": cells})
    one, two = prediction([record])[0], prediction([record, other])[0]
    assert (one.cells, two.cells, two.methods) == (4, 8, 8)
    assert one.correlation and two.correlation
    assert two.correlation.value == pytest.approx(one.correlation.value)


def test_the_page_and_every_format_show_both_tables(record: RunRecord) -> None:
    page = render(record, plots=[])
    assert "What the diagnosis predicts" in page and "holds 0" in page and 'id="inside"' in page
    assert "No measure&#39;s interval excludes 0." in page
    for name in ("md", "latex"):
        assert "What the diagnosis predicts" in FORMATS[name](record, None)
    assert '"prediction"' in FORMATS["json"](record, None)
    few = record.model_copy(update={"cells": record.cells[:4]})
    assert all(table.title != "What the diagnosis predicts" for table in inside_tables(few))


# --- rank correlation ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_spearman_equals_the_library_with_and_without_ties(seed: int) -> None:
    rng = random.Random(seed)
    xs, ys = ([rng.choice([rng.gauss(0, 1), 0.5]) for _ in range(12)] for _ in range(2))
    found = spearman(xs, ys, [str(i) for i in range(12)])
    assert found is not None and found.low <= found.value <= found.high
    assert found.value == pytest.approx(spearmanr(xs, ys).statistic)
    scaled = spearman([3 * x + 1 for x in xs], [y**3 for y in ys], [str(i) for i in range(12)])
    assert scaled == pytest.approx(found)


def test_the_interval_of_a_rank_correlation_against_a_slow_bootstrap() -> None:
    rng = random.Random(3)
    clusters = [c for c in "abcdefgh" for _ in range(2)]
    xs = [rng.gauss(0, 1) for _ in clusters]
    ys = [x + rng.gauss(0, 1) for x in xs]
    found = spearman(xs, ys, clusters)
    drawn = []
    for _ in range(2000):
        rows = [i for c in rng.choices("abcdefgh", k=8) for i in range(16) if clusters[i] == c]
        drawn.append(spearmanr([xs[i] for i in rows], [ys[i] for i in rows]).statistic)
    drawn.sort()
    assert found is not None
    assert (found.low, found.high) == pytest.approx((drawn[50], drawn[-50]), abs=0.06)


def test_what_has_no_rank_correlation() -> None:
    assert spearman([1.0, 1.0], [1.0, 2.0], ["a", "b"]) is None
    assert spearman([1.0, 2.0], [1.0, 2.0], ["a", "a"]) is None
    few = spearman([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], list("abc"))
    assert few is not None and few.value == pytest.approx(1.0) and few.low <= 0
    many = spearman(range(6), range(6), list("abcdef"))
    assert many is not None and many.low == pytest.approx(1.0)
    across = spearman([1, 2, 11, 12], [2, 1, 12, 11], list("abcd"), ["x", "x", "y", "y"])
    assert across is not None and across.value == pytest.approx(-1.0)  # within each: the reverse
    with pytest.raises(ValueError, match="finite"):
        spearman([float("nan"), 1.0], [1.0, 2.0], ["a", "b"])
    with pytest.raises(ValueError, match="as many"):
        spearman([1.0, 2.0], [1.0, 2.0], ["a"])


# --- figures and their numbers ------------------------------------------------------------------


def test_stability_is_drawn_with_its_numbers(record: RunRecord) -> None:
    plot = stability_curves(record)
    assert "harmful_0.3 at step 6" in plot.reading and "Attribution target" in plot.reading
    assert len(plot.panels) == 3 + 4 and len(plot.legend) == 4
    rows = list(csv.DictReader(io.StringIO(figure_numbers([plot]))))
    gd = [r for r in rows if r["method"] == "gd" and r["panel"].startswith("Correlation, lowest")]
    assert [(r["x"], float(r["y"])) for r in gd] == list(zip(PAIRS, (0.25, 0.875, 0.5), strict=True))
    assert any(r["panel"] == "Neurons that come back" and r["x"] == "100" for r in rows)
    assert any(r["method"] == "gd, attacked" and r["y"] == "5" for r in rows)


def test_every_figure_has_its_numbers_beside_the_page(record: RunRecord, tmp_path: Path) -> None:
    full = inside(sample_record())
    hostile = full.model_copy(update={"cells": full.cells[:3]})  # drawing takes time
    method = hostile.cells[1].method.model_copy(update={"label": f"=1+{HOSTILE}"})
    cells = [
        c if n != 1 else c.model_copy(update={"method": method}) for n, c in enumerate(hostile.cells)
    ]
    write_report(hostile.model_copy(update={"cells": cells}), tmp_path)
    with (tmp_path / "figures.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["figure", "panel", "method", "seed", "x", "y", "low", "high"]
    drawn = {
        "verdicts",
        "attacks",
        "front",
        "cumulative",
        "bars",
        "heat",
        "lens",
        "stability",
        "training",
    }
    assert {row["figure"] for row in rows} == drawn
    assert any(row["method"].startswith("'=1+") for row in rows)
    assert not any(row["method"].startswith("=") for row in rows)
    bar = next(r for r in rows if r["figure"] == "bars" and r["method"] == "npo" and r["x"] == "D−")
    found = hostile.cells[2].diagnosis
    assert found is not None and float(bar["y"]) == found.influence["logprob"].d_minus_100
    cell = next(r for r in rows if r["figure"] == "heat" and r["method"] == "npo")
    assert cell["x"] == "q, layer 0"
    assert float(cell["y"]) == found.influence["logprob"].map_plus["q"][0]
    front = next(r for r in rows if r["figure"] == "front" and r["method"] == "npo")
    assert float(front["low"]) < float(front["y"]) < float(front["high"])
    assert "figures.csv" in (tmp_path / "report.html").read_text()


def test_a_diverged_attack_is_told(record: RunRecord) -> None:
    diverged = Stability(target="logprob", attack="x", facts=0, note="diverged in step 1")
    cells = [c.model_copy(update={"stability": diverged}) for c in record.cells]
    plot = stability_curves(record.model_copy(update={"cells": cells}))
    assert plot.panels == [] and "diverged in step 1" in plot.absent


def test_older_records_of_a_diagnosis_are_read(record: RunRecord) -> None:
    made = record.cells[1].diagnosis
    assert made is not None
    older = made.model_dump(mode="json") | {"integrated": None, "stability": None}
    assert Diagnosis.model_validate(older) == made
    with pytest.raises(ValueError, match="integrated"):
        Diagnosis.model_validate(older | {"integrated": 1})


def test_a_plot_that_is_absent_has_no_numbers() -> None:
    bare = sample_record()
    empty = bare.model_copy(update={"cells": []})
    assert figure_numbers(figures(empty)).splitlines() == ["figure,panel,method,seed,x,y,low,high"]

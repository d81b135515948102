"""How far a model moved, in every table: beside what it kept, and said in words where it is damage."""

from __future__ import annotations

import csv
import io
import json

import pytest
from matplotlib import rc_context

from sample_record import sample_record
from ssiuu.analysis.column import Model
from ssiuu.analysis.columns import columns, models
from ssiuu.analysis.comparisons import interval
from ssiuu.analysis.front import axes_of
from ssiuu.analysis.kept import kept_share, lost
from ssiuu.analysis.rows import rows
from ssiuu.errors import ConfigError
from ssiuu.records.schema import Cell, RunRecord
from ssiuu.report.equal import at_equal_retention
from ssiuu.report.figures import retention_front
from ssiuu.report.figures.draw import RC
from ssiuu.report.formats import FORMATS
from ssiuu.report.kept import kept
from ssiuu.report.page import render
from ssiuu.report.text import DASH, kl, summary


@pytest.fixture(scope="module")
def record() -> RunRecord:
    return sample_record()


@pytest.fixture(scope="module")
def older(record: RunRecord) -> RunRecord:
    """The same run as it was written before anything of this was scored."""
    text = record.model_dump()
    for evaluation in (text["original"], *(cell["evaluation"] for cell in text["cells"])):
        del evaluation["divergence"]
    return RunRecord.model_validate(text)


@pytest.fixture(autouse=True)
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssiuu.report.page.figures", lambda record, against: [])


def test_numbers_are_written_as_precisely_as_they_are_known() -> None:
    assert kl(None) == DASH and kl(0.0) == "0" and kl(-1e-9) == "0" and kl(0.0004) == "<0.001"
    assert kl(0.0263, 0.002) == "0.026 ± 0.004" and kl(0.931, 0.03) == "0.93 ± 0.06"
    assert kl(0.0996) == "0.10" and kl(12.345, 1.0) == "12.35 ± 1.96"


def test_every_format_has_both_measures(record: RunRecord) -> None:
    row = next(r for r in rows(record)["rows"] if r["method"] == "gd")
    assert row["kl"] == pytest.approx(0.3969) and row["kl_instructions"] == pytest.approx(0.7056)
    assert row["perplexity"] == 52.0 and row["kl_se"] and row["kl_instructions_se"]
    assert json.loads(FORMATS["json"](record, None))["rows"][1]["kl"] == row["kl"]
    lines = list(csv.DictReader(io.StringIO(FORMATS["csv"](record, None))))
    assert float(lines[1]["kl"]) == row["kl"] and float(lines[1]["perplexity"]) == 52.0
    for name in ("md", "latex"):
        assert "0.40 ± 0.04" in FORMATS[name](record, None) and "KL instr." in FORMATS[name](
            record, None
        )
    gd = next(line for line in summary(record).splitlines() if line.startswith("gd "))
    assert " 0.40   0.71" in gd
    page = render(record)
    assert "0.40<small>± 0.04</small>" in page and ">Moved</th>" in page


def test_unrelated_answers_count_where_the_original_gave_them(record: RunRecord) -> None:
    column = next(c for c in columns(record) if c.key == "unrelated_free")
    before, gd = (m for m in models(record) if m.cell.method.label in ("before unlearning", "gd"))
    assert column.read(before) == 1.0 and column.read(gd) == pytest.approx(12 / 20)
    assert record.original is not None and len(record.original.unrelated) == 24
    ends = interval(gd, column)
    assert ends is not None and ends.low < 0.6 < ends.high
    nothing = {
        i: s.model_copy(update={"free_correct": False}) for i, s in record.original.unrelated.items()
    }
    first = record.original.model_copy(update={"unrelated": nothing})
    silent = record.model_copy(update={"original": first})
    assert all(column.read(model) is None for model in models(silent))


def test_kept_is_said_by_both_measures(record: RunRecord) -> None:
    gd = next(cell for cell in record.cells if cell.method.label == "gd")
    said = kept(record, gd)
    assert said.startswith("Kept ") and "of the facts held out ranked first (before: " in said
    assert "moved 0.40 ± 0.04 nats a token on plain text and 0.71 ± 0.17 on the answers" in said
    damage = "general language ability damaged and fewer than 80 % of such facts kept"
    assert said.endswith(f"(perplexity 31 → 52): {damage}.")
    assert said in render(record)


def with_levels(record: RunRecord, label: str, plain: float, heldout: float) -> tuple[RunRecord, Cell]:
    """Return the record with a method that moved so far and ranks this share of the original's facts."""
    cell = next(c for c in record.cells if c.method.label == label)
    assert cell.evaluation is not None and cell.evaluation.divergence is not None
    assert record.original is not None
    right = [i for i, score in record.original.heldout.items() if score.correct]
    still = set(right[: round(heldout * len(right))])
    scores = {
        i: s.model_copy(update={"correct": i in still}) for i, s in cell.evaluation.heldout.items()
    }
    moved = cell.evaluation.divergence.model_copy(update={"plain": plain})
    changed = cell.model_copy(
        update={
            "evaluation": cell.evaluation.model_copy(update={"divergence": moved, "heldout": scores})
        }
    )
    cells = [changed if c is cell else c for c in record.cells]
    return record.model_copy(update={"cells": cells}), changed


@pytest.mark.parametrize(
    ("plain", "heldout", "word"),
    [
        (0.02, 0.9, "yes"),
        (0.1, 0.9, "yes"),
        (0.11, 0.9, "no: plain text"),
        (0.02, 0.5, "no: facts"),
        (0.5, 0.5, "no: both"),
        (float("nan"), 0.9, "no: plain text"),
    ],
)
def test_a_model_is_kept_by_both_measures_alone(
    record: RunRecord, plain: float, heldout: float, word: str
) -> None:
    changed, cell = with_levels(record, "npo", plain, heldout)
    share = kept_share(changed, cell)
    assert share == pytest.approx(heldout, abs=0.05)
    column = next(c for c in columns(changed) if c.key == "kept")
    assert column.read(Model(changed, cell)) == word
    assert (cell.evaluation is not None) and rows(changed)["rows"][2]["kept"] == word
    assert ("of such facts kept" in kept(changed, cell)) == (heldout < 0.8)


def test_one_measure_alone_calls_no_model_kept(older: RunRecord) -> None:
    """A record without the divergence; one in which the facts were lost is not kept all the same."""
    whole = next(c for c in older.cells if c.method.label == "gd-gate")
    assert lost(older, whole) is None
    assert whole.evaluation is not None
    gone = {i: s.model_copy(update={"correct": False}) for i, s in whole.evaluation.heldout.items()}
    broken = whole.model_copy(
        update={"evaluation": whole.evaluation.model_copy(update={"heldout": gone})}
    )
    assert lost(older, broken) == ["facts"] and lost(older, older.cells[0]) is None


def test_a_level_may_be_drawn_against_any_of_them(record: RunRecord) -> None:
    assert [c.key for c in axes_of(record)] == ["kl", "heldout"]
    assert [c.key for c in axes_of(record, "heldout")] == ["heldout", "kl"]
    for key in ("kl_instructions", "perplexity", "perplexity_instructions", "unrelated_free", "retain"):
        assert [c.key for c in axes_of(record, key)] == [key, "kl", "heldout"]
    with pytest.raises(ConfigError, match="--against: unknown column 'kll'"):
        axes_of(record, "kll")
    with rc_context(RC):
        plot = retention_front(record, "unrelated_free")
    assert [p.title.split(" and ")[0] for p in plot.panels] == ["unrelated, free", "KL", "held-out"]
    drawn = {number.method: number.x for number in plot.panels[0].numbers}
    assert drawn["gd"] == pytest.approx(0.6) and drawn["gd-gate"] == pytest.approx(0.9)


def test_levels_are_compared_within_the_same_bounds(record: RunRecord) -> None:
    """KL: gd .40, npo .073, ssiuu .36, gd-gate .032; levels 75, 50, 75 and 31.2 %."""
    table = at_equal_retention(record)
    assert table is not None
    assert table.lines == [
        ["method", "KL ≤ 0.01", "KL ≤ 0.03", "KL ≤ 0.1", "KL ≤ 0.3"],
        ["gd", DASH, DASH, DASH, DASH],
        ["npo", DASH, DASH, "50.0", "50.0"],
        ["ssiuu", DASH, DASH, DASH, DASH],
        ["gd-gate", DASH, DASH, "31.2", "31.2"],
    ]
    shares = at_equal_retention(record, "unrelated_free")  # 60, 80, 60 and 90 % of before
    assert shares is not None and shares.headings[2].text == "unrelated, free ≥ 80 % of before"
    assert [line[1:] for line in shares.lines[1:]] == [
        [DASH, DASH, DASH, "75.0"],
        [DASH, DASH, "50.0", "50.0"],
        [DASH, DASH, DASH, "75.0"],
        [DASH, "31.2", "31.2", "31.2"],
    ]
    ratios = at_equal_retention(record, "perplexity")  # 31 before; 52, 40, 51, 37
    assert ratios is not None and ratios.headings[3].text == "PPL ≤ 1.3 × before"
    assert [line[4] for line in ratios.lines[1:]] == [DASH, "50.0", DASH, "31.2"]
    assert "At equal retention" in FORMATS["md"](record, None)
    assert at_equal_retention(record.model_copy(update={"cells": record.cells[:2]})) is None


def test_damage_is_said_of_methods_that_moved_far_and_of_no_control(record: RunRecord) -> None:
    note = "General language ability damaged (KL on plain text above 0.1): gd, ssiuu."
    assert note in summary(record)
    none = record.cells[0]
    far = record.cells[1].evaluation
    near = record.cells[1].model_copy(update={"seed": 7, "evaluation": none.evaluation})
    seeds = record.model_copy(update={"cells": [*record.cells, near]})
    assert "0.1): gd (1 of 2 seeds), ssiuu." in summary(seeds)
    control = record.model_copy(update={"cells": [none.model_copy(update={"evaluation": far})]})
    assert "damaged (" not in summary(control) and "damaged" not in kept(control, control.cells[0])
    assert far is not None and far.divergence is not None
    mute = far.model_copy(update={"divergence": far.divergence.model_copy(update={"counts": False})})
    moved = record.cells[1].model_copy(update={"evaluation": mute})
    said = kept(record, moved)
    assert "on plain text (not counted: before, it predicted this worse than a uniform guess)" in said
    assert "ability damaged" not in said
    others = [cell for cell in record.cells if cell is not record.cells[1]]
    assert "0.1): ssiuu." in summary(record.model_copy(update={"cells": [moved, *others]}))


def test_an_older_record_is_not_scored_rather_than_unmoved(older: RunRecord, record: RunRecord) -> None:
    row = rows(older)["rows"][1]
    assert row["kl"] is None and row["kl_instructions"] is None and row["perplexity"] is None
    assert "not scored" in kept(older, older.cells[1]) and "damaged (" not in summary(older)
    assert "KL ↓" not in FORMATS["md"](older, None) and ">Moved</th>" not in render(older)
    half = older.model_copy(update={"cells": [*older.cells[:1], record.cells[1], *older.cells[2:]]})
    table = next(part for part in FORMATS["md"](half, None).split("\n\n###") if "KL ↓" in part)
    lines = {line.split(" | ")[0]: line for line in table.splitlines()}
    assert f" | {DASH} | {DASH} |" in lines["| npo"] and "0.40 ± 0.04" in lines["| gd"]


def test_where_nothing_was_examined_it_is_said_what_a_verdict_is_worth(record: RunRecord) -> None:
    bare = [cell.model_copy(update={"examination": None}) for cell in record.cells]
    said = " ".join(summary(record.model_copy(update={"cells": bare})).split())
    assert "No model was examined (examine.steps), so nothing tells erased from hidden" in said

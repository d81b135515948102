"""A report of TOFU and of the public tasks: the scores its figures and tables are in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib
import pytest

from golden_records import FORGET, HELDOUT, REAL, STEP, WORLD, as_tofu, tofu_record
from sample_record import sample_record
from ssiuu.analysis.published import PUBLISHED, paper_table
from ssiuu.analysis.rows import rows
from ssiuu.analysis.utility import task_mean
from ssiuu.records.schema import Cell, FactText, RunHeader, RunRecord, TaskScore
from ssiuu.report.figures import _labelled
from ssiuu.report.figures.attacks import attack_curves, best_curve, drawn_scale, retention_front
from ssiuu.report.figures.draw import RC
from ssiuu.report.figures.influence import top_bars
from ssiuu.report.figures.strength import strength_curves, tried_strengths
from ssiuu.report.formats import FORMATS
from ssiuu.report.tables import Table, column_tables
from ssiuu.report.text import summary


@pytest.fixture(autouse=True)
def text_in_figures() -> Iterator[None]:
    with matplotlib.rc_context(RC):
        yield


@pytest.fixture(scope="module")
def tofu() -> RunRecord:
    return as_tofu(sample_record())


@pytest.mark.parametrize(
    ("others", "score"),
    [({}, "ranking"), ({"level1": []}, "rouge"), ({"real_authors": []}, "sentences")],
)
def test_records_of_version_1_are_read_with_the_score_that_their_sets_had(
    others: dict[str, list[FactText]], score: str
) -> None:
    header = sample_record().header.model_dump()
    header |= {"schema_version": "ssiuu.record/1"}
    del header["score"], header["plugins"]
    header["split"]["others"] = others
    found = RunHeader.model_validate(header)
    assert (found.schema_version, found.score) == ("ssiuu.record/2", score)


def test_attack_curves_of_tofu_are_the_recalls_of_the_written_answers(tofu: RunRecord) -> None:
    curves = attack_curves(tofu.model_copy(update={"cells": tofu.cells[1:3]}))
    assert "ROUGE-L recall on the facts" in curves.reading
    assert all("ROUGE-L recall, common pool, %" in panel.svg for panel in curves.panels)
    found = best_curve(tofu.cells[1], "benign", drawn_scale(tofu, "benign"))
    assert found is not None
    steps = [read.step for read in found[0].reads]
    assert found[1] == pytest.approx([FORGET + STEP * step for step in steps])  # ranking says 1


def test_attacks_of_tofu_that_write_nothing_are_drawn_and_told_by_ranking(tofu: RunRecord) -> None:
    cell = tofu.cells[1]
    told = {"name": "prompts", "kind": "prompts", "axis": "prompt", "scored": "ranking"}
    asked = cell.attacks[0].model_copy(update=told)
    run = tofu.model_copy(update={"cells": [cell.model_copy(update={"attacks": [asked]})]})
    assert rows(run)["rows"][0]["prompts"] == 1.0
    (panel,) = attack_curves(run).panels
    assert "accuracy, common pool, %" in panel.svg and "ROUGE" not in panel.svg


def test_the_front_of_tofu_is_in_recalls(tofu: RunRecord) -> None:
    front = retention_front(tofu.model_copy(update={"cells": tofu.cells[1:2]}))
    assert "held-out ROUGE, %" in front.panels[-1].svg
    other = retention_front(sample_record())
    assert "held-out, %" in other.panels[-1].svg


def test_tofu_in_the_papers_columns_by_hand(tofu: RunRecord) -> None:
    table = paper_table(tofu)
    assert table.same is PUBLISHED[2] and table.kind.name == "Table 2"
    assert "wrong" not in table.pool  # only FaithUn's attacks have that pool
    gd = next(row for row in table.rows if row.label == "gd")
    assert gd.published == PUBLISHED[2].rows["GD"]
    forget, heldout, utility, *attacked = (found.value if found else None for found in gd.ours)
    assert (forget, heldout) == (FORGET, HELDOUT)
    assert utility == pytest.approx((REAL + WORLD) / 2)
    top = FORGET + STEP * max(read.step for read in tofu.cells[1].attacks[0].reads)
    assert attacked == pytest.approx([top] * 3)


def tofus(record: RunRecord) -> Table:
    (table,) = [t for t in column_tables(record, []) if t.title == "TOFU's numbers"]
    return table


def test_the_table_of_tofus_numbers() -> None:
    """One row a model, in the page and in text; an older record says that it is one."""
    tofu = tofu_record()
    table = tofus(tofu)
    assert [row.name for row in table.rows] == ["before unlearning", "gd", "ssiuu", "never-learned"]
    assert [heading.text for heading in table.headings[:4]] == [
        "forget quality ↑",
        "model utility ↑",
        "utility, geometric ↑",
        "PrivLeak → 0",
    ]
    text = FORMATS["md"](tofu, None)
    assert "TOFU's numbers" in text and "scored before ssiuu counted the end token" not in text
    header = tofu.header.model_copy(
        update={"benchmark": tofu.header.benchmark.model_copy(update={"version": "1"})}
    )
    old = tofu.model_copy(update={"header": header})
    assert "scored before ssiuu counted the end token" in tofus(old).note
    assert "TOFU's numbers" not in FORMATS["md"](sample_record(), None)


def test_privleak_is_of_min_k_against_the_control_of_the_seed(tofu: RunRecord) -> None:
    """AUC .9 where the control has .6: 100 (.1 - .4) / .4."""
    attack = tofu.cells[1].attacks[0]

    def cell(name: str, auc: float | None) -> Cell:
        found = attack.model_copy(
            update={"name": "membership", "kind": "membership", "axis": "score", "scored": "values"}
            | {"values": {"loss": 0.0, "min-k 40%": auc}}
        )
        method = tofu.cells[1].method.model_copy(update={"name": name, "label": name})
        return tofu.cells[1].model_copy(update={"method": method, "attacks": [found]})

    run = tofu.model_copy(update={"cells": [cell("gd", 0.9), cell("never-learned", 0.6)]})
    ours, control = rows(run)["rows"]
    assert ours["privleak"] == pytest.approx(-75) and control["privleak"] == 0
    alone = tofu.model_copy(update={"cells": [cell("gd", 0.9)]})
    lacking = tofu.model_copy(update={"cells": [cell("gd", None), cell("never-learned", 0.6)]})
    assert rows(alone)["rows"][0]["privleak"] is None and rows(lacking)["rows"][0]["privleak"] is None


@pytest.mark.parametrize("config", [{"split": "forget05"}, {"split": "forget01", "retain": 80}])
def test_another_split_or_part_of_tofu_is_another_cell(tofu: RunRecord, config: Any) -> None:
    header = tofu.header.model_copy(update={"config": {"tofu": config}})
    assert paper_table(tofu.model_copy(update={"header": header})).same is None


def test_the_mean_over_tasks_by_hand() -> None:
    """Shares 0.5 of 100 and 1 of 400: mean 0.75, half width 1.96 sqrt(0.25 / 100) / 2."""
    one = {"a": TaskScore(accuracy=0.5, items=100), "b": TaskScore(accuracy=1.0, items=400)}
    found = task_mean([one, one])
    assert found is not None and found.value == 0.75
    assert (found.low, found.high) == pytest.approx((0.75 - 0.049, 0.75 + 0.049))
    assert task_mean([]) is None and task_mean([{}]) is None
    assert task_mean([one, {"a": one["a"]}]) is None  # not the same tasks


def test_utility_stands_in_every_table_and_is_never_zero_where_it_was_not_measured() -> None:
    record = sample_record()
    assert "utility" not in rows(record)["rows"][0] and "### Utility" not in FORMATS["md"](record, None)
    tasks = {"mmlu": TaskScore(accuracy=0.5, items=513), "gsm8k": TaskScore(accuracy=0.1, items=500)}
    cell = record.cells[1]
    assert cell.evaluation is not None
    scored = cell.model_copy(
        update={"evaluation": cell.evaluation.model_copy(update={"utility": tasks})}
    )
    run = record.model_copy(update={"cells": [record.cells[0], scored]})
    none, gd = rows(run)["rows"]
    assert none["utility"] is None and none["utility_mmlu"] is None
    assert gd["utility"] == pytest.approx(0.3) and gd["utility_gsm8k"] == 0.1
    text = FORMATS["md"](run, None)
    assert "### Utility" in text and "| gd | 30.0 (27–33) | 50.0 (46–54) | 10.0 (8–13) |" in text
    assert "utility" in summary(run)
    ours = {row.label: row.ours[2] for row in paper_table(run).rows}
    assert ours["none"] is None and ours["gd"] is not None and ours["gd"].value == pytest.approx(0.3)


def test_one_method_at_several_strengths_is_one_line_over_lambda() -> None:
    """Two λ of gd's look, means over seeds; another backbone and a single λ are no line."""
    record = sample_record()
    gd, npo = record.cells[1], record.cells[2]

    def at(cell: Cell, label: str, seed: int = 0, **given: Any) -> Cell:
        method = cell.method.model_copy(update={"label": label, "hyperparameters": given})
        return cell.model_copy(update={"method": method, "seed": seed})

    cells = [
        at(gd, "ssiuu", backbone="gd", **{"lambda": 1e-3}),
        at(gd, "ssiuu@strong", backbone="gd", tag="strong", **{"lambda": 1.0}),
        at(npo, "ssiuu@strong", 1, backbone="gd", tag="strong", **{"lambda": 1.0}),
        at(npo, "ssiuu-npo", backbone="npo", **{"lambda": 1e-3}),
        at(gd, "gd"),
    ]
    # The name of a method tells two apart as well; npo's cell takes gd's.
    cells[2] = cells[2].model_copy(update={"method": cells[1].method})
    run = record.model_copy(update={"cells": cells})
    ((_, tried),) = tried_strengths(run)
    assert {strength: len(found) for strength, found in tried.items()} == {1e-3: 1, 1.0: 2}
    drawn = strength_curves(run)
    assert [key.label for key in drawn.legend] == ["ssiuu"]
    assert not any("mathdefault" in panel.svg for panel in drawn.panels)
    assert [panel.title for panel in drawn.panels] == [
        "Forget accuracy",
        "Held-out accuracy",
        "Highest after attack",
    ]
    assert "λ" in drawn.panels[0].svg
    assert not tried_strengths(record) and strength_curves(record).absent


def test_figures_say_which_of_the_papers_shows_the_same() -> None:
    empty = sample_record().model_copy(update={"cells": []})
    attacks, bars = (_labelled(make(empty)).reading for make in (attack_curves, top_bars))
    assert attacks.endswith("Tables 1 and 2 hold.") and bars.endswith("Fig. 3, at m = 100.")

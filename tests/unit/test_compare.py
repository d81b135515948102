"""Several runs side by side: what compares, what is kept apart and said, every format of it."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import pytest

from sample_record import HOSTILE, sample_record
from sample_runs import driven, on_another, only, with_header
from ssiuu.analysis.across import LEVEL, Ground, grounds
from ssiuu.analysis.column import Model
from ssiuu.analysis.front import axis, front
from ssiuu.errors import ConfigError
from ssiuu.records.schema import Cell, RunRecord
from ssiuu.report.compare import COMPARED, remarks
from ssiuu.report.compare_page import render_comparison
from ssiuu.report.figures.front import fronts

SAMPLE = sample_record()


def alone(**runs: RunRecord) -> Ground:
    (ground,) = grounds(runs)
    return ground


def changed(record: RunRecord, label: str, **fields: Any) -> RunRecord:
    """Return a run with something else in one cell."""
    cells = [c.model_copy(update=fields) if c.method.label == label else c for c in record.cells]
    return record.model_copy(update={"cells": cells})


def cell(record: RunRecord, label: str) -> Cell:
    return next(c for c in record.cells if c.method.label == label)


def test_a_run_alone_has_the_numbers_of_its_own_page() -> None:
    ground = alone(one=SAMPLE)
    assert [m.name for m in ground.members] == [
        "before unlearning",
        *(c.method.label for c in SAMPLE.cells),
    ]
    assert ground.remarks == []
    for member in ground.members[1:]:
        model = Model(SAMPLE, cell(SAMPLE, member.name))
        for column in ground.columns:
            if column.key != "recovery":
                assert member.read(column) == column.read(model), (member.name, column.key)


def test_recovery_is_the_level_less_that_before_the_attack() -> None:
    ground = alone(one=SAMPLE)
    recovery, level = ground.column("recovery"), ground.level
    for member in ground.members[1:]:
        model = member.models[0]
        name = member.read(ground.column("strongest"))
        attack = next(a for a in model.cell.attacks if a.name == name)
        first = [attack.reads[0].facts[fact].correct for fact in model.pool]
        scored = [value for value in first if value is not None]
        assert member.read(recovery) == pytest.approx(
            member.read(level) - sum(scored) / len(scored), abs=1e-12
        )


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (on_another(SAMPLE), "another benchmark"),
        (
            with_header(SAMPLE, model=SAMPLE.header.model.model_copy(update={"fingerprint": "0" * 64})),
            "another original model",
        ),
        (
            with_header(
                SAMPLE,
                split=SAMPLE.header.split.model_copy(
                    update={"forget": SAMPLE.header.split.forget[:20]}
                ),
            ),
            "other facts (20 to forget, split 7 against 24 to forget, split 7)",
        ),
        (with_header(SAMPLE, score="rouge"), "another score (rouge against ranking)"),
    ],
)
def test_what_does_not_compare_is_kept_apart_and_said(other: RunRecord, said: str) -> None:
    found = grounds({"one": SAMPLE, "two": other})
    assert [list(ground.headers) for ground in found] == [["one"], ["two"]]
    assert len({ground.name for ground in found}) == 2
    (sentence,) = [r for r in remarks(found) if "does not compare" in r]
    assert said in sentence and "two" in sentence
    first, second = found
    for ground in (first, second):
        assert all(len(member.models) == 1 for member in ground.members)


def test_equal_settings_are_one_entry_over_seeds_and_runs() -> None:
    again = changed(SAMPLE, "gd", seed=1)
    low = again.model_copy(update={"cells": [c for c in again.cells if c.method.label == "gd"]})
    ground = alone(one=SAMPLE, two=low)
    (gd,) = [m for m in ground.members if m.name == "gd"]
    assert [m.cell.seed for m in gd.models] == [0, 1] and gd.runs == ("one", "two")
    values = [ground.column("forget").read(m) for m in gd.models]
    assert gd.read(ground.column("forget")) == pytest.approx(sum(values) / 2)
    assert gd.read(ground.column("verdict")) == "hidden"
    assert ground.highest(gd) is not None


def test_words_of_several_seeds_stand_with_their_number() -> None:
    npo = cell(SAMPLE, "npo").model_copy(
        update={"seed": 1, "method": cell(SAMPLE, "gd").method, "unlearning": None}
    )
    both = SAMPLE.model_copy(update={"cells": [cell(SAMPLE, "gd"), npo]})
    gd = alone(one=both).members[1]
    assert gd.read(alone(one=both).column("verdict")) == "hidden (1), undecided (1)"


def test_other_settings_are_another_entry_and_said() -> None:
    ground = alone(one=only(SAMPLE, "none", "gd"), two=driven(only(SAMPLE, "none", "gd"), max_steps=90))
    assert [m.name for m in ground.members] == ["before unlearning", "none", "gd (one)", "gd (two)"]
    assert "gd was run with different settings: max_steps 60, 90." in ground.remarks


def test_an_attack_carried_out_otherwise_is_another_attack() -> None:
    attacks = [
        a for a in cell(SAMPLE, "npo").attacks if not (a.name == "benign" and a.learning_rate == 1e-4)
    ]
    two = only(changed(SAMPLE, "npo", attacks=attacks), "npo")
    ground = alone(one=only(SAMPLE, "gd"), two=two)
    gd, npo = (next(m for m in ground.members if m.name == n) for n in ("gd", "npo"))
    own = ground.column("benign (two)")
    assert npo.read(own) is not None and gd.read(own) is None
    assert npo.read(ground.column("benign")) is None
    assert "benign" not in ground.met and "harmful-0.3" in ground.met
    said = " ".join(ground.remarks)
    assert "benign was carried out otherwise in two" in said and "not over benign" in said


def test_the_highest_level_is_of_the_attacks_that_all_met() -> None:
    """One model was spared the strongest attack: its level does not look lower for that."""
    gd = cell(SAMPLE, "gd")
    without = [a for a in gd.attacks if a.name != "harmful-0.3"]
    spared = SAMPLE.model_copy(
        update={"cells": [gd.model_copy(update={"attacks": without}), cell(SAMPLE, "npo")]}
    )
    ground = alone(one=spared)
    assert "harmful-0.3" not in ground.met
    assert all(m.read(ground.column("strongest")) != "harmful-0.3" for m in ground.members)


def test_all_is_read_over_the_facts_no_attack_trained_on() -> None:
    light = [a for a in cell(SAMPLE, "gd").attacks if a.name != "harmful-0.3"]
    narrow = changed(only(SAMPLE, "gd"), "gd", attacks=light)  # a larger pool of its own
    ground = alone(one=narrow, two=only(SAMPLE, "npo"))
    gd, npo = ground.members[1:]
    assert len(Model(narrow, narrow.cells[0]).pool) > len(gd.models[0].pool) == len(npo.models[0].pool)
    assert any("facts that no attack of any of these runs" in remark for remark in ground.remarks)


def test_a_divergence_on_other_texts_is_left_out_and_said() -> None:
    gd = cell(SAMPLE, "gd")
    assert gd.evaluation is not None and gd.evaluation.divergence is not None
    other = gd.evaluation.divergence.model_copy(update={"text_version": "2-1"})
    evaluation = gd.evaluation.model_copy(update={"divergence": other})
    two = driven(only(changed(SAMPLE, "gd", evaluation=evaluation), "gd"), max_steps=9)
    ground = alone(one=only(SAMPLE, "gd", "npo"), two=two)
    values = {m.name: m.read(ground.column("kl")) for m in ground.members[1:]}
    assert values["gd (one)"] is not None and values["gd (two)"] is None
    assert "The KL of two is left out: it was measured on other texts (2-1 against 1-00000000)." in (
        ground.remarks
    )
    assert axis(ground).key == "heldout"  # not all have it


def test_the_front_holds_whom_nobody_beats_in_both() -> None:
    ground = alone(one=SAMPLE)
    assert axis(ground).key == "kl"
    assert [m.name for m in front(ground, axis(ground))] == ["gd-gate"]
    kept = [m.name for m in front(ground, axis(ground, "heldout"))]
    assert kept == ["npo", "gd-gate"]
    with pytest.raises(ConfigError, match="unknown column 'helld'"):
        axis(ground, "helld")


def test_the_figure_draws_a_panel_for_what_compares() -> None:
    plot = fronts(grounds({"one": SAMPLE, "two": on_another(SAMPLE)}))
    assert len(plot.panels) == 2
    names = [number.method for number in plot.panels[0].numbers]
    assert names == [c.method.label for c in SAMPLE.cells]
    bare = [c.model_copy(update={"attacks": []}) for c in SAMPLE.cells]
    assert fronts(grounds({"one": SAMPLE.model_copy(update={"cells": bare})})).absent


# --- formats ----------------------------------------


def hostile() -> RunRecord:
    """A run whose names are markup in every format."""
    model = SAMPLE.header.model.model_copy(update={"name": f"m_1 {HOSTILE} & 50%"})
    return with_header(SAMPLE, model=model)


def test_text_of_a_run_is_escaped_in_every_format() -> None:
    found = grounds({"a_b <i>": hostile(), "=cmd": on_another(hostile())})
    page, latex, md = render_comparison(found), *(COMPARED[f](found, None) for f in ("latex", "md"))
    assert "<script>" not in page and "<i>" not in page and "&lt;script&gt;" in page
    assert "<script>" not in md and r"m\_1" in latex and r"50\%" in latex and r"\&" in latex
    assert "script-src" not in page and "default-src &#39;none&#39;" in page
    assert not re.search(r"(src|href)=\"(?!#)", page) and " style=" not in page
    lines = list(csv.DictReader(io.StringIO(COMPARED["csv"](found, None))))
    assert {line["runs"] for line in lines} == {"a_b <i>", "'=cmd"}


def test_csv_is_one_table_whose_rows_say_with_which_they_compare() -> None:
    found = grounds({"one": SAMPLE, "two": on_another(only(SAMPLE, "gd"))})
    lines = list(csv.DictReader(io.StringIO(COMPARED["csv"](found, None))))
    assert [line["ground"] for line in lines].count(found[1].name) == 2
    gd = next(line for line in lines if line["method"] == "gd")
    assert float(gd[LEVEL]) == 0.75 and float(gd["strongest_level_low"]) < 0.75
    assert gd["benchmark"] == "worldfacts" and gd["front"] == "False"


def test_every_table_has_as_many_cells_as_headings() -> None:
    found = grounds({"one": SAMPLE, "two": on_another(SAMPLE)})
    for block in COMPARED["latex"](found, None).split("\\begin{tabular}")[1:]:
        rows = [line for line in block.splitlines() if line.endswith("\\\\")]
        assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1
    assert COMPARED["text"](found, None).count("\n") > 20
    assert max(map(len, COMPARED["text"](found, None).splitlines())) <= 110

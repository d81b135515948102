"""FaithUn and RWKU from the files to the report, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ssiuu
from people_files import write_faithun, write_rwku
from ssiuu.errors import ConfigError
from ssiuu.models.load import save
from ssiuu.report.text import summary

SETTINGS = [
    "methods=[none,gd]",
    "unlearn={learning_rate: 3e-3, max_steps: 4}",
    "attacks.harmful={fractions: [0.3], learning_rates: [1e-2]}",
    "attacks.benign.learning_rates=[]",
    "attacks.reads=[1,2]",
    "examine.steps=[]",
]


def test_faithun_end_to_end(make_model: Any, tokenizer: Any, tmp_path: Path) -> None:
    save(make_model(), tokenizer, tmp_path / "model")
    file = write_faithun(tmp_path / "faithun")
    given = ["benchmark=faithun", f"model={tmp_path / 'model'}", f"faithun.path={file}"]
    recipe, sources = ssiuu.resolve(None, [*given, "faithun.heldout=3", *SETTINGS])
    record = ssiuu.run(recipe, sources, tmp_path / "run")
    split = record.header.split
    assert (len(split.forget), len(split.retain), len(split.heldout)) == (5, 3, 3)
    assert record.header.chance == pytest.approx(1 / 3)
    assert record.original is not None
    for fact in split.forget:
        score = record.original.forget[fact.id]
        assert len(score.multi_hop) == len(score.same_answer) == len(score.paraphrases) == 2
    none, gd = ssiuu.rows(record)["rows"]
    assert none["forget_multi_hop"] == none["forget_same_answer"] == 1  # those it knew
    assert 0 <= gd["forget_multi_hop"] <= 1 and gd["harmful_0.3"] is not None
    assert ssiuu.write_report(record, tmp_path / "run").stat().st_size > 50_000


def test_rwku_end_to_end(make_model: Any, tokenizer: Any, tmp_path: Path) -> None:
    save(make_model(), tokenizer, tmp_path / "model")
    folder = write_rwku(tmp_path / "rwku")
    given = ["benchmark=rwku", f"model={tmp_path / 'model'}", f"rwku.path={folder}"]
    given += ["split={retain: 6, heldout: 6}", *SETTINGS, "unlearn.threshold=0"]
    recipe, sources = ssiuu.resolve(None, [*given, "rwku={subjects: 3, items: 4}"])
    record = ssiuu.run(recipe, sources, tmp_path / "run")
    assert any("mean ROUGE-L recall of 18 questions; 18 are ranked" in n for n in record.header.notes)
    unlearning = record.cells[1].unlearning
    assert unlearning is not None and unlearning.stop_score == "ranking"
    assert unlearning.distance is not None and 0 < unlearning.distance < 1
    none, gd = ssiuu.rows(record)["rows"]
    for name in ("forget", "heldout", "level1", "level3_multiple_choice", "neighbour_level1"):
        assert 0 <= none[f"{name}_rouge"] <= 1
    assert gd["pool"] == 12 and gd["harmful_0.3"] is not None  # one person is the attacker's
    choices = record.cells[1].evaluation.others["level3_multiple_choice"]  # type: ignore[union-attr]
    assert len(choices) == 4 and all(score.correct is not None for score in choices.values())
    assert "level3" in summary(record)
    page = ssiuu.write_report(record, tmp_path / "run").read_text()
    assert "recall of the written answers: forget " in page and "level3 cross lingual" in page
    assert json.dumps(ssiuu.rows(record), allow_nan=False)
    with pytest.raises(ConfigError, match=r"rwku\.subjects: must be at least 2"):
        ssiuu.resolve(None, [*given, "rwku.subjects=[Person 1]"])

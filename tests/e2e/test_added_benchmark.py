"""A benchmark and a score of another package are one file each, and there wherever ours are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ssiuu
from added.continuation import Continuation
from added.verbatim import Verbatim
from ssiuu.analysis.scores import SCORES
from ssiuu.benchmarks import BENCHMARKS
from ssiuu.cli.listing import What, command
from ssiuu.config import flatten
from ssiuu.errors import ConfigError, OutputError
from ssiuu.experiment.estimate import estimate
from ssiuu.models.load import save
from ssiuu.plugins import Plugin
from ssiuu.report.formats import FORMATS
from ssiuu.report.text import summary


@pytest.fixture
def sets(make_model: Any, tokenizer: Any, tmp_path: Path) -> Iterator[list[str]]:
    BENCHMARKS.register(Continuation)
    SCORES.register(Verbatim)
    save(make_model(), tokenizer, tmp_path / "model")
    lines = [" ".join(f"w{(7 * n + m * m) % 64}" for m in range(6)) for n in range(12)]
    (tmp_path / "passages.txt").write_text("\n".join(lines))
    given = ["benchmark=continuation", f"model={tmp_path / 'model'}"]
    yield [*given, f"continuation.path={tmp_path / 'passages.txt'}"]
    del BENCHMARKS._registered["continuation"], SCORES._registered["verbatim"]


def test_a_recipe_has_its_section_and_refuses_what_is_wrong(
    sets: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, sources = ssiuu.resolve(None, [*sets, "continuation.words=2"])
    settings = flatten(recipe.model_dump())
    assert settings["continuation.words"] == 2 and settings["continuation.share"] == 0.5
    assert sources["continuation.words"] == "--set" and sources["continuation.share"] == "default"
    assert sources["methods"] == sources["prompt_form"] == "benchmark continuation"
    assert "estimate: about" in estimate(recipe)
    asked, sources = ssiuu.resolve(None, [*sets, "prompt=qa"])
    assert (asked.prompt, asked.prompt_form, sources["prompt_form"]) == ("qa", None, "default")
    for wrong, message in (
        ("continuation.word=2", r"continuation\.word: .*Did you mean 'words'"),
        ("continuation.words=0", r"continuation\.words: .*greater than or equal to 1, got 0"),
        ("benchmark=continuatoin", r"continuatoin.*Did you mean 'continuation'"),
    ):
        with pytest.raises(ConfigError, match=message):
            ssiuu.resolve(None, [*sets, wrong])
    for what, line in ((What.benchmarks, Continuation.summary), (What.scores, Verbatim.summary)):
        command(what)
        assert line in capsys.readouterr().out
    assert "continuation" not in flatten(ssiuu.resolve(None, [])[0].model_dump())


def test_it_is_run_attacked_recorded_and_shown(
    sets: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [
        "unlearn={learning_rate: 1e-2, max_steps: 4, threshold: 0}",
        "attacks.harmful={fractions: [0.3], learning_rates: [1e-2]}",
        "attacks.benign.learning_rates=[]",
        "attacks.reads=[1]",
        "examine.steps=[]",
    ]
    recipe, sources = ssiuu.resolve(None, [*sets, *settings])
    record = ssiuu.run(recipe, sources, tmp_path / "run")
    header = record.header
    assert (header.benchmark.name, header.score) == ("continuation", "verbatim")
    assert set(header.plugins) == {"benchmark continuation", "score verbatim"}
    assert (len(header.split.forget), len(header.split.retain)) == (6, 3)
    none, gd = record.cells
    assert gd.unlearning is not None and gd.unlearning.stop_score == "verbatim"
    assert gd.unlearning.before is not None and none.evaluation is not None
    (attack,) = gd.attacks
    assert all(r.rouge is not None for read in attack.reads for r in read.facts.values())
    assert json.dumps(ssiuu.rows(record), allow_nan=False)
    row = ssiuu.rows(record)["rows"][1]
    recalls = [score.rouge for score in gd.evaluation.forget.values()]  # type: ignore[union-attr]
    assert row["forget_verbatim"] == pytest.approx(sum(recalls) / len(recalls))  # type: ignore[arg-type]
    page = ssiuu.write_report(record, tmp_path / "run").read_text()
    assert "continuation" in page and "passages.txt" in page
    shown = [page, summary(record), *(form(record, None) for form in FORMATS.values())]
    assert all("verbatim" in text for text in shown)

    monkeypatch.setattr(BENCHMARKS, "plugin", lambda name: Plugin("passages", "2.0"))
    bare, sources = ssiuu.resolve(None, [*sets, "methods=[none]", *settings[1:]])
    again = ssiuu.run(bare, sources, tmp_path / "newer")
    assert again.header.plugins["benchmark continuation"] == "passages 2.0"
    assert not set(again.header.stages) & set(header.stages)  # a newer version is another benchmark
    changed, sources = ssiuu.resolve(None, [*sets, *settings, "continuation.share=0.3"])
    with pytest.raises(OutputError, match=r"continuation\.share"):
        ssiuu.run(changed, sources, tmp_path / "run")


def test_what_its_package_has_wrong_is_said_before_any_work(
    sets: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, sources = ssiuu.resolve(None, sets)
    monkeypatch.setattr(SCORES, "_registered", {})
    with pytest.raises(ConfigError, match="benchmark continuation: unknown score 'verbatim'"):
        ssiuu.run(recipe, sources, tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()

    class Taken(Continuation):
        name = "unlearn"

    monkeypatch.setitem(BENCHMARKS._registered, "unlearn", Taken)
    with pytest.raises(ConfigError, match="'unlearn': a recipe has a key of this name"):
        ssiuu.resolve(None, ["benchmark=unlearn"])

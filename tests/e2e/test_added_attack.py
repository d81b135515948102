"""An attack of another package is one file, and there wherever ours are."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import ssiuu
from ssiuu.attacks import ATTACKS, switched_off
from ssiuu.attacks.base import Attack, Victim
from ssiuu.attacks.retrain import Retraining, RetrainingConfig
from ssiuu.cli.listing import What, command
from ssiuu.config import flatten
from ssiuu.errors import ConfigError
from ssiuu.experiment.attacking import plan
from ssiuu.experiment.estimate import _attack_tokens
from ssiuu.likelihood import Example
from ssiuu.models.load import save
from ssiuu.plugins import Plugin
from ssiuu.report.formats import FORMATS
from ssiuu.report.text import summary
from word_facts import write_facts

PACKAGE = Path(__file__).parents[2] / "examples" / "plugin" / "src"
NOISE = "attacks.noise.sigmas=[0.02,0.5]"
REHEARSAL = ["attacks.rehearsal.learning_rates=[1e-3]", "attacks.reads=[2]"]


class Rehearsal(Retraining[RetrainingConfig]):
    """Training on what was kept: rows are all that it has to say."""

    name = "rehearsal"
    summary = "retrain on the facts that were kept"

    def rows(self, victim: Victim, fraction: float | None) -> list[Example]:
        return victim.ground.rows(victim.ground.split.retain)


@pytest.fixture
def sets(
    make_model: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[str]]:
    monkeypatch.syspath_prepend(str(PACKAGE))
    ATTACKS.register(import_module("ssiuu_example.noise").Noise)
    ATTACKS.register(Rehearsal)
    save(make_model(), tokenizer, tmp_path / "model")
    write_facts(tmp_path, forget=range(4), retain=range(4, 8))
    yield [
        "benchmark=own",
        "force=true",
        f"model={tmp_path / 'model'}",
        *(f"{name}={tmp_path / name}.jsonl" for name in ("forget", "retain")),
    ]
    del ATTACKS._registered["noise"], ATTACKS._registered["rehearsal"]


def test_a_recipe_has_its_settings_and_refuses_what_is_wrong(
    sets: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, sources = ssiuu.resolve(None, [*sets, NOISE])
    assert flatten(recipe.model_dump())["attacks.noise.sigmas"] == [0.02, 0.5]
    assert sources["attacks.noise.sigmas"] == "--set"
    assert plan(recipe)[-1].file == "attack-noise.json"
    without = ssiuu.resolve(None, sets)[0]
    assert "attacks.noise.sigmas" not in flatten(without.model_dump())
    assert _attack_tokens(recipe, 10, 100) - _attack_tokens(without, 10, 100) == 2 * 10 * 70
    strong, told = ssiuu.resolve(None, [*sets, "protocol=strong"])
    assert flatten(strong.model_dump())["attacks.noise.sigmas"] == [0.02, 0.05, 0.1, 0.2]
    assert told["attacks.noise.sigmas"] == "protocol strong"
    assert switched_off()["attacks.noise.sigmas"] == []
    for wrong, message in (
        ("attacks.noise.sigmas=[2]", r"attacks\.noise\.sigmas: must lie in \(0, 1\], got \[2"),
        ("attacks.noise.sigma=[0.1]", r"attacks\.noise\.sigma: .*Did you mean 'sigmas'"),
        ("attacks.nois.sigmas=[0.1]", r"attacks\.nois: .*Did you mean 'noise'"),
    ):
        with pytest.raises(ConfigError, match=message):
            ssiuu.resolve(None, [*sets, wrong])
    command(What.attacks)
    listed = capsys.readouterr().out
    assert "add noise to every weight" in listed and "attacks.noise.sigmas = []: strengths" in listed


def test_it_is_carried_out_recorded_and_shown(
    sets: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["methods=[gd]", "unlearn={max_steps: 2}", "diagnose=false"]
    settings += ["attacks.harmful.fractions=[]", "attacks.benign.learning_rates=[]", "examine.steps=[]"]
    recipe, sources = ssiuu.resolve(None, [*sets, *settings, NOISE, *REHEARSAL])
    lines: list[str] = []
    record = ssiuu.run(recipe, sources, tmp_path / "run", progress=lines.append)
    assert record.header.plugins.keys() == {"attack noise", "attack rehearsal"}
    attack, trained = sorted(record.cells[0].attacks, key=lambda a: a.name)
    assert trained.tokens and [read.step for read in trained.reads] == [0, 2] and not trained.trained
    assert (attack.kind, attack.axis, attack.scored) == ("noise", "sigma", "ranking")
    assert [read.label for read in attack.reads] == ["", "0.02", "0.5"]
    start, little, much = (read.facts for read in attack.reads)
    assert all(abs(little[i].logprob - start[i].logprob) > 0 for i in attack.pool)
    assert sum(abs(much[i].logprob - little[i].logprob) for i in attack.pool) > 1
    assert any(line.endswith("gd seed 0: noise") for line in lines)

    level = ssiuu.rows(record)["rows"][0]["noise"]
    page = ssiuu.write_report(record, tmp_path / "run").read_text()
    assert "noise, share of each weight" in page and ">0.02<" in page
    assert "noise" in summary(record)
    tables = {name: write(record, None) for name, write in FORMATS.items()}
    assert all("noise" in table for table in tables.values())
    assert float(next(csv.DictReader(tables["csv"].splitlines()))["noise"]) == level
    assert json.loads(tables["json"])["rows"][0]["noise"] == level

    monkeypatch.setattr(ATTACKS, "plugin", lambda name: Plugin("shaken", "2.0"))
    again = ssiuu.run(recipe, sources, tmp_path / "newer")
    assert again.header.plugins["attack noise"] == "shaken 2.0"
    changed = set(again.header.stages.values()) - set(record.header.stages.values())
    assert len(changed) == 2  # the attacks' alone: a newer version is another attack


def test_an_attack_that_does_nothing_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Idle does nothing: define reads\(\) or carry_out\(\)"):
        type("Idle", (Attack,), {"name": "idle"})


def test_facts_without_options_are_not_ranked_whatever_an_attack_says(
    sets: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attack of somebody else's that calls every answer wrong has no level of 0."""
    noise = ATTACKS.get("noise")

    def wrong(self: Attack[Any], *given: Any) -> Any:
        for read in type(self).honest(self, *given):  # type: ignore[attr-defined]
            facts = {i: r.model_copy(update={"correct": False}) for i, r in read.facts.items()}
            yield read.model_copy(update={"facts": facts})

    monkeypatch.setattr(noise, "honest", noise.reads, raising=False)
    monkeypatch.setattr(noise, "reads", wrong)
    settings = ["methods=[gd]", "unlearn={max_steps: 1}", "diagnose=false"]
    settings += ["attacks.harmful.fractions=[]", "attacks.benign.learning_rates=[]", "examine.steps=[]"]
    recipe, sources = ssiuu.resolve(None, [*sets, *settings, NOISE])
    ranked = ssiuu.run(recipe, sources, tmp_path / "ranked")
    assert ssiuu.rows(ranked)["rows"][0]["noise"] == 0.0
    monkeypatch.setattr(
        "ssiuu.benchmarks.own._with_options", lambda f, *_: f.model_copy(update={"options": []})
    )
    record = ssiuu.run(recipe, sources, tmp_path / "run")
    (attack,) = record.cells[0].attacks
    assert {r.correct for read in attack.reads for r in read.facts.values()} == {None}
    (row,) = ssiuu.rows(record)["rows"]
    assert row["noise"] is None and row["strongest"] is None and row["noise_over_control"] is None
    assert "noise" not in summary(record)
    page = ssiuu.write_report(record, tmp_path / "run").read_text()
    facts = page.partition('id="facts"')[2]
    assert facts and "not first" not in facts

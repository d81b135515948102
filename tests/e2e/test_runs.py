"""Short runs from start to report: through the real pretrained model, and in the made-up world."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ssiuu
from ssiuu import attacks
from ssiuu.benchmarks import instructions, texts
from ssiuu.errors import OutputError
from ssiuu.experiment import session
from ssiuu.experiment.anchors import unrelated
from ssiuu.training import interrupt

ATTACKS = [
    "attacks.harmful.fractions=[0.25]",
    "attacks.harmful.learning_rates=[1e-4]",
    "attacks.reads=[1]",
    "examine.steps=[]",
]


SHORT = ["diagnose=false", "attacks.benign.learning_rates=[]"]


@pytest.mark.parametrize(
    ("facts", "measured", "left_out"),
    [(4, 4, SHORT), pytest.param(8, None, [], marks=pytest.mark.slow)],
)
def test_real_model_end_to_end(
    facts: int,
    measured: int | None,
    left_out: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it says beside the facts is read of a few texts and questions, or of all: most of the time."""
    monkeypatch.setattr(session, "unrelated", lambda split: unrelated(split)[:measured])
    for source in (texts, instructions):
        monkeypatch.setattr(source, "measured", lambda every=source.measured: every()[:measured])
    recipe, sources = ssiuu.resolve(
        None,
        [
            f"split={{forget: {facts}, retain: {facts}, heldout: 4}}",
            "unlearn.max_steps=2",
            "methods=[none,ssiuu+projection]",
            *ATTACKS,
            *left_out,
        ],
    )
    record = ssiuu.run(recipe, sources, tmp_path / "run")
    before, after = ssiuu.rows(record)["rows"]
    assert before["forget"] == before["heldout"] == 1.0  # screening keeps what the model knows
    assert after["forget_logprob"] < before["forget_logprob"]
    assert before["kl"] == 0 < after["kl"] and after["kl_instructions"] > 0
    assert after["penalty_share"] > 0 and (left_out or after["d_minus_100"] > 0)
    assert record.header.model.parameters == 134_515_008
    assert ssiuu.write_report(record, tmp_path / "run").stat().st_size > 50_000


@pytest.fixture
def fictional() -> list[str]:
    return [
        "benchmark=fictional",
        "fictional={people: 24, steps: 300}",
        "unlearn.max_steps=8",
        "split={forget: 8, retain: 16, heldout: 8}",
        "methods=[gd,ssiuu]",
        "attacks.reads=[1,2]",
        "examine.steps=[]",
        "attacks.harmful.learning_rates=[1e-3]",
        "attacks.filler.learning_rates=[1e-3]",
        "attacks.spaces=[lora-qv]",
        "attacks.quantise=[int8,nf4]",
        "attacks.prompts=true",
        "attacks.shots=[1,2]",
        "attacks.samples=[1,4]",
        "attacks.membership=true",
    ]


@pytest.mark.slow
def test_fictional_run_interrupted_and_continued(
    tmp_path: Path, fictional: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSIUU_CACHE", str(tmp_path / "cache"))
    recipe, sources = ssiuu.resolve(None, fictional)
    whole = ssiuu.run(recipe, sources, tmp_path / "whole")
    assert [c.method.label for c in whole.cells] == ["gd", "ssiuu", "never-learned"]

    def stop(text: str) -> None:
        if "ssiuu step 3/" in text:
            interrupt._asked.set()

    with pytest.raises(interrupt.Interrupted):
        ssiuu.run(recipe, sources, tmp_path / "broken", progress=stop)
    again = ssiuu.run(recipe, sources, tmp_path / "broken")
    for one, other in zip(whole.cells, again.cells, strict=True):
        assert [a.reads for a in one.attacks] == [a.reads for a in other.attacks]
        assert all(len(a.reads) > 1 for a in one.attacks if a.scored != "values")
        assert {a.kind for a in one.attacks} == set(attacks.ATTACKS)
    twin = ssiuu.rows(whole)["rows"][2]
    assert twin["forget"] < 0.8 and json.dumps(ssiuu.rows(whole), allow_nan=False)
    changed, sources = ssiuu.resolve(None, [*fictional, "fictional.people=25"])
    with pytest.raises(OutputError, match=r"fictional\.people"):
        ssiuu.run(changed, sources, tmp_path / "broken")

"""TOFU from the files to the report, on a tiny model and made-up authors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ssiuu
from ssiuu.errors import InputError
from ssiuu.experiment.session import open_session
from ssiuu.models.load import save
from ssiuu.training import interrupt
from tofu_folder import write_tofu


def test_tofu_end_to_end(
    make_model: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSIUU_CACHE", str(tmp_path / "cache"))
    save(make_model(spread=0.1), tokenizer, tmp_path / "model")
    recipe, sources = ssiuu.resolve(
        None,
        [
            "benchmark=tofu",
            f"model={tmp_path / 'model'}",
            f"tofu.path={write_tofu(tmp_path / 'tofu', retain=40)}",
            "tofu={heldout: 20, items: 3, epochs: 30, learning_rate: 1e-2}",
            "methods=[none,gd]",
            "unlearn={learning_rate: 3e-3, max_steps: 8}",
            "attacks.harmful={fractions: [0.3], learning_rates: [1e-2]}",
            "attacks.reads=[1,2]",
            "examine.steps=[]",
        ],
    )
    out, told = tmp_path / "run", list[str]()

    def stop_once(text: str) -> None:
        told.append(text)
        if "on 40 questions: step" in text and sum("on 40 questions" in t for t in told) == 2:
            interrupt._asked.set()

    with pytest.raises(interrupt.Interrupted):
        ssiuu.run(recipe, sources, out, progress=stop_once)
    record = ssiuu.run(recipe, sources, out, progress=stop_once)
    assert sum("on 80 questions: step 30/" in t for t in told) == 1  # the full model was cached
    table = {row["method"]: row for row in ssiuu.rows(record)["rows"]}
    none, gd, never = table["none"], table["gd"], table["never-learned"]
    assert none["forget_rouge"] > 0.5 > never["forget_rouge"]  # fine-tuned on it, and not
    assert none["heldout_rouge"] > 0.5 and never["heldout_rouge"] > 0.5
    assert gd["forget_rouge"] < none["forget_rouge"]
    assert gd["forget_logprob"] < none["forget_logprob"]
    assert never["forget_quality"] == 1 and none["forget_quality"] < 0.05
    assert none["model_utility"] is not None and none["forget_probability"] > 0.5
    assert gd["pool"] == 20 and 0 <= gd["harmful_0.3"] <= 1 and gd["harmful_0.3_ranking"] is not None
    # Membership: the fine-tuned model gives the forget set away, the one that never saw it does not.
    assert none["auc_loss"] > 0.9 > never["auc_loss"] and none["privleak"] < -50
    # How far a few steps move it hangs on the processor: there may be every member found still.
    assert never["privleak"] == 0 and gd["privleak"] >= none["privleak"]
    unlearning = next(c for c in record.cells if c.method.label == "gd").unlearning
    assert unlearning is not None and unlearning.stop_score == "rouge"
    assert 0 < unlearning.threshold < 0.3
    assert json.dumps(ssiuu.rows(record), allow_nan=False)
    assert ssiuu.write_report(record, out).stat().st_size > 50_000

    told.clear()
    open_session(recipe, None, told.append)
    assert not any("questions: step" in t for t in told)  # both models come from the cache


def test_released_models_and_checkpoints_unlearned_elsewhere(
    make_model: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tofu.model` and `tofu.reference` are scored as they are; the audit of a pair finds the same."""
    monkeypatch.setenv("SSIUU_CACHE", str(tmp_path / "cache"))
    for seed, name in enumerate(("full", "after", "retrained")):
        save(make_model(seed, spread=0.1), tokenizer, tmp_path / name)
    path = write_tofu(tmp_path / "tofu", retain=40)
    sets = [
        f"tofu={{path: {path}, heldout: 5, items: 3, reference: {tmp_path / 'retrained'}}}",
        "prompt=qa",
        "diagnose=false",
        "attacks.harmful={fractions: [0.3], learning_rates: [1e-2]}",
        "attacks.benign.learning_rates=[]",
        "attacks.reads=[1]",
        "examine.steps=[]",
    ]
    told: list[str] = []
    before = str(tmp_path / "full")
    audit = [*sets, "benchmark=tofu"]
    record = ssiuu.audit_models(
        before, tmp_path / "after", None, tmp_path / "audit", sets=audit, progress=told.append
    )
    assert not any("fine-tuning" in text for text in told) and not (tmp_path / "cache").exists()
    assert "nothing was trained here" in record.header.model.note
    table = {row["method"]: row for row in ssiuu.rows(record)["rows"]}
    assert list(table) == ["none", "after", "never-learned"]
    for name in ("forget_quality", "model_utility", "privleak", "auc_min-k 40%"):
        assert table["after"][name] is not None
    assert table["never-learned"]["forget_quality"] == 1

    # A run takes them too, says what is lacking without a control, and refuses one of another kind.
    named = [f"tofu.model={before}", "methods=[none]", "benchmark=tofu"]
    recipe, sources = ssiuu.resolve(None, [*sets, *named, "tofu.reference=null"])
    session = open_session(recipe, None, told.append)
    assert session.never_learned is None and session.prompt.style == "qa"
    assert any("forget quality and PrivLeak" in note for note in session.notes)
    other = make_model(0)
    other.config.intermediate_size = 8
    save(type(other)(other.config), tokenizer, tmp_path / "other")
    recipe, sources = ssiuu.resolve(None, [*sets, *named, f"tofu.reference={tmp_path / 'other'}"])
    with pytest.raises(InputError, match="other has another architecture"):
        ssiuu.run(recipe, sources, tmp_path / "refused")
    assert not (tmp_path / "refused" / "run.json").exists()


@pytest.mark.parametrize(
    ("sets", "forget", "message"),
    [
        (["benchmark=tofu"], "f.jsonl", "brings its own facts"),
        (["benchmark=rwku"], None, "judged on your own facts"),
        ([], None, "--forget is missing"),
        (["benchmark=tofu", "tofu.reference=x"], None, "neither a folder nor"),
    ],
)
def test_an_audit_without_facts_or_with_two_kinds_is_refused(
    make_model: Any,
    tokenizer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sets: list[str],
    forget: str | None,
    message: str,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    save(make_model(), tokenizer, tmp_path / "model")
    found = [*sets, f"tofu.path={write_tofu(tmp_path / 'tofu', 40)}", "tofu.heldout=5"]
    with pytest.raises(InputError, match=message):
        ssiuu.audit_models(
            str(tmp_path / "model"), tmp_path / "model", forget, tmp_path / "out", sets=found
        )
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_control_alone_is_refused() -> None:
    with pytest.raises(InputError, match=r"tofu\.reference: 'x' is the control of a given"):
        ssiuu.resolve(None, ["benchmark=tofu", "tofu.reference=x"])

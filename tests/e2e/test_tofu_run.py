"""TOFU from the files to the report, on a tiny model and made-up authors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ssiuu
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
    unlearning = next(c for c in record.cells if c.method.label == "gd").unlearning
    assert unlearning is not None and unlearning.stop_score == "rouge"
    assert 0 < unlearning.threshold < 0.3
    assert json.dumps(ssiuu.rows(record), allow_nan=False)
    assert ssiuu.write_report(record, out).stat().st_size > 50_000

    told.clear()
    ssiuu.run(recipe, sources, tmp_path / "again", progress=told.append)
    assert not any("questions: step" in t for t in told)  # both models come from the cache

"""A classifier of gibberish judges written answers: each by itself, and what cannot judge is refused.

pytest tests/unit/test_fluency.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LlamaForSequenceClassification,
)

from sample_record import sample_record
from ssiuu.analysis.rows import rows
from ssiuu.benchmarks.tofu_rows import load
from ssiuu.cli.check import command as check
from ssiuu.errors import ConfigError
from ssiuu.evaluation.fluency import TOKENS, Fluency
from ssiuu.evaluation.scores.open_unlearning import OpenUnlearning
from ssiuu.evaluation.scores.sentences import Sentences
from ssiuu.likelihood import Prompt
from ssiuu.records.schema import Split
from ssiuu.statistics.aggregates import harmonic
from tofu_folder import write_tofu


def classifier(folder: Path, tokenizer: Any, labels: int = 4) -> Path:
    """Write a random classifier of texts."""
    torch.manual_seed(3)
    config = DistilBertConfig(
        vocab_size=len(tokenizer), dim=16, hidden_dim=32, n_heads=2, n_layers=2, num_labels=labels
    )
    model = DistilBertForSequenceClassification(config)
    torch.nn.init.normal_(model.classifier.weight, std=3.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def judge(tokenizer: Any, tmp_path: Path) -> Fluency:
    return Fluency.load(str(classifier(tmp_path / "judge", tokenizer)))


def test_each_text_is_judged_by_itself(judge: Fluency) -> None:
    """Word for word: the softmax of one text's logits, class 0, over its first 32 tokens."""
    texts = ["w1", "w2 w3 w4 w5 w6", " ".join(f"w{n}" for n in range(60)), "w9 w8"] * 10
    found = judge.probabilities(texts)
    for text, probability in zip(texts[:4], found, strict=False):
        ids = judge.tokenizer(text)["input_ids"][:TOKENS]
        with torch.no_grad():
            logits = judge.model(torch.tensor([ids])).logits[0].double()
        wanted = float(logits[0].exp() / logits.exp().sum())
        assert probability == pytest.approx(wanted, abs=1e-5)
    assert found[:4] == pytest.approx(found[36:], abs=1e-6)  # another batch, another padding
    assert len(set(found[:4])) == 4 and judge.probabilities([]) == []


def test_what_cannot_judge_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 1 class"):
        Fluency.load(str(classifier(tmp_path / "one", tokenizer, 1)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"tofu.fluency: '.*empty' cannot be loaded as a classifier"):
        Fluency.load(str(tmp_path / "empty"))
    pickled = classifier(tmp_path / "pickled", tokenizer)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="cannot be loaded as a classifier"):
        Fluency.load(str(pickled))
    cut = classifier(tmp_path / "cut", tokenizer) / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    with pytest.raises(ConfigError, match=r"cut' cannot be loaded as a classifier of texts"):
        Fluency.load(str(cut.parent))
    with torch.no_grad():
        broken = DistilBertForSequenceClassification.from_pretrained(
            classifier(tmp_path / "nan", tokenizer)
        )
        broken.classifier.bias.fill_(float("nan"))
    broken.save_pretrained(tmp_path / "nan")
    with pytest.raises(ConfigError, match="nan' judges no text: what it says is not finite"):
        Fluency.load(str(tmp_path / "nan"))


def test_a_language_model_is_no_classifier(make_model: Any, tokenizer: Any, tmp_path: Path) -> None:
    """Its weights load, and what would judge is drawn anew each time."""
    make_model(2).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    said = r"is no classifier of texts: its files lack 1 of the weights of a \w+ \(score.weight\)"
    with pytest.raises(ConfigError, match=said):
        Fluency.load(str(tmp_path))
    with pytest.raises(ConfigError, match=said):
        check(None, ["benchmark=tofu", f"tofu.fluency={tmp_path}"])
    with pytest.raises(ConfigError, match=r"as a classifier of texts: there is no folder /nowhere"):
        check(None, ["benchmark=tofu", "tofu.fluency=/nowhere"])


@pytest.mark.parametrize("family", ["encoder", "decoder"])
def test_without_a_token_for_padding_the_numbers_are_the_same(
    family: str, tokenizer: Any, make_model: Any, tmp_path: Path
) -> None:
    texts = ["w1", "w2 w3 w4 w5 w6", "", "w9 w8"]
    if family == "encoder":
        classifier(tmp_path, tokenizer)
    else:
        torch.manual_seed(3)
        model = LlamaForSequenceClassification(make_model(2).config)
        torch.nn.init.normal_(model.score.weight, std=3.0)
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
    found = Fluency.load(str(tmp_path)).probabilities(texts)
    path = tmp_path / "tokenizer_config.json"
    told = {key: value for key, value in json.loads(path.read_text()).items() if key != "pad_token"}
    path.write_text(json.dumps(told))
    bare = Fluency.load(str(tmp_path))
    assert bare.tokenizer.pad_token_id is None
    assert bare.probabilities(texts) == pytest.approx(found, abs=1e-6)
    assert found[2] == 0 and len({*found}) == 4


@pytest.mark.parametrize("score", [Sentences, OpenUnlearning])
def test_it_reads_the_answers_to_the_forget_set(
    score: Any, judge: Fluency, make_model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    data = load(str(write_tofu(tmp_path / "tofu", 4)), "forget01", 3)
    split = Split(seed=0, forget=data.forget[:3], retain=data.retain[:1], heldout=[], asked=4, known=4)
    model, prompt = make_model(2, spread=0.1), Prompt(tokenizer)
    plain, judged = (score(by).evaluate(model, prompt, split) for by in (None, judge))
    found = [s.fluency for s in judged.forget.values()]
    assert found == pytest.approx(judge.probabilities([s.free_text for s in judged.forget.values()]))
    assert all(s.fluency is None for s in [*judged.retain.values(), *plain.forget.values()])
    for fact, told in judged.forget.items():  # nothing else moved
        assert told.model_copy(update={"fluency": None}) == plain.forget[fact]


def test_utility_is_the_harmonic_mean_with_fluency() -> None:
    from test_aggregates import a_run, evaluated

    run = a_run("sentences", {})
    fluent = {}
    for name, level, fluency in (("original", 0.8, 0.9), ("gd", 0.4, 0.3)):
        evaluation = evaluated(level, (0.5, 0.5) if name == "original" else (0.8, 0.8))
        forget = {
            fact: s.model_copy(update={"fluency": fluency}) for fact, s in evaluation.forget.items()
        }
        fluent[name] = evaluation.model_copy(update={"forget": forget})
    cells = list(run.cells)
    cells[1] = cells[1].model_copy(update={"evaluation": fluent["gd"]})
    run = run.model_copy(update={"cells": cells, "original": fluent["original"]})
    row = rows(run)["rows"][1]
    kept = row["utility_without_fluency"]
    assert row["fluency"] == pytest.approx(0.3) and 0 < kept < 1
    assert row["utility_score"] == pytest.approx(harmonic([kept, 0.3 / 0.9]))
    assert row["utility_score"] <= 2 * kept / (1 + kept)
    two = [row["memorisation_score"], row["utility_score"]]
    assert row["overall_fluent"] == pytest.approx(harmonic(two))
    assert "utility_score" not in rows(sample_record())["rows"][0]

"""WMDP: its files, both ways to ask, and a whole run on made-up questions.

pytest tests/unit/test_wmdp.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import ssiuu
from ssiuu.benchmarks import madeup
from ssiuu.benchmarks.wmdp import split_of
from ssiuu.benchmarks.wmdp_rows import BESIDE, by_letter, by_text, load, texts
from ssiuu.errors import ConfigError, DataError
from ssiuu.evaluation.scores.choices import Choices
from ssiuu.experiment.recipe import resolve
from ssiuu.likelihood import Prompt
from ssiuu.models.load import save
from ssiuu.records.schema import FactText
from wmdp_folder import write_wmdp


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_wmdp(tmp_path / "wmdp")


def test_files_and_hub_give_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = load(str(folder), ["bio", "cyber"])
    assert {name: len(rows) for name, rows in items.items()} == {"bio": 8, "cyber": 8, BESIDE: 8}
    names = {("cais/wmdp", "wmdp-bio"): "wmdp-bio", ("cais/wmdp", "wmdp-cyber"): "wmdp-cyber"}
    names[("cais/mmlu", "all")] = "mmlu"

    def load_dataset(repository: str, name: str, split: str) -> list[Any]:
        if repository == "cais/wmdp-corpora":
            assert (name, split) == ("cyber-forget-corpus", "train")
            return [json.loads(line) for line in (folder / "forget.jsonl").read_text().splitlines()]
        assert split == "test"
        text = (folder / f"{names[repository, name]}.json").read_text()
        rows = json.loads(text) if text[0] == "[" else [json.loads(line) for line in text.splitlines()]
        return list(rows)

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert load(None, ["bio", "cyber"]) == items
    assert texts("cais/wmdp-corpora:cyber-forget-corpus", "wmdp.forget") == texts(
        str(folder / "forget.jsonl"), "wmdp.forget"
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"question": "a", "choices": ["b", "c", "d"], "answer": 0},
            "choices: List should have at least 4",
        ),
        ({"question": "a", "choices": ["b", "c", "d", "e"], "answer": 4}, "less than or equal to 3"),
        ({"question": "a", "choices": ["b", "c", " ", "e"], "answer": 0}, "a choice is empty"),
        ({"question": "a", "choices": ["b", "b", "c", "e"], "answer": 0}, "right choice stands twice"),
        (
            {"question": "", "choices": ["b", "c", "d", "e"], "answer": 0},
            "question: String should have",
        ),
    ],
)
def test_bad_rows_are_named(folder: Path, row: dict[str, Any], message: str) -> None:
    (folder / "wmdp-bio.json").write_text(json.dumps(row))
    with pytest.raises(DataError, match=rf"wmdp-bio\.json:1: .*{message}"):
        load(str(folder), ["bio"])


def test_what_is_missing_or_in_both_is_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"wmdp\.path: .*wmdp-chem\.json cannot be read"):
        load(str(folder), ["chem"])
    (folder / "mmlu.json").write_text((folder / "wmdp-bio.json").read_text())
    with pytest.raises(DataError, match="one of the questions to forget and one of MMLU's"):
        load(str(folder), ["bio"])
    with pytest.raises(DataError, match=r"wmdp\.forget: 'nowhere' is neither a file nor"):
        texts("nowhere", "wmdp.forget")


def test_by_text_and_by_letter(folder: Path) -> None:
    """As lm-eval asks: no blank around the question, the letter is the answer."""
    row = load(str(folder), ["bio"])["bio"][1]
    text, letter = by_text(row, "i"), by_letter(row, "i", "biology")
    assert text.question == "Question: w1 w1 ?\nAnswer:"
    assert (text.answer, text.options) == ("w2", ["w2", "w5", "w8", "w11"])
    assert letter.question == (
        "The following are multiple choice questions (with answers) about biology.\n\n"
        "w1 w1 ?\nA. w5\nB. w2\nC. w8\nD. w11\nAnswer:"
    )
    assert (letter.answer, letter.options) == ("B", ["B", "A", "C", "D"])


def _token(prompt: Prompt, fact: FactText, option: str) -> int:
    (answer,) = prompt.joint(fact.question, [option]).answers
    return answer[0]


def test_choices_are_ranked_by_mean_log_probability(
    make_model: Any, tokenizer: Any, folder: Path
) -> None:
    model, prompt = make_model(3), Prompt(tokenizer, form="{question}")
    facts = [by_text(row, str(n)) for n, row in enumerate(load(str(folder), ["bio"])["bio"])]
    scores = Choices().score(model, prompt, facts, normalise=True)
    for fact in facts:
        ids = prompt.question(fact.question)
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        best = max(fact.options, key=lambda option: float(logits[_token(prompt, fact, option)]))
        assert scores[fact.id].correct == (best == fact.answer)
        assert scores[fact.id].free_text is None
    assert {s.correct for s in scores.values()} == {True, False}


def test_no_question_is_in_two_sets(folder: Path) -> None:
    recipe, _ = resolve(
        None, ["benchmark=wmdp", "model=m", "split={retain: 3, heldout: 4}", "wmdp.items=5"]
    )
    items = load(str(folder), ["bio", "cyber"])
    split = split_of(recipe.opens.config, recipe.split, items, [])
    assert [len(split.forget), len(split.retain), len(split.heldout)] == [10, 3, 4]
    assert not {f.id for f in split.retain} & {f.id for f in split.heldout}
    assert {name: len(facts) for name, facts in split.others.items()} == {
        "bio_letter": 5,
        "cyber_letter": 5,
        "mmlu_letter": 4,
    }
    assert "about high school words." in split.others["mmlu_letter"][0].question
    assert {f.id for f in split.others["bio_letter"]} < {f.id for f in split.forget}


def test_settings_that_cannot_be() -> None:
    for sets, message in (
        ([], "needs model"),
        (["model=m", "evaluate.options=3"], r"evaluate\.options: WMDP's questions have 4, got 3"),
        (["model=m", "wmdp.retain=x"], r"wmdp\.retain: .*set wmdp\.forget"),
        (["model=m", "wmdp.forget=made-up"], r"wmdp\.forget: made-up texts"),
        (["wmdp.subjects=[made-up, bio]"], r"wmdp\.subjects: made-up questions stand alone"),
        (["model=m", "wmdp.subjects=[biology]"], r"wmdp\.subjects"),
    ):
        with pytest.raises(ConfigError, match=message):
            resolve(None, ["benchmark=wmdp", *sets])


def test_made_up_questions_have_one_right_choice() -> None:
    items = madeup.wmdp(0)
    assert len(items["made-up"]) == 6 * madeup.ARTICLES and madeup.wmdp(0) == items != madeup.wmdp(1)
    assert {row.answer for row in items["made-up"]} == {0, 1, 2, 3}
    forget = {row.question for row in items["made-up"]}
    assert not forget & {row.question for row in items[BESIDE]}
    texts_to_forget = madeup.muse(0).forget
    for row in items["made-up"]:  # the texts tell what is asked
        assert any(row.choices[row.answer] in text for text in texts_to_forget)


def test_texts_are_trained_on_and_questions_asked(
    make_model: Any, tokenizer: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a model that was taught the answers: they are forgotten by letters' texts, MMLU's stay."""
    from conftest import teach

    monkeypatch.setenv("SSIUU_CACHE", str(tmp_path / "cache"))
    model = make_model(spread=0.1)
    items = load(str(folder), ["bio"])
    facts = [by_text(row, "") for rows in items.values() for row in rows]
    teach(model, tokenizer, [f.model_dump() for f in facts], "{question} {answer}\n")
    save(model, tokenizer, tmp_path / "model")
    given = f"path: {folder}, forget: {folder / 'forget.jsonl'}, retain: {folder / 'retain.jsonl'}"
    recipe, sources = resolve(
        None,
        [
            "benchmark=wmdp",
            f"model={tmp_path / 'model'}",
            f"wmdp={{subjects: [bio], {given}}}",
            "split.heldout=8",
            "methods=[none,gd]",
            "unlearn={learning_rate: 3e-3, max_steps: 12}",
            "attacks.harmful={fractions: [0.3], learning_rates: [1e-2]}",
            "attacks.benign.learning_rates=[]",
            "attacks.reads=[1]",
            "examine.steps=[]",
            "diagnose=false",
        ],
    )
    record = ssiuu.run(recipe, sources, tmp_path / "run")
    none, gd = ssiuu.rows(record)["rows"]
    assert none["forget"] == none["heldout"] == 1 and record.header.chance == 0.25
    assert gd["forget"] < 0.5 < gd["heldout"]
    assert all(0 <= row[name] <= 1 for row in (none, gd) for name in ("bio_letter", "mmlu_letter"))
    assert record.header.benchmark.note == "bio; not screened; trained on: 8 pieces of text"
    assert gd["harmful_0.3"] is not None
    assert "bio letter" in ssiuu.write_report(record, tmp_path / "run").read_text()

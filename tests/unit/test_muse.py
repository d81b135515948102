"""MUSE: its files, its scores by hand, and a whole run on made-up texts.

pytest tests/unit/test_muse.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import ssiuu
from muse_folder import write_muse
from ssiuu.benchmarks import madeup
from ssiuu.benchmarks.muse import MuseConfig, split_of
from ssiuu.benchmarks.muse_rows import load
from ssiuu.benchmarks.passages import ROOM, passages
from ssiuu.errors import ConfigError, DataError
from ssiuu.evaluation.rouge import rouge_f1, rouge_recall
from ssiuu.evaluation.scores.texts import EXCERPT, Texts
from ssiuu.evaluation.sequence import score_sequences
from ssiuu.experiment.recipe import resolve
from ssiuu.likelihood import Prompt, encode
from ssiuu.models.load import save
from ssiuu.records.schema import FactText


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_muse(tmp_path / "muse")


def test_files_are_read_as_they_are_published(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load(str(folder), "News", "raw/forget")
    assert [len(data.forget), len(data.retain), len(data.excerpts)] == [6, 6, 6]
    assert data.members == data.forget and not set(data.non_members) & set(data.forget)
    assert data.known_shots == [("w1?", "w2")] and data.kept_shots == [("w3?", "w4")]

    def load_dataset(repository: str, name: str, split: str) -> list[Any]:
        assert repository == "muse-bench/MUSE-Books"
        text = (folder / name / f"{split}.json").read_text()
        rows = json.loads(text) if text[0] == "[" else [json.loads(line) for line in text.splitlines()]
        return [{"text": row} if isinstance(row, str) else row for row in rows]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    hub = load(None, "Books", "raw/forget")
    assert hub == data and hub.fingerprint == data.fingerprint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("verbmem/forget", None, r"muse\.path: .*verbmem/forget\.json cannot be read.*MUSE-News"),
        ("knowmem/forget_qa", '[{"question": "a"}]', r"forget_qa\.json, row 1: answer: Field required"),
        ("raw/retain1", "[]", "raw/retain1 of .* has no rows"),
    ],
)
def test_bad_files_are_named(folder: Path, name: str, content: str | None, message: str) -> None:
    path = folder / f"{name}.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message):
        load(str(folder), "News", "raw/forget")


def test_a_hold_out_that_is_to_be_forgotten_is_refused(folder: Path) -> None:
    (folder / "privleak/holdout.json").write_text((folder / "privleak/forget.json").read_text())
    with pytest.raises(DataError, match=r"hold-out text .* is one of those to forget too"):
        load(str(folder), "News", "raw/forget")


def test_pieces_are_the_text(tokenizer: Any) -> None:
    """Nothing is lost but where two pieces meet; every token but the first word's is predicted."""
    text = "word w2\n w3 " + " ".join(f"w{n}" for n in range(4, 24))
    rows = passages(tokenizer, [text, "word", "word\n w3"], 8 + ROOM, "t")
    assert [row.id for row in rows] == ["t:0", "t:0.1", "t:0.2", "t:2"]
    prompt = Prompt(tokenizer, form="{question}")
    read = [encode(prompt, r.id, r.question, r.answer, 64) for r in rows]
    whole = tokenizer(text)["input_ids"]
    for start, row in zip((0, 8, 16), read, strict=False):
        assert (row.prompt + row.answer)[1:] == whole[start + 1 : start + 8]
    assert [len(row.prompt) for row in read] == [1, 1, 1, 2] and not any(r.scored for r in rows)
    assert [r.id for r in passages(tokenizer, [text], 8 + ROOM, "t", first=True)] == ["t:0"]


def test_rouge_f1_by_hand() -> None:
    """3 of 4 words are found, among 6: recall 3/4, precision 1/2, F1 3/5."""
    right, written = "a b c d", "a x b y c z"
    assert rouge_recall(right, written) == pytest.approx(3 / 4)
    assert rouge_f1(right, written) == pytest.approx(3 / 5)
    assert rouge_f1("a b", "a b") == 1 and rouge_f1("a b", "") == 0


def test_excerpts_go_on_as_far_as_they_should_and_answers_to_a_line_end(
    make_model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompt = make_model(1), Prompt(tokenizer, form="{question}")
    ids = tokenizer(" w1 w2\n w3 w4 w5")["input_ids"]

    def scripted(*_: Any, limits: Any = None, endings: Any = None, **__: Any) -> list[list[int]]:
        return [ids[:limit] for limit in limits]

    monkeypatch.setattr(
        "ssiuu.evaluation.scores.texts.write",
        lambda m, p, q, limits, endings: scripted(limits=limits, endings=endings),
    )
    excerpt = FactText(id="e", question="w9", answer="w1 w2 w3 w4", relation=EXCERPT)
    question = FactText(id="q", question="w9?", answer="w1 w2")
    scores = Texts().score(model, prompt, [excerpt, question])
    assert scores["e"].free_text == "w1 w2\n w3" and scores["q"].free_text == "w1 w2"
    assert scores["e"].rouge == rouge_f1("w1 w2 w3 w4", "w1 w2 w3") and scores["q"].rouge == 1
    (told,) = score_sequences(model, [encode(prompt, "e", "w9", excerpt.answer, 64)])
    assert scores["e"].logprob == pytest.approx(told.logprob, rel=1e-6)
    assert scores["e"].exact_memorisation == told.exact_memorisation
    reading = Texts().read(model, prompt, [excerpt])["e"]
    assert (reading.rouge, reading.correct) == (scores["e"].rouge, None)


def test_sets_and_shots(folder: Path, tokenizer: Any) -> None:
    data = load(str(folder), "News", "raw/forget")
    split = split_of(MuseConfig(items=4, continuation=3), data, tokenizer, [], 0)
    assert [len(split.forget), len(split.heldout), len(split.others["knowledge"])] == [4, 4, 4]
    assert all(len(tokenizer(f.answer)["input_ids"]) <= 3 for f in split.forget)
    first = split.others["knowledge"][0].question
    assert first.startswith("Question: w1?\nAnswer: w2\n\nQuestion: ") and first.endswith("?\nAnswer:")
    assert split.heldout[0].question.startswith("Question: w3?\nAnswer: w4\n\n")


def test_made_up_texts_hold_their_answers() -> None:
    data = madeup.muse(0)
    assert len(data.forget) == len(data.retain) == len(data.non_members) == madeup.ARTICLES
    for (begin, rest), text in zip(data.excerpts, data.forget, strict=True):
        assert f"{begin} {rest}" == text
    for pairs, texts in ((data.known, data.forget), (data.kept, data.retain)):
        assert all(any(answer in text for text in texts) for _, answer in pairs)
    assert madeup.muse(0) == data != madeup.muse(1)


def test_settings_that_cannot_be() -> None:
    for sets, message in (
        ([], "needs model: one that has read the texts, as muse-bench/MUSE-News_target"),
        (["muse.corpus=made-up"], r"muse\.epochs: no model has read made-up texts"),
        (["model=m", "muse={epochs: 1, reference: r}"], r"muse\.reference: 'r' is the control"),
        (["model=m", "muse.request=raw/other"], r"muse\.request"),
    ):
        with pytest.raises(ConfigError, match=message):
            resolve(None, ["benchmark=muse", *sets])


def test_texts_are_read_forgotten_and_told_apart(
    make_model: Any, tokenizer: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the files to the report: only texts are trained on, and the twin is what PrivLeak needs."""
    monkeypatch.setenv("SSIUU_CACHE", str(tmp_path / "cache"))
    save(make_model(spread=0.1), tokenizer, tmp_path / "model")
    sets = [
        "benchmark=muse",
        f"model={tmp_path / 'model'}",
        f"muse={{path: {folder}, epochs: 14, learning_rate: 2e-2}}",
        "unlearn={learning_rate: 1e-2, max_steps: 8}",
        "attacks.harmful={fractions: [0.3], learning_rates: [1e-2]}",
        "attacks.benign.learning_rates=[]",
        "attacks.reads=[1]",
        "diagnose=false",
    ]
    recipe, sources = resolve(None, [*sets, "methods=[none,gd]"])
    record = ssiuu.run(recipe, sources, tmp_path / "run")
    table = {row["method"]: row for row in ssiuu.rows(record)["rows"]}
    none, gd, never = table["none"], table["gd"], table["never-learned"]
    assert none["verbmem"] > 0.8 > 0.3 > never["verbmem"]
    assert gd["verbmem"] < none["verbmem"]
    assert never["privleak"] == 0 and none["privleak"] < -50 and gd["privleak"] is not None
    assert all(
        row["knowmem"] is not None and row["utility_knowmem"] is not None for row in table.values()
    )
    assert 0 <= gd["harmful_0.3"] <= 1
    unlearning = record.cells[1].unlearning
    assert unlearning is not None and unlearning.stopped == "threshold"
    assert unlearning.stop_score == "rouge_f1" and unlearning.before is not None
    assert "6 texts in 6 pieces to forget" in record.header.benchmark.note
    assert "VerbMem" in ssiuu.write_report(record, tmp_path / "run").read_text()

    refused, sources = resolve(None, [*sets, "methods=[none,dpo]"])
    with pytest.raises(ConfigError, match=r"'dpo' puts another answer .* 'muse' forgets texts"):
        ssiuu.run(refused, sources, tmp_path / "refused")

    given = [s for s in sets if not s.startswith("muse=")] + ["methods=[none]"]
    one, sources = resolve(None, [*given, f"muse={{path: {folder}, items: 2}}"])
    alone = ssiuu.run(one, sources, tmp_path / "alone")
    assert len(alone.cells) == 1 and any("PrivLeak" in note for note in alone.header.notes)

"""TOFU's files, splits and columns, and a fact's scores against their definitions.

pytest tests/unit/test_tofu.py
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sample_record import sample_record
from ssiuu.analysis.rows import rows
from ssiuu.analysis.scores.sentences import SentenceColumns, utility
from ssiuu.attacks.pool import apart, attacked_facts
from ssiuu.benchmarks.screening import as_text
from ssiuu.benchmarks.tofu import TofuConfig, split_of
from ssiuu.benchmarks.tofu_rows import load
from ssiuu.data.read import read_facts as read_rows
from ssiuu.errors import ConfigError, DataError
from ssiuu.evaluation.rouge import rouge_recall
from ssiuu.evaluation.scores import sentences
from ssiuu.evaluation.scores.ranking import Ranking, read_by_ranking
from ssiuu.evaluation.scores.sentences import mismatched_rouge, score_sentences
from ssiuu.likelihood import Prompt
from ssiuu.records.schema import Evaluation, FactScore, FactText, Reading, Split
from ssiuu.report.text import summary
from tofu_folder import write_tofu


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tofu(tmp_path / "tofu")


def fact(n: int, answer: str = "w1", entity: str | None = None) -> FactText:
    return FactText(id=f"f{n}", question=f"w{n}?", answer=answer, entity=entity)


def test_twenty_questions_an_author_and_the_forget_set_last(folder: Path) -> None:
    data = load(str(folder), "forget01", options=3)
    assert [len(data.retain), len(data.forget)] == [60, 40]
    assert [f.entity for f in data.retain[19:21]] == ["author 0", "author 1"]
    assert [f.id for f in data.forget[::39]] == ["tofu:60", "tofu:99"]
    assert {f.entity for f in data.forget} == {"author 3", "author 4"}
    first = data.forget[0]
    assert first.options == [first.answer, *first.perturbed[:2]] and len(first.perturbed) == 5
    assert len(first.paraphrases) == 1 and first.paraphrased_answer
    author = data.others["real_authors"][0]
    assert author.paraphrased_answer is None and len(author.perturbed) == 3
    assert len(data.non_members) == 40 and not data.lacking
    assert not {f.question for f in data.non_members} & {
        f.question for f in (*data.forget, *data.retain)
    }


def test_the_fingerprint_follows_the_content(folder: Path) -> None:
    before = load(str(folder), "forget01", 3).fingerprint
    path = folder / "world_facts_perturbed.json"
    path.write_text("\n" + path.read_text() + "\n\n")  # lines without content do not count
    assert load(str(folder), "forget01", 3).fingerprint == before
    path.write_text(path.read_text().replace("w1", "w2"))
    assert load(str(folder), "forget01", 3).fingerprint != before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("retain99", None, r"tofu\.path: .*retain99\.json cannot be read"),
        ("forget01_perturbed", "{", r"forget01_perturbed\.json:1: the line: Invalid JSON"),
        ("forget01_perturbed", '{"question": "a?"}', r"json:1: answer: Field required"),
        ("forget01_perturbed", '{"question": "a?", "answer": "b"}', "'a\\?' has no perturbed_answer"),
        ("retain_perturbed", '{"question": "a?", "answer": "b"}', "does not hold the first questions"),
    ],
)
def test_bad_files_are_named(folder: Path, name: str, content: str | None, message: str) -> None:
    path = folder / f"{name}.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message):
        load(str(folder), "forget01", 3)


def test_the_hub_gives_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(repository: str, name: str, split: str) -> list[dict[str, Any]]:
        assert (repository, split) == ("locuslab/TOFU", "train")
        text = (folder / f"{name}.json").read_text()
        found: list[dict[str, Any]] = (
            json.loads(text) if text[0] == "[" else [json.loads(line) for line in text.splitlines()]
        )
        return found

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert load(None, "forget01", 3) == load(str(folder), "forget01", 3)


def test_no_hub_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("ssiuu.hub.silence", lambda: "")  # it answers, and not with the data
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(DataError, match=r"no route to host.*set tofu\.path"):
        load(None, "forget01", 3)


def test_mismatched_rouge_by_hand() -> None:
    """Two of three answers are alike; of the six ordered pairs two match."""
    facts = [fact(0, "w1 w2"), fact(1, "w1 w2"), fact(2, "w3 w4")]
    assert mismatched_rouge(facts, 0) == pytest.approx(1 / 3)
    apart = [fact(n, f"w{n}") for n in range(30)]  # an answer is never paired with itself
    assert mismatched_rouge(apart, 0) == 0
    with pytest.raises(DataError, match="at least 2"):
        mismatched_rouge(facts[:1], 0)


def test_the_split_keeps_authors_together(folder: Path) -> None:
    data = load(str(folder), "forget01", 3)
    split = split_of(TofuConfig(heldout=20, items=4), data, 0)
    assert len({f.entity for f in split.heldout}) == 1 and len(split.heldout) == 4
    assert len(split.retain) == 40 and sum(f.scored for f in split.retain) == 4
    assert not {f.entity for f in split.heldout} & {f.entity for f in split.retain}
    assert {name: len(facts) for name, facts in split.others.items()} == {
        "real_authors": 4,
        "world_facts": 4,
    }
    whole = split_of(TofuConfig(heldout=0), data, 0)
    assert whole.retain == data.retain and whole.others == data.others
    assert split_of(TofuConfig(retain=10, heldout=0), data, 0).retain == data.retain[:10]
    with pytest.raises(ConfigError, match=r"tofu\.heldout: must be below the 60"):
        split_of(TofuConfig(heldout=60), data, 0)


def test_an_attacker_of_few_entities_takes_whole_ones() -> None:
    """Drawn one by one, 12 of 40 facts would touch both authors and leave nothing to score."""
    two = [fact(n, entity=f"author {n // 20}") for n in range(40)]
    held = attacked_facts(two, [0.1, 0.3], seed=0)
    assert len(held) == 12 and len(apart(two, held)) == 20
    single = [fact(n) for n in range(40)]
    assert len(apart(single, attacked_facts(single, [0.3], seed=0))) == 28


END = 0  # of the tests' tokenizer


def mean_logprob(model: Any, prompt: Prompt, question: str, answer: str) -> float:
    """Return log P / |y| of an answer with its end token, from one forward pass of its own."""
    ids, tail = prompt.question(question), [*prompt.answer(answer), END]
    with torch.no_grad():
        logits = model(torch.tensor([ids + tail])).logits[0].double().log_softmax(-1)
    return sum(float(logits[len(ids) - 1 + t, token]) for t, token in enumerate(tail)) / len(tail)


def test_reads_of_an_attack_are_the_scores(make_model: Any, tokenizer: Any, folder: Path) -> None:
    model, prompt = make_model(2, spread=0.1), Prompt(tokenizer)
    facts = load(str(folder), "forget01", options=3).forget[:6]
    found = score_sentences(model, prompt, facts, paraphrases=True)
    assert {s.correct for s in found.values()} == {True, False}
    reads = read_by_ranking(model, prompt, facts)
    for f in facts:
        score, reading = found[f.id], reads[f.id]
        assert (reading.correct, reading.rouge) == (score.correct, score.rouge)
        assert reading.logprob == pytest.approx(score.logprob, rel=1e-5)
        assert score.rouge == rouge_recall(f.answer, score.free_text or "")
        assert score.tokens == len(prompt.answer(f.answer))  # without the end token


def test_sentences_are_asked_in_another_form_too(make_model: Any, tokenizer: Any, folder: Path) -> None:
    """As if that form were the one of training: same ranking, same written answer."""
    model, prompt = make_model(2, spread=0.1), Prompt(tokenizer, "qa")
    facts = load(str(folder), "forget01", options=3).forget[:6]
    found = score_sentences(model, prompt, facts, other=prompt.other())
    alone = score_sentences(model, prompt.other(), facts)
    for fact in facts:
        score, other = found[fact.id], alone[fact.id]
        assert (score.other_form, score.other_text) == (other.correct, other.free_text)
        assert score.other_free == other.free_correct == (fact.answer in (other.free_text or ""))
    assert {s.other_form for s in found.values()} == {True, False}
    split = Split(seed=0, forget=facts, retain=facts, heldout=[], asked=6, known=6)
    scores = Ranking().evaluate(model, prompt, split)
    assert all(s.other_text is not None for s in scores.forget.values())
    assert all(s.other_text is None for s in scores.retain.values())


def test_short_answers_and_sentences_in_one_set(make_model: Any, tokenizer: Any, folder: Path) -> None:
    """Each fact is scored in its form, in the order of the set; what is only trained on is not."""
    model, prompt = make_model(2), Prompt(tokenizer)
    first, second, third = load(str(folder), "forget01", options=3).forget[:3]
    plain = first.model_copy(update={"perturbed": [], "paraphrased_answer": None})
    facts = [plain, second, third.model_copy(update={"scored": False})]
    split = Split(seed=0, forget=facts, retain=facts, heldout=[], asked=3, known=3)
    found = Ranking().evaluate(model, prompt, split)
    for scores in (found.forget, found.retain):
        assert list(scores) == [first.id, second.id]
        assert scores[first.id].truth_ratio is None and scores[second.id].truth_ratio is not None
        assert scores[first.id].probability is None and scores[first.id].correct is not None
    reads = read_by_ranking(model, prompt, facts[:2])
    assert list(reads) == [first.id, second.id]
    assert [r.rouge is None for r in reads.values()] == [True, False]


def test_own_rows_with_perturbed_answers_are_sentences(make_model: Any, tokenizer: Any) -> None:
    """As people have them: TOFU's names or ours, some rows with perturbed answers and some without."""
    rows = [
        {"question": "w1?", "answer": "w2 w3", "perturbed_answer": ["w4 w3", "w5 w3", "w6 w3"]},
        {"question": "w7?", "answer": "w8", "distractors": ["w9", "w10"]},
    ]
    facts = [as_text(fact, 3, 0) for fact in read_rows(rows, "forget")]
    assert facts[0].perturbed == ["w4 w3", "w5 w3", "w6 w3"]
    assert facts[0].options == ["w2 w3", "w4 w3", "w5 w3"]
    split = Split(seed=0, forget=facts, retain=[], heldout=[], asked=2, known=2)
    sentence, short = Ranking().evaluate(make_model(1), Prompt(tokenizer), split).forget.values()
    assert None not in (sentence.truth_ratio, sentence.truth_ratio_geometric, sentence.rouge)
    assert sentence.correct is not None and sentence.probability is not None
    assert short.truth_ratio is None and short.free_correct is not None


def test_non_members_may_be_missing_and_may_not_be_members(folder: Path) -> None:
    path = folder / "holdout01.json"
    rows = json.loads(path.read_text())
    path.unlink()
    data = load(str(folder), "forget01", 3)
    assert data.non_members == [] and "holdout01.json of locuslab/TOFU is not in" in data.lacking
    path.write_text("[{")
    with pytest.raises(DataError, match=r"holdout01\.json: begins as a JSON list and is none"):
        load(str(folder), "forget01", 3)
    path.write_text(json.dumps([*rows, {"question": data.retain[3].question, "answer": "x"}]))
    with pytest.raises(DataError, match="is held out from training and is one of the 4,000"):
        load(str(folder), "forget01", 3)
    path.write_text(json.dumps([*rows, {"answer": "x"}]))
    with pytest.raises(DataError, match=r"holdout01\.json, row 41: question: Field required"):
        load(str(folder), "forget01", 3)


def test_the_hub_may_lack_the_non_members(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(repository: str, name: str, split: str) -> list[dict[str, Any]]:
        if name.startswith("holdout"):
            raise ValueError(f"no configuration {name}")
        return [json.loads(line) for line in (folder / f"{name}.json").read_text().splitlines()]

    monkeypatch.setattr("ssiuu.hub.silence", lambda: "")  # it answers, and lacks them
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    data = load(None, "forget01", 3)
    assert data.non_members == [] and "no configuration holdout01" in data.lacking


def test_a_name_may_come_within_a_sentence(
    make_model: Any, tokenizer: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After fine-tuning on sentences a model answers "The author is ..." where a name would do."""
    model, prompt = make_model(2), Prompt(tokenizer)
    author = load(str(folder), "forget01", 3).others["real_authors"][0]
    wanted = prompt.answer(author.answer)
    sentence = [prompt.answer("w7")[0]] * 20 + wanted

    def scripted(
        _model: Any, _prompt: Any, _questions: Any, limits: list[int], endings: Any
    ) -> list[list[int]]:
        return [sentence[:limit] for limit in limits]

    monkeypatch.setattr(sentences, "write", scripted)
    assert sentences.rouge_recalls(model, prompt, [author]) == [1.0]


def scored(**values: Any) -> FactScore:
    return FactScore(correct=True, logprob=-1.0, tokens=2, **values)


def an_evaluation(ratios: list[float], rouge: float = 0.5) -> Evaluation:
    sets = {
        f"f{n}": scored(
            probability=0.5,
            rouge=rouge,
            truth_ratio=t,
            truth_ratio_geometric=t / 2,
            extraction_strength=0.25,
        )
        for n, t in enumerate(ratios)
    }
    others = {"real_authors": sets, "world_facts": sets}
    return Evaluation(forget=sets, retain=sets, heldout={}, others=others, seconds=1.0)


def test_model_utility_of_an_evaluation_by_hand() -> None:
    """Probability and ROUGE 1/2, truth ratio mean(1 - 1/4, 0) = 3/8, on three sets."""
    evaluation = an_evaluation([0.25, 4.0])
    assert utility(evaluation) == pytest.approx(9 / (3 * (2 + 2 + 8 / 3)))
    # The geometric ratios are half of these: mean(1 - 1/8, 0) = 7/16.
    assert utility(evaluation, geometric=True) == pytest.approx(9 / (3 * (2 + 2 + 16 / 7)))
    assert utility(evaluation.model_copy(update={"others": {}})) is None


def test_columns_of_a_run() -> None:
    """Forget quality is 1 against itself, None without the control; attacks are read by ROUGE-L."""
    record = sample_record()
    assert not any("rouge" in key for key in rows(record)["rows"][0])  # other benchmarks have none
    split = record.header.split.model_copy(update={"others": {"real_authors": [fact(0)]}})
    method = record.cells[0].method.model_copy(update={"name": "never-learned", "label": "never"})
    attacked = record.cells[1]
    reads = [
        attack.model_copy(
            update={
                "reads": [
                    read.model_copy(
                        update={
                            "facts": {
                                i: Reading(correct=False, logprob=-1.0, rouge=0.1 * read.step)
                                for i in read.facts
                            }
                        }
                    )
                    for read in attack.reads
                ]
            }
        )
        for attack in attacked.attacks
    ]
    low, high = an_evaluation([0.1, 0.2, 0.3]), an_evaluation([5.0, 6.0, 7.0])
    cells = [
        attacked.model_copy(update={"evaluation": low, "attacks": reads}),
        record.cells[0].model_copy(update={"method": method, "evaluation": high, "attacks": []}),
    ]
    header = record.header.model_copy(update={"split": split, "score": "sentences"})
    run = record.model_copy(update={"header": header, "cells": cells, "original": None})
    ours, control = rows(run)["rows"]
    assert control["forget_quality"] == 1
    assert ours["forget_quality"] == pytest.approx(2 / math.comb(6, 3))
    assert ours["forget_truth_ratio"] == pytest.approx(0.2)
    assert ours["forget_truth_ratio_geometric"] == pytest.approx(0.1)
    assert ours["privleak"] is None  # membership was not asked for
    assert ours["forget_rouge"] == 0.5 and ours["extraction_strength"] == 0.25
    assert ours["exact_memorisation"] is None and ours["heldout_truth_ratio"] is None
    peak = max(read.step for read in reads[0].reads) * 0.1
    assert ours["harmful-0.1"] == pytest.approx(peak) and ours["harmful-0.1_ranking"] == 0
    alone = run.model_copy(update={"cells": cells[:1]})
    # The control ranks every answer first, so this is where guessing stands, not at 1/3.
    score = SentenceColumns()
    assert score.guessing(run, cells[0]) == 1
    assert score.guessing(alone, cells[0]) == run.header.chance
    assert rows(alone)["rows"][0]["forget_quality"] is None
    assert "utility" in summary(run)

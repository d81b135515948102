"""OpenUnlearning's conventions: every number against its formula written out here, apart from ours.

pytest tests/unit/test_open_unlearning.py
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rouge_score import rouge_scorer
from scipy.stats import hmean, ks_2samp

import ssiuu
from ssiuu.benchmarks.tofu_rows import load
from ssiuu.evaluation.scores.open_unlearning import OpenUnlearning
from ssiuu.evaluation.scores.sentences import write_answers
from ssiuu.experiment.recipe import resolve
from ssiuu.likelihood import Prompt
from ssiuu.models.load import save
from ssiuu.records.schema import FactText, RunRecord
from tofu_folder import write_tofu

REAL = Path(__file__).parents[3] / "shared/data/tofu"
END = 0  # of the tests' tokenizer
CLOSE = 1e-4  # as near as numbers of two codes are expected to be


def losses(model: Any, prompt: Prompt, question: str, answer: str) -> np.ndarray:
    """Return the cross-entropy of every token of an answer and its end token, from one pass."""
    joint = prompt.joint(question, [answer])
    ids, tail = joint.prompt, [*joint.answers[0], END]
    with torch.no_grad():
        logits = model(torch.tensor([ids + tail])).logits[0].double()
    predicted = logits[len(ids) - 1 : -1].log_softmax(-1)
    return -predicted[torch.arange(len(tail)), torch.tensor(tail)].numpy()


def average(model: Any, prompt: Prompt, question: str, answer: str) -> float:
    return float(losses(model, prompt, question, answer).mean())


def ratio(model: Any, prompt: Prompt, fact: FactText) -> float:
    right = average(model, prompt, fact.question, fact.paraphrased_answer or fact.answer)
    wrong = np.mean([average(model, prompt, fact.question, text) for text in fact.perturbed])
    return float(np.exp(-wrong) / (np.exp(-right) + 1e-10))


def test_single_scores_are_as_written_there(make_model: Any, tokenizer: Any, tmp_path: Path) -> None:
    model, prompt = make_model(2, spread=0.1), Prompt(tokenizer)
    data = load(str(write_tofu(tmp_path / "tofu")), "forget01", 3)
    facts = data.forget[:5]
    found = OpenUnlearning().score(model, prompt, facts)
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    for fact in facts:
        score = found[fact.id]
        loss = average(model, prompt, fact.question, fact.answer)
        assert score.probability == pytest.approx(math.exp(-loss), abs=CLOSE)
        assert score.truth_ratio_geometric == pytest.approx(ratio(model, prompt, fact), rel=CLOSE)
        assert score.rouge == scorer.score(fact.answer, score.free_text)["rougeL"].recall
        joint = prompt.joint(fact.question, [fact.answer])
        with torch.no_grad():
            logits = model(torch.tensor([joint.prompt + joint.answers[0]])).logits[0]
        hits = (
            logits[len(joint.prompt) - 1 : -1].argmax(-1) == torch.tensor(joint.answers[0])
        ).tolist()
        for k in range(len(hits)):  # the first that fits, or the last that was tried
            if all(hits[k:]):
                break
        assert score.extraction_strength == pytest.approx(1 - k / len(hits))
        assert score.exact_memorisation == pytest.approx(sum(hits) / len(hits))
    authors = data.others["real_authors"]
    among = OpenUnlearning().score(model, prompt, authors, normalise=True)
    for fact in authors:
        right, *wrong = (
            math.exp(-average(model, prompt, fact.question, text))
            for text in (fact.answer, *fact.perturbed)
        )
        wanted = right / (right + sum(wrong) + 1e-10)
        assert among[fact.id].probability == pytest.approx(wanted, abs=CLOSE)


def test_answers_are_written_to_the_end_token(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to 200 tokens and over line ends, where ours ends with the line or a margin later."""
    fact = load(str(write_tofu(tmp_path / "tofu")), "forget01", 3).forget[0]
    said = tokenizer((" w1" * 30 + "\n") * 10)["input_ids"]
    asked: list[int] = []

    def write(
        _: Any, prompt: Prompt, questions: Any, limits: list[int], endings: Any
    ) -> list[list[int]]:
        asked.extend(limits)
        return [said[:limit] for limit in limits]

    monkeypatch.setattr("ssiuu.evaluation.scores.sentences.write", write)
    prompt = Prompt(tokenizer)
    (theirs,) = write_answers(None, prompt, [fact], OpenUnlearning.conventions)  # type: ignore[arg-type]
    (ours,) = write_answers(None, prompt, [fact])  # type: ignore[arg-type]
    assert asked == [200, len(prompt.joint(fact.question, [fact.answer]).answers[0]) + 32]
    assert theirs.count("\n") == 6 and ours.count("w1") == 30 and "\n" not in ours


def pull(model: Any, prompt: Prompt, fact: FactText) -> float:
    """Return the mean 2-norm of the gradient of every parameter, of the loss without the end token."""
    joint = prompt.joint(fact.question, [fact.answer])
    ids, tail = joint.prompt, joint.answers[0]
    predicted = model(torch.tensor([ids + tail])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
    loss = -predicted[torch.arange(len(tail)), torch.tensor(tail)].mean()
    norms = [g.norm(p=2) for g in torch.autograd.grad(loss, list(model.parameters()))]
    return float(torch.stack(norms).mean())


def ran(
    record: RunRecord, model: Any, other: Any, prompt: Prompt, facts: dict[str, list[FactText]]
) -> None:
    """Compare a run's row with the aggregates written out; `other` is the reference model."""
    row = ssiuu.rows(record)["rows"][0]

    def likely(name: str, texts: Callable[[FactText], list[str]]) -> float:
        return float(
            np.mean(
                [
                    np.mean([math.exp(-average(model, prompt, f.question, text)) for text in texts(f)])
                    for f in facts[name]
                ]
            )
        )

    for name in ("forget", "retain", "ra", "wf"):
        wrong = likely(name, lambda f: f.perturbed)
        assert row[f"{name}_Q_A_PERT_Prob"] == pytest.approx(wrong, abs=CLOSE)
        right = likely(name, lambda f: [f.paraphrased_answer or f.answer])
        called = "PARA_Prob" if name in ("forget", "retain") else "Prob"
        assert row[f"{name}_Q_A_{called}"] == pytest.approx(right, abs=CLOSE)
    known = np.mean([1 / (1 + ratio(model, prompt, f)) for f in facts["forget"]])
    assert row["truth_ratio_knowledge"] == pytest.approx(known, abs=CLOSE)
    # Nothing was unlearned, and nothing told members apart as a model without them would be.
    assert row["memorisation_score"] == 0
    assert row["utility_without_fluency"] is None and row["model_utility"] == 0  # nothing to keep
    assert row["privacy_alignment"] is None and row["overall_alignment"] is None

    def kept(name: str) -> float:
        return float(np.mean([max(0.0, 1 - ratio(model, prompt, f)) for f in facts[name]]))

    ratios = np.array([ratio(model, prompt, fact) for fact in facts["forget"]])
    wanted = np.mean(np.minimum(ratios, 1 / (ratios + 1e-10)))
    assert row["forget_truth_ratio"] == pytest.approx(wanted, abs=CLOSE)
    for name in ("retain", "ra", "wf"):
        assert row[f"{name}_Truth_Ratio"] == pytest.approx(kept(name), abs=CLOSE)
    names = [
        f"{name}_{metric}"
        for name in ("retain", "ra", "wf")
        for metric in ("Q_A_Prob", "Q_A_ROUGE", "Truth_Ratio")
    ]
    names = [n + "_normalised" if n in ("ra_Q_A_Prob", "wf_Q_A_Prob") else n for n in names]
    assert row["model_utility"] == pytest.approx(hmean([row[n] for n in names]))

    def attacked(score: Any) -> float:
        forget, outside = ([score(f) for f in facts[name]] for name in ("forget", "holdout"))
        # The hold-out is the positive class there, and its losses are to be the larger ones.
        pairs = [(o > f) + 0.5 * (o == f) for f in forget for o in outside]
        return float(np.mean(pairs))

    def loss(fact: FactText) -> float:
        return average(model, prompt, fact.question, fact.answer)

    def lowest(fact: FactText) -> float:
        tokens = sorted(losses(model, prompt, fact.question, fact.answer)[:-1])[::-1]
        return float(np.mean(tokens[: max(1, int(0.4 * len(tokens)))]))

    assert row["mia_loss"] == pytest.approx(attacked(loss), abs=CLOSE)
    compressed = attacked(lambda f: loss(f) / len(zlib.compress(bytes(f.answer, "utf-8"))))
    assert row["mia_zlib"] == pytest.approx(compressed, abs=CLOSE)
    beside = attacked(lambda f: loss(f) - average(other, prompt, f.question, f.answer))
    assert row["mia_reference"] == pytest.approx(beside, abs=CLOSE)
    assert row["mia_gradnorm"] == pytest.approx(attacked(lambda f: pull(model, prompt, f)), abs=CLOSE)
    auc = attacked(lowest)
    assert row["mia_min_k"] == pytest.approx(auc, abs=CLOSE)
    leak = 100 * ((1 - auc) - (1 - 0.5)) / (1 - 0.5 + 1e-10)
    assert row["privleak"] == pytest.approx(leak, abs=100 * CLOSE)


def test_a_run_holds_its_metrics(
    make_model: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSIUU_CACHE", str(tmp_path / "cache"))
    model = make_model(2, spread=0.1)
    other = make_model(3, spread=0.1)
    save(model, tokenizer, tmp_path / "model")
    save(other, tokenizer, tmp_path / "other")
    path = write_tofu(tmp_path / "tofu", 40)
    sets = [
        "benchmark=tofu",
        f"tofu={{path: {path}, model: {tmp_path / 'model'}, heldout: 5, scores: open-unlearning}}",
        "prompt=qa",
        "methods=[none]",
        "diagnose=false",
        "attacks.harmful.fractions=[]",
        "attacks.benign.learning_rates=[]",
        "examine.steps=[]",
        f"attacks.membership_reference={tmp_path / 'other'}",
        "attacks.membership_gradient=2",
    ]
    recipe, sources = resolve(None, sets)
    record = ssiuu.run(recipe, sources, tmp_path / "run")
    assert record.header.score == "open-unlearning"
    data = load(str(path), "forget01", 3)
    scored = {f.id for s in (record.header.split.retain, record.header.split.heldout) for f in s}
    facts = {
        "forget": data.forget,
        "retain": [fact for fact in data.retain if fact.id in scored],
        "ra": data.others["real_authors"],
        "wf": data.others["world_facts"],
        "holdout": data.non_members,
    }
    ran(record, model, other, Prompt(tokenizer, "qa"), facts)
    page = ssiuu.write_report(record, tmp_path / "run").read_text()
    assert "model_utility" in page and "which the paper has not: ROUGE-L recall" in page


@pytest.mark.parametrize(("split", "count"), [("forget01", 40), ("forget05", 200), ("forget10", 400)])
def test_the_published_files_are_read_whole(split: str, count: int) -> None:
    """Every split with its hold-out, in place; no row of them is in this repository."""
    if not REAL.is_dir():
        pytest.skip("needs ../shared/data/tofu")
    data = load(str(REAL), split, 3)
    assert [len(data.forget), len(data.retain)] == [count, 4000 - count]
    assert len(data.non_members) == count and not data.lacking
    assert {name: len(facts) for name, facts in data.others.items()} == {
        "real_authors": 100,
        "world_facts": 117,
    }
    assert all(len(fact.perturbed) == 5 and fact.paraphrased_answer for fact in data.forget)
    assert sum(bool(fact.perturbed) for fact in data.retain) == 400
    assert len({fact.entity for fact in data.forget}) == count // 20


def test_forget_quality_of_reciprocals_is_the_same() -> None:
    """They test the reciprocals; the order is turned round and the test is of ranks."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.random(40) + 0.1, rng.random(40) + 0.3
    assert ks_2samp(1 / ours, 1 / theirs).pvalue == pytest.approx(ks_2samp(ours, theirs).pvalue)

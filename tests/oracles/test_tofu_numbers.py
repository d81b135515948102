"""Every number of TOFU against the published definitions, word for word: loops over tokens in float64.

pytest tests/oracles/test_tofu_numbers.py

A tiny model is taught some rows first, so that no score stands at its floor.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from scipy.stats import ks_2samp

from ssiuu.analysis.scores.sentences import utility
from ssiuu.attacks.membership import membership_aucs, membership_scores
from ssiuu.benchmarks.tofu_rows import TofuSets, load
from ssiuu.evaluation.rouge import rouge_recall
from ssiuu.evaluation.scores.sentences import Sentences
from ssiuu.evaluation.sequence import score_sequences
from ssiuu.likelihood import Prompt, encode
from ssiuu.records.schema import Evaluation, FactScore, FactText, Split
from ssiuu.statistics.tofu import (
    forget_quality,
    forget_truth_ratio,
    kept_truth_ratio,
    privleak,
)
from tofu_folder import write_tofu

END, CLOSE = 0, 1e-6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TofuSets:
    return load(str(write_tofu(tmp_path_factory.mktemp("tofu"), retain=20)), "forget01", options=3)


@pytest.fixture(scope="module")
def prompt(tokenizer: Any) -> Prompt:
    return Prompt(tokenizer)


def taught(make_model: Any, prompt: Prompt, facts: list[FactText]) -> Any:
    """Return a float64 model that has learned these answers, each with its end token."""
    model = make_model(5, double=True, spread=0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    rows = [encode(prompt, f.id, f.question, f.answer, 64, end=True) for f in facts]
    for step in range(100):
        row = rows[step % len(rows)]
        ids = torch.tensor([row.prompt + row.answer])
        labels = torch.tensor([[-100] * len(row.prompt) + row.answer])
        loss = model(ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def full(make_model: Any, prompt: Prompt, data: TofuSets) -> Any:
    others = [facts[0] for facts in data.others.values()]
    return taught(make_model, prompt, [*data.forget[:4], *data.retain[:4], *others])


@pytest.fixture(scope="module")
def retrained(make_model: Any, prompt: Prompt, data: TofuSets) -> Any:
    return taught(make_model, prompt, data.retain[:6])


def split_of(data: TofuSets) -> Split:
    others = {name: facts[:3] for name, facts in data.others.items()}
    return Split(
        seed=0,
        forget=data.forget[:6],
        retain=data.retain[:5],
        heldout=data.retain[5:8],
        others=others,
        asked=11,
        known=11,
    )


@pytest.fixture(scope="module")
def scored(full: Any, prompt: Prompt, data: TofuSets) -> Evaluation:
    return Sentences().evaluate(full, prompt, split_of(data))


# --- the definitions ------------------------------------------------------------------------------


@cache  # several numbers are made of the same
def token_logprobs(model: Any, prompt: Prompt, question: str, answer: str, end: bool) -> list[float]:
    """Return log p(y_t | x, y_<t), each from a forward pass over what comes before."""
    given = prompt.question(question)
    found = []
    for token in [*prompt.answer(answer), *([END] if end else [])]:
        with torch.no_grad():
            logits = model(torch.tensor([given])).logits[0, -1].double().tolist()
        found.append(logits[token] - math.log(sum(math.exp(z) for z in logits)))
        given = [*given, token]
    return found


def probability(model: Any, prompt: Prompt, question: str, answer: str) -> float:
    """P(y|x)^(1/|y|); the end token is one of y's."""
    logprobs = token_logprobs(model, prompt, question, answer, end=True)
    return float(math.prod(math.exp(p) for p in logprobs) ** (1 / len(logprobs)))


def ratios(model: Any, prompt: Prompt, fact: FactText) -> tuple[float, float]:
    """The truth ratio with the mean of the wrong answers' probabilities, and with the geometric mean."""
    right = probability(model, prompt, fact.question, fact.paraphrased_answer or fact.answer)
    wrong = [probability(model, prompt, fact.question, text) for text in fact.perturbed]
    return sum(wrong) / len(wrong) / right, math.prod(wrong) ** (1 / len(wrong)) / right


def is_likeliest(model: Any, prompt: Prompt, fact: FactText) -> list[bool]:
    """Whether each token of the answer, without the end token, is the greedy one."""
    given, found = prompt.question(fact.question), []
    for token in prompt.answer(fact.answer):
        with torch.no_grad():
            found.append(int(model(torch.tensor([given])).logits[0, -1].argmax()) == token)
        given = [*given, token]
    return found


def greedy(model: Any, prompt: Prompt, fact: FactText) -> str:
    return written_out(model, prompt, fact.question, len(prompt.answer(fact.answer)) + 32)


@cache
def written_out(model: Any, prompt: Prompt, question: str, most: int) -> str:
    given, written = prompt.question(question), list[int]()
    for _ in range(most):
        with torch.no_grad():
            written.append(int(model(torch.tensor([given + written])).logits[0, -1].argmax()))
        if written[-1] == END:
            break
    return prompt.text(written)


def harmonic(values: list[float]) -> float:
    return len(values) / sum(1 / v for v in values)


# --- the tests ------------------------------------------------------------------------------------


def test_every_score_of_a_fact(full: Any, prompt: Prompt, data: TofuSets, scored: Evaluation) -> None:
    split = split_of(data)
    sets = {"forget": split.forget, "retain": split.retain, "heldout": split.heldout} | split.others
    found = {
        "forget": scored.forget,
        "retain": scored.retain,
        "heldout": scored.heldout,
    } | scored.others
    for name, facts in sets.items():
        for fact in facts:
            score: FactScore = found[name][fact.id]
            own = probability(full, prompt, fact.question, fact.answer)
            if name in split.others:
                wrong = [probability(full, prompt, fact.question, text) for text in fact.perturbed]
                own = own / (own + sum(wrong))
            assert score.probability == pytest.approx(own, abs=CLOSE)
            arithmetic, geometric = ratios(full, prompt, fact)
            assert score.truth_ratio == pytest.approx(arithmetic, rel=CLOSE)
            assert score.truth_ratio_geometric == pytest.approx(geometric, rel=CLOSE)
            reworded = fact.paraphrased_answer or fact.answer
            right = probability(full, prompt, fact.question, reworded)
            assert score.reworded_probability == pytest.approx(right, abs=CLOSE)
            assert score.wrong_probability == pytest.approx(arithmetic * right, abs=CLOSE)
            bare = token_logprobs(full, prompt, fact.question, fact.answer, end=False)
            assert (score.logprob, score.tokens) == (pytest.approx(sum(bare), abs=CLOSE), len(bare))
            hits = is_likeliest(full, prompt, fact)
            k = min(k for k in range(len(hits) + 1) if all(hits[k:]))
            assert score.extraction_strength == pytest.approx(1 - k / len(hits))
            assert score.exact_memorisation == pytest.approx(sum(hits) / len(hits))
            assert score.free_text == greedy(full, prompt, fact)
            assert score.rouge == rouge_recall(fact.answer, score.free_text)
            means = [
                sum(p) / len(p)
                for text in fact.options
                if (p := token_logprobs(full, prompt, fact.question, text, end=False))
            ]
            assert score.correct == (means[0] > max(means[1:]))
    ranges = [s.probability for scores in found.values() for s in scores.values()]
    assert min(p or 0 for p in ranges) < 0.2 and max(p or 0 for p in ranges) > 0.6  # it was taught


def test_aggregates(
    full: Any, retrained: Any, prompt: Prompt, data: TofuSets, scored: Evaluation
) -> None:
    split, kinds = split_of(data), {"arithmetic": 0, "geometric": 1}
    sets = {"retain": split.retain, **split.others}
    for kind, place in kinds.items():
        forget = [ratios(full, prompt, f)[place] for f in split.forget]
        named = "truth_ratio" if kind == "arithmetic" else "truth_ratio_geometric"
        ours = [getattr(s, named) for s in scored.forget.values()]
        wanted = sum(min(t, 1 / t) for t in forget) / len(forget)
        assert forget_truth_ratio(ours) == pytest.approx(wanted, abs=CLOSE)
        values: list[float] = []
        for name, facts in sets.items():
            ours_set = scored.retain if name == "retain" else scored.others[name]
            kept = [ratios(full, prompt, f)[place] for f in facts]
            level = sum(max(0.0, 1 - t) for t in kept) / len(kept)
            assert kept_truth_ratio([getattr(s, named) for s in ours_set.values()]) == pytest.approx(
                level, abs=CLOSE
            )
            values += [level]
            values += [sum(s.probability or 0 for s in ours_set.values()) / len(facts)]
            values += [sum(rouge_recall(f.answer, greedy(full, prompt, f)) for f in facts) / len(facts)]
        assert min(values) > 0
        wanted = harmonic(values)
        assert utility(scored, geometric=kind == "geometric") == pytest.approx(wanted, abs=CLOSE)
    # Forget quality: of the geometric ratios, as both published codes take it.
    twin = Sentences().evaluate(retrained, prompt, split).forget.values()
    ours, theirs = (
        [s.truth_ratio_geometric or 0.0 for s in found] for found in (scored.forget.values(), twin)
    )
    reciprocal = [
        [1 / ratios(model, prompt, f)[1] for f in split.forget] for model in (full, retrained)
    ]
    assert forget_quality(ours, theirs) == pytest.approx(ks_2samp(*reciprocal).pvalue, abs=CLOSE)


def test_membership_and_privleak(full: Any, retrained: Any, prompt: Prompt, data: TofuSets) -> None:
    """Min-K 40 % over answer tokens without the end token; the AUC from all pairs."""
    members, others = data.forget[:6], data.non_members[:7]

    def lowest(model: Any, fact: FactText) -> float:
        logprobs = sorted(token_logprobs(model, prompt, fact.question, fact.answer, end=False))
        return sum(logprobs[: max(1, int(0.4 * len(logprobs)))]) / max(1, int(0.4 * len(logprobs)))

    found, wanted = [], []
    for model in (full, retrained):
        scores = []
        for facts in (members, others):
            rows = [encode(prompt, f.id, f.question, f.answer, 64) for f in facts]
            read = score_sequences(model, rows, moments=True)
            scores.append([membership_scores(a, f.answer) for a, f in zip(read, facts, strict=True)])
        found.append(membership_aucs(*scores)["min-k 40%"])
        pairs = [(lowest(model, m), lowest(model, o)) for m in members for o in others]
        wanted.append(sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs))
    assert found == pytest.approx(wanted, abs=CLOSE) and None not in found
    # As MUSE writes it, with an AUC that is 1 less this one.
    muse = 100 * ((1 - wanted[0]) - (1 - wanted[1])) / (1 - wanted[1])
    assert privleak(wanted[0], wanted[1]) == pytest.approx(muse, abs=CLOSE)
    assert wanted[0] > wanted[1]  # four of the six were taught

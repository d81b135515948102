"""Multi-hop and same-answer questions: how they are drawn, ranked and counted.

pytest tests/unit/test_probes.py
"""

from __future__ import annotations

from typing import Any

from sample_record import sample_record
from ssiuu.analysis.rows import rows
from ssiuu.benchmarks.screening import as_text, others_alone
from ssiuu.data.fact import Fact, Probe
from ssiuu.evaluation.score import score_facts
from ssiuu.likelihood import Prompt
from ssiuu.records.schema import Evaluation, FactScore, FactText, ProbeText
from ssiuu.report.page import render
from ssiuu.report.text import summary


def probe(n: int) -> ProbeText:
    return ProbeText(question=f"w{n} w{n + 9}?", answer=f"w{n}", options=[f"w{n}", f"w{n + 1}", "w50"])


def some_facts() -> list[FactText]:
    """Facts with 0 to 2 probes of each kind, so that an answer given to the wrong one shows."""
    return [
        FactText(
            id=f"f{n}",
            question=f"w{n} word?",
            answer="w1",
            paraphrases=[f"w{n} a?"] * (n % 2),
            options=["w1", "w2", "w3"],
            multi_hop=[probe(n + k) for k in range(n % 3)],
            same_answer=[probe(n + 20 + k) for k in range(2 - n % 3)],
        )
        for n in range(9)
    ]


def test_a_probe_is_ranked_like_a_question_of_its_own(make_model: Any, tokenizer: Any) -> None:
    model, prompt, facts = make_model(), Prompt(tokenizer), some_facts()
    scores = score_facts(model, prompt, facts)
    seen = set()
    for fact in facts:
        for kind in ("multi_hop", "same_answer"):
            alone = [
                FactText(id=str(n), question=p.question, answer=p.answer, options=p.options)
                for n, p in enumerate(getattr(fact, kind))
            ]
            expected = [s.correct for s in score_facts(model, prompt, alone).values()]
            assert getattr(scores[fact.id], kind) == expected
            seen |= set(expected)
    assert seen == {True, False}
    bare = [f.model_copy(update={"multi_hop": [], "same_answer": []}) for f in facts]
    for id, score in score_facts(model, prompt, bare).items():
        assert (score.correct, score.paraphrases) == (scores[id].correct, scores[id].paraphrases)
    base = score_facts(model, prompt, facts, paraphrases=False)  # as along attacks
    assert not any(s.multi_hop or s.same_answer or s.paraphrases for s in base.values())


def test_a_probe_without_options_is_not_scored(make_model: Any, tokenizer: Any) -> None:
    lone = some_facts()[0].model_copy(update={"multi_hop": [ProbeText(question="w1?", answer="w2")]})
    assert score_facts(make_model(), Prompt(tokenizer), [lone])["f0"].multi_hop == [None]


def test_options_of_a_probe_begin_with_its_answer() -> None:
    hop = Probe(question="Where?", answer="Rome", distractors=("Oslo", "Lima", "Riga"))
    fact = Fact(id="f", question="Who?", answer="Ada", multi_hop=(hop,), same_answer=(hop, hop))
    text = as_text(fact, 3, 0)
    assert len(text.same_answer) == 2 and text.options == []
    (drawn,) = text.multi_hop
    assert (drawn.question, drawn.answer, drawn.options[0]) == ("Where?", "Rome", "Rome")
    assert len(set(drawn.options)) == 3 and set(drawn.options[1:]) < set(hop.distractors)
    assert {tuple(as_text(fact, 3, seed).multi_hop[0].options) for seed in range(20)} != {
        tuple(drawn.options)
    }


def test_a_question_to_forget_is_no_same_answer_probe() -> None:
    first, second = (
        FactText(id=q, question=q, answer="a", same_answer=[ProbeText(question=p, answer="a")])
        for q, p in (("one", "two"), ("two", "three"))
    )
    kept = others_alone([first, second])
    assert [fact.same_answer for fact in kept] == [[], second.same_answer]


def test_a_probe_counts_where_the_original_knew_it() -> None:
    """Of five two-hop probes the original knew three; one of these is right afterwards."""
    record = sample_record()
    ids = list(record.cells[1].evaluation.forget)[:2]  # type: ignore[union-attr]

    def evaluation(first: list[bool | None], second: list[bool | None]) -> Evaluation:
        hops = zip(ids, (first, second), strict=True)
        forget = {
            id: FactScore(correct=True, logprob=-1.0, tokens=1, multi_hop=found) for id, found in hops
        }
        return Evaluation(forget=forget, retain={}, heldout={}, seconds=1.0)

    cell = record.cells[1].model_copy(
        update={"evaluation": evaluation([True, False, True], [False, True]), "attacks": []}
    )
    original = evaluation([True, True, False], [True, None])
    split = record.header.split.model_copy(
        update={"forget": [f.model_copy(update={"multi_hop": [probe(1)]}) for f in split_facts(record)]}
    )
    header = record.header.model_copy(update={"split": split})
    run = record.model_copy(update={"header": header, "original": original, "cells": [cell]})
    (row,) = rows(run)["rows"]
    assert row["forget_multi_hop"] == 1 / 3 and row["forget_same_answer"] is None
    assert "Multi-hop questions: 1 of the 3 that the original model knew" in render(run)
    assert "multi-" in summary(run) and "multi-" not in summary(record)
    unknown = run.model_copy(update={"original": None})
    assert rows(unknown)["rows"][0]["forget_multi_hop"] is None


def split_facts(record: Any) -> list[FactText]:
    return list(record.header.split.forget)

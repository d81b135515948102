"""Other forms of a question: by hand, no two alike, never the answer, and rows of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ssiuu.benchmarks import worldfacts
from ssiuu.data.fact import normal
from ssiuu.errors import ConfigError
from ssiuu.evaluation.lineup import lineups
from ssiuu.evaluation.match import holds
from ssiuu.evaluation.reworded import MOST, reworded
from ssiuu.evaluation.subject import subject
from ssiuu.experiment.recipe import resolve
from ssiuu.records.schema import FactText


@pytest.mark.parametrize(
    ("question", "named", "wanted"),
    [
        ("What is the capital of France?", "France", "The capital of France is what?"),
        ("In which town does Arvo live?", "Arvo", "Arvo lives in which town?"),
        ("Which subject does Arvo study now?", "Arvo", "Arvo studies now which subject?"),
        ("Which school did Arvo attend?", "Arvo", "Arvo did attend which school?"),
        ("In which country was Arvo born?", "Arvo", "Arvo was born in which country?"),
        ("Which prize has Arvo won?", "Arvo", "Arvo has won which prize?"),
        ("Who wrote Emma?", "Emma", "I would like to know who wrote Emma."),
        ("Who is credited with it?", None, "I would like to know who is credited with it."),
        (
            "Which element has the symbol H?",
            "H",
            "I would like to know which element has the symbol H.",
        ),
        ("Wo wohnt Arvo?", "Arvo", "Arvo: Wo wohnt Arvo?"),
        ("アルヴォさんはどこに住んでいますか。", None, "“アルヴォさんはどこに住んでいますか。”"),
    ],
)
def test_a_question_is_turned_around(question: str, named: str | None, wanted: str) -> None:
    assert wanted in reworded(question, named, 2)


def test_forms_of_well_known_facts_are_new_and_do_not_tell_the_answer() -> None:
    """Five of each; none is one that readings ask: the fact's paraphrases, or a lineup's."""
    facts = worldfacts.load()[0][::40]
    rows = [
        FactText(
            id=f.id, question=f.question, answer=f.answer, paraphrases=[*f.paraphrases], entity=f.entity
        )
        for f in facts
    ]
    for fact, lineup in zip(rows, lineups(rows), strict=True):
        forms = reworded(fact.question, subject(fact.question, fact.entity), MOST)
        assert len({normal(form) for form in (*forms, fact.question)}) == 1 + MOST
        assert not set(forms) & {*fact.paraphrases, *lineup.phrasings}
        if not holds(fact.answer, fact.question):
            assert not any(holds(fact.answer, form) for form in forms)


def test_so_many_as_are_wanted() -> None:
    question = "What is the capital of France?"
    every = reworded(question, "France", 99)
    assert len(every) == MOST and reworded(question, "France", 0) == []
    assert reworded(question, "France", 2) == every[:2]


def test_more_forms_than_there_are_is_refused() -> None:
    given: list[Any] = ["benchmark=own", "model=m", f"forget={Path('f.jsonl')}"]
    assert resolve(None, [*given, "unlearn.diversify=5"])[0].unlearn.diversify == 5
    with pytest.raises(ConfigError, match=r"unlearn\.diversify: .*got 6"):
        resolve(None, [*given, "unlearn.diversify=6"])

"""The facts that come with ssiuu, and how they are screened and split."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any
from unittest.mock import Mock

import pytest

from ssiuu.benchmarks import screening, worldfacts
from ssiuu.benchmarks.screening import as_text, known, screen
from ssiuu.causal import CausalLM
from ssiuu.data.fact import Fact
from ssiuu.errors import DataError
from ssiuu.evaluation.ask import Asked, Question
from ssiuu.likelihood import Prompt

MODEL = Mock(spec=CausalLM)  # what would be asked of it is made up
SIZES = {"forget": 8, "retain": 12, "heldout": 20}


@pytest.fixture(scope="module")
def facts() -> list[Fact]:
    return worldfacts.load()[0]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def holds(text: str, name: str) -> bool:
    """Whether a text holds a name as whole words."""
    return f" {' '.join(words(name))} " in f" {' '.join(words(text))} "


def folded(names: tuple[str, ...]) -> set[str]:
    return {name.casefold() for name in names}


def test_there_are_enough(facts: list[Fact]) -> None:
    assert len(facts) >= 600
    assert len({f.relation for f in facts}) >= 12
    assert len({f.entity for f in facts}) >= 250
    assert len({f.id for f in facts}) == len(facts)
    assert len({f.question for f in facts}) == len(facts)


def test_every_fact_is_complete(facts: list[Fact]) -> None:
    for fact in facts:
        assert len(folded(fact.paraphrases) | {fact.question.casefold()}) >= 3, fact.id
        # Two continents for one country leave four of the six.
        least = 4 if fact.relation == "continent" else 5
        assert len(folded(fact.distractors)) == len(fact.distractors) >= least, fact.id
        assert fact.entity and fact.statement and holds(fact.statement, fact.answer)
        for field in (fact.paraphrases, fact.distractors, fact.multi_hop, fact.same_answer):
            assert isinstance(field, tuple)


def test_no_distractor_is_the_answer(facts: list[Fact]) -> None:
    for fact in facts:
        for row in (fact, *fact.multi_hop, *fact.same_answer):
            assert row.answer.casefold() not in folded(row.distractors), fact.id


def test_no_question_gives_its_answer_away(facts: list[Fact]) -> None:
    for fact in facts:
        probes = [(p.question, p.answer) for p in (*fact.multi_hop, *fact.same_answer)]
        own = [(q, fact.answer) for q in (fact.question, *fact.paraphrases)]
        # The answer in between stays unsaid too, or it would be one hop.
        between = [(p.question, fact.answer) for p in fact.multi_hop]
        for question, answer in own + probes + between:
            assert not holds(question, answer), (fact.id, question)


def test_no_question_gives_another_fact_away(facts: list[Fact]) -> None:
    """No question holds both the entity and the answer of another fact."""
    by_word: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_word[max(words(fact.entity or ""), key=len)].append(fact)
    for asked in facts:
        for question in (asked.question, *asked.paraphrases):
            for word in set(words(question)):
                for fact in by_word.get(word, ()):
                    if fact.id != asked.id and holds(question, fact.entity or ""):
                        assert not holds(question, fact.answer), (fact.id, question)


def test_probes(facts: list[Fact]) -> None:
    """Two-hop questions go on from the answer; same-answer questions are about something else."""
    by_question = {f.question: f for f in facts}
    by_entity = defaultdict(set)
    for fact in facts:
        by_entity[(fact.entity or "").removeprefix("the ")].add(fact.answer)
    hops = [(f, p) for f in facts for p in f.multi_hop]
    same = [(f, p) for f in facts for p in f.same_answer]
    assert len(hops) > 200 and len(same) > 200
    for fact, probe in hops:
        assert probe.answer in by_entity[fact.answer.removeprefix("the ")]
        assert holds(probe.question, (fact.entity or "").removeprefix("the "))
        assert len(probe.distractors) >= 4
    for fact, probe in same:
        other = by_question[probe.question]
        assert probe.answer == other.answer == fact.answer
        assert other.entity != fact.entity
    assert max(len(f.same_answer) for f in facts) == 1


def test_loading_is_deterministic(facts: list[Fact]) -> None:
    worldfacts.load.cache_clear()
    again, version, digest = worldfacts.load()
    assert again is not facts and again == facts
    assert version and re.fullmatch(r"[0-9a-f]{64}", digest)


def test_a_distractor_is_never_another_true_answer() -> None:
    relation = {
        "name": "r",
        "question": "What of {entity}?",
        "paraphrases": ["And {entity}?", "So {entity}?"],
        "statement": "{entity} is {answer}.",
        "facts": [["one", "a1", "b2"], *[[f"e{i}", f"b{i}"] for i in range(9)]],
    }
    first = worldfacts._relation(relation)[0]
    assert len(set(first.distractors)) == 5
    assert not {"a1", "b2"} & set(first.distractors)


# --- screening ----------------------------------------------------------------------------------


@pytest.fixture
def knows_most(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let every fact be known whose id does not end in "a"; the list grows with what is asked."""
    asked: list[str] = []

    def fake(model: Any, prompt: Any, facts: list[Fact]) -> set[str]:
        asked.extend(f.id for f in facts)
        return {f.id for f in facts if not f.id.endswith("a")}

    monkeypatch.setattr(screening, "known", fake)
    return asked


def split(facts: list[Fact], seed: int = 0, **more: Any) -> Any:
    return screen(MODEL, Mock(spec=Prompt), facts, SIZES, seed, options=4, **more)


def test_split_is_full_known_and_disjoint(facts: list[Fact], knows_most: list[str]) -> None:
    made = split(facts)
    sets = {name: getattr(made, name) for name in SIZES}
    assert {n: len(s) for n, s in sets.items()} == SIZES
    assert not any(f.id.endswith("a") for s in sets.values() for f in s)
    entities = [{f.entity for f in s} for s in sets.values()]
    assert sum(map(len, entities)) == len(set.union(*entities))
    ids = [f.id for s in sets.values() for f in s]
    assert len(set(ids)) == len(ids)
    assert made.asked == len(knows_most) < len(facts)
    assert made.known == sum(not i.endswith("a") for i in knows_most)
    for fact in ids:
        assert fact in knows_most


def test_split_depends_on_the_seed_alone(facts: list[Fact], knows_most: list[str]) -> None:
    one = split(facts)
    assert split(facts) == one
    assert {f.id for f in split(facts, seed=1).forget} != {f.id for f in one.forget}


def test_options_begin_with_the_answer(facts: list[Fact], knows_most: list[str]) -> None:
    by_id = {f.id: f for f in facts}
    for text in split(facts).forget:
        fact = by_id[text.id]
        assert text.options[0] == fact.answer
        assert len(set(text.options)) == 4
        assert set(text.options[1:]) <= set(fact.distractors)
        assert as_text(fact, 4, 0) == text
        assert (text.question, text.paraphrases) == (fact.question, list(fact.paraphrases))


def test_pools_decide_the_sets(facts: list[Fact], knows_most: list[str]) -> None:
    third = len(facts) // 3
    pools = {name: {f.id for f in facts[i * third : (i + 1) * third]} for i, name in enumerate(SIZES)}
    made = split(facts, pools=pools)
    for name in SIZES:
        assert {f.id for f in getattr(made, name)} <= pools[name]


def test_too_few_known_facts_are_an_error(facts: list[Fact], knows_most: list[str]) -> None:
    with pytest.raises(DataError, match=r"knows only \d+ of 30 facts.*heldout \d+ of 20.*Lower"):
        split(facts[:30])


def test_known_asks_the_paraphrase_only_where_needed(
    facts: list[Fact], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both phrasings must be ranked first; the second is asked of those that passed the first."""
    rounds: list[list[Question]] = []

    def fake(model: Any, prompt: Any, questions: list[Question]) -> list[Asked]:
        rounds.append(questions)
        passed = [i % 2 == 0 for i in range(len(questions))]
        return [Asked(first, 0.0, 1, []) for first in passed]

    monkeypatch.setattr(screening, "ask", fake)
    prompt = Prompt(tokenizer)
    found = known(MODEL, prompt, facts[:8])
    assert found == {facts[0].id, facts[4].id}
    assert [len(r) for r in rounds] == [8, 4]
    assert rounds[1][1].prompt == prompt.question(facts[2].paraphrases[0])
    assert rounds[0][1].options[0] == prompt.answer(facts[1].answer)

"""What a model knows: taught facts are known, those of random weights are not, luck is no knowledge."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from conftest import teach
from ssiuu.benchmarks.fictional_twins import TwinConfig, train_tokenizer
from ssiuu.benchmarks.fictional_world import build_world
from ssiuu.causal import CausalLM
from ssiuu.evaluation import knowledge
from ssiuu.evaluation.alternatives import MOST, alternatives, answer_kind, numbers_nearby
from ssiuu.evaluation.knowledge import know
from ssiuu.likelihood import Prompt
from ssiuu.records.schema import FactText, Knowledge
from ssiuu.report.knowledge import sentences

PEOPLE = ["Ada", "Bo", "Cy", "Di", "Ed", "Flo", "Gus", "Hal", "Ivy", "Jo", "Kit", "Lou"]
TOWNS = ["Ulm", "Pau", "Ely", "Ayr", "Lod", "Zug", "Nis", "Bar", "Gap", "Wil", "Tuy", "Rye"]
CONTEXT = 128
MODEL = Mock(spec=CausalLM)  # what would be asked of it is made up


def fact(question: str, answer: str, **more: Any) -> FactText:
    return FactText(id=more.pop("id", question), question=question, answer=answer, **more)


def towns(people: list[str] = PEOPLE, **more: Any) -> list[FactText]:
    pairs = zip(people, TOWNS, strict=False)
    return [fact(f"Where was {name} born?", town, **more) for name, town in pairs]


def random_model(size: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def asked() -> tuple[Prompt, Any]:
    """A prompt with a tokenizer that reads any text, and a model taught the first eight towns."""
    tokenizer = train_tokenizer(build_world(12), TwinConfig())
    model = random_model(len(tokenizer))
    teach(model, tokenizer, [f.model_dump() for f in towns()[:8]])
    return Prompt(tokenizer, "qa"), model


def states(found: dict[str, Any]) -> list[str]:
    return [known.state for known in found.values()]


def test_what_was_taught_is_known_and_what_was_not_is_unknown(asked: tuple[Prompt, Any]) -> None:
    prompt, model = asked
    found = know(model, prompt, towns(), CONTEXT)
    assert states(found) == ["known"] * 8 + ["unknown"] * 4
    first, last = found["Where was Ada born?"], found["Where was Lou born?"]
    assert (first.says, first.holds, first.rank, first.among) == ("Ulm", True, 1, MOST + 1)
    assert first.source == "same question" and "says it" in first.why
    assert first.margin is not None and first.mean_margin is not None and first.logprob is not None
    assert 1 < first.margin <= first.mean_margin and -1 < first.logprob < 0
    assert (
        last.holds is False
        and last.rank is not None
        and last.rank > 1
        and "does not say it" in last.why
    )


def test_random_weights_know_nothing(asked: tuple[Prompt, Any]) -> None:
    prompt = asked[0]
    found = know(random_model(len(prompt.tokenizer)), prompt, towns(), CONTEXT)
    assert set(states(found)) == {"unknown"}


def test_facts_of_another_file_are_alternatives_whatever_their_ids(asked: tuple[Prompt, Any]) -> None:
    prompt, model = asked
    mine = [f.model_copy(update={"id": f"facts:{n}"}) for n, f in enumerate(towns())]
    found = know(model, prompt, mine[:1], CONTEXT, mine[1:3])
    assert found["facts:0"].rank is None  # two are too few
    again = [f.model_copy(update={"id": f"facts:{n}"}) for n, f in enumerate(mine[1:])]
    assert know(model, prompt, mine[:1], CONTEXT, again)["facts:0"].among == MOST + 1


def test_a_single_fact_is_judged_by_what_is_said_and_says_so(asked: tuple[Prompt, Any]) -> None:
    prompt, model = asked
    known, unknown = (know(model, prompt, [f], CONTEXT)[f.id] for f in (towns()[0], towns()[11]))
    assert (known.state, unknown.state) == ("known", "unknown")
    assert known.rank is None and "nothing to rank it against" in unknown.why


def test_an_answer_given_to_everybody_is_no_knowledge(asked: tuple[Prompt, Any]) -> None:
    prompt = asked[0]
    model = random_model(len(prompt.tokenizer))
    people = towns()
    teach(model, prompt.tokenizer, [{"question": f.question, "answer": "Ulm"} for f in people])
    found = know(model, prompt, people, CONTEXT)
    assert "known" not in states(found)
    ulm = found["Where was Ada born?"]
    assert ulm.holds and ulm.state == "unsure" and ulm.elsewhere == 1.0
    assert "to other questions too" in ulm.why


def scripted(
    monkeypatch: pytest.MonkeyPatch, likely: Callable[[str, str], float], says: str = "?"
) -> None:
    """Let log p a token be a function of question and answer, and every free answer the same."""

    def ranks(model: Any, prompt: Any, rows: Any, context: int) -> list[list[Any]]:
        return [
            [
                knowledge.Asked(None, 2 * likely(text, answer), 2, [])
                for answer in (a.fact.answer, *a.rivals.answers)
            ]
            for text, a in rows
        ]

    monkeypatch.setattr(knowledge, "_ranks", ranks)
    monkeypatch.setattr(knowledge, "_written", lambda m, p, asked, c: [says for _ in asked])


def test_a_clear_first_is_known_only_if_the_question_makes_it_so(
    asked: tuple[Prompt, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = towns()
    right = {f.question: f.answer for f in facts}

    def state(likely: Callable[[str, str], float], **more: Any) -> str:
        scripted(monkeypatch, likely)
        given = [facts[0].model_copy(update=more), *facts[1:]]
        return know(MODEL, asked[0], given, CONTEXT)[facts[0].id].state

    assert state(lambda q, a: -1.0 if right[q] == a else -3.0) == "known"
    # The favourite of every question: others are answered right, but where they are not, "Ulm" leads.
    assert state(lambda q, a: -1.0 if a == "Ulm" else -3.0) == "unknown"
    assert state(lambda q, a: -1.0 if a == "Ulm" else 0.0 if right[q] == a else -3.0) == "unknown"
    assert state(lambda q, a: -1.0 if right[q] == a else -1.7) == "unsure"
    assert state(lambda q, a: -1.0 if right[q] == a else -1.4) == "unknown"
    assert state(lambda q, a: -1.0 if a == "Pau" else -3.0) == "unknown"
    likely = {**right, "p1": "Ulm", "p2": "Pau", "p3": "Pau"}
    for paraphrases, found in ((["p1", "p2"], "known"), (["p1", "p2", "p3"], "unsure")):
        told = state(lambda q, a: -1.0 if likely[q] == a else -3.0, paraphrases=paraphrases)
        assert told == found


def test_a_first_among_answers_that_only_look_alike_is_not_enough(
    asked: tuple[Prompt, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [fact(f"Q{n} about thing {n}", town) for n, town in enumerate(TOWNS[1:])]
    mine = fact("Where was Ada born?", "Ulm")
    scripted(monkeypatch, lambda q, a: -1.0 if a == "Ulm" else -9.0)
    found = know(MODEL, asked[0], [mine], CONTEXT, others)[mine.id]
    assert (found.state, found.source, found.rank) == ("unsure", "same kind", 1)


def test_luck_finds_few_facts_known(asked: tuple[Prompt, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers as likely as names are by themselves, whatever is asked: 240 facts, none of them known."""
    rng = random.Random(0)
    taste = {town: rng.gauss(0, 1.5) for town in TOWNS}
    found = []
    for _ in range(20):
        noise = random.Random(rng.random())
        scripted(monkeypatch, lambda q, a, n=noise: taste[a] + n.gauss(0, 0.4), says="Ulm")  # type: ignore[misc]
        answers = rng.sample(TOWNS, len(TOWNS))
        facts = [fact(f"Where was {p} born?", t) for p, t in zip(PEOPLE, answers, strict=True)]
        found += states(know(MODEL, asked[0], facts, CONTEXT))
    assert found.count("known") <= 0.02 * len(found)


def test_what_cannot_be_scored_says_why(asked: tuple[Prompt, Any]) -> None:
    prompt, model = asked
    long = fact("long " * CONTEXT, "x")
    found = know(model, prompt, [long, *towns()[:2]], CONTEXT)
    assert states(found) == ["cannot be scored", "known", "known"]
    assert "context" in found[long.id].why
    broken = random_model(len(prompt.tokenizer))
    with torch.no_grad():
        broken.lm_head.weight.fill_(float("nan"))
    assert set(states(know(broken, prompt, towns()[:2], CONTEXT))) == {"cannot be scored"}


def test_repeating_the_marks_of_the_prompt_is_no_answer(asked: tuple[Prompt, Any]) -> None:
    prompt = asked[0]
    model = random_model(len(prompt.tokenizer))
    rows = [fact(f"Which blood group has {name}?", "A") for name in PEOPLE[:3]]
    teach(model, prompt.tokenizer, [{"question": f.question, "answer": "A: A: A: A:"} for f in rows])
    assert "known" not in states(know(model, prompt, rows, CONTEXT))


# --- alternatives ----------------------------------------


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ("In which town does Arvo live?", "In which town does Belma Roos live?"),
        ("Who is the doctor of Arvo Lind?", "Who is the doctor of Belma Roos?"),
        ("海の色は？", "東京タワーの色は？"),
        ("田中さんの電話番号は？", "鈴木さんの電話番号は？"),
        ("김민수는 어디에 삽니까?", "박지원은 어디에 삽니까?"),
        ("How old was customer 14 in May?", "How old was customer 7 in May?"),
    ],
)
def test_the_same_asked_of_something_else_lends_answers(mine: str, theirs: str) -> None:
    found = alternatives(fact(mine, "Xx"), [fact(theirs, "Yy")])
    assert [o.answer for o in found.lenders] == ["Yy"]


@pytest.mark.parametrize(
    ("mine", "answer", "theirs", "other"),
    [
        ("What is the town of Arvo Lind?", "Velden", "What is the name of Arvo Lind?", "Holm"),
        ("In which town does Arvo live?", "Velden", "Who painted the Mona Lisa?", "Leonardo"),
        ("What is the birthday of Arvo?", "3 May 1987", "What is the town of Belma?", "Velden"),
        ("Where was Ada born?", "Ulm", "Where was Ada born?", "Pau"),
        ("Where was Ada born?", "Ulm", "Where was Bo born?", "ULM"),
    ],
)
def test_other_questions_and_equal_answers_lend_nothing(
    mine: str, answer: str, theirs: str, other: str
) -> None:
    assert not alternatives(fact(mine, answer), [fact(theirs, other)]).lenders


def test_options_come_first_then_the_same_question_then_numbers_then_looks() -> None:
    own = fact("Where was Ada born?", "Ulm", options=["Ulm", "Aa", "Bb", "Cc"])
    assert alternatives(own, towns()).answers == ("Aa", "Bb", "Cc")
    assert alternatives(towns()[0], towns()).source == "same question"
    assert alternatives(fact("How old is Ada?", "34"), towns()).source == "numbers nearby"
    assert alternatives(fact("Who?", "Ada"), towns()).source == "same kind"
    assert alternatives(fact("Who?", "a mechanic"), towns()) == alternatives(
        fact("Who?", "a mechanic"), []
    )
    assert not alternatives(fact("Who?", "a mechanic"), towns()).answers


def test_relations_decide_where_they_are_given() -> None:
    facts = [fact(f"q{n}?", f"A{n}", relation="town" if n < 5 else "street") for n in range(10)]
    assert {o.relation for o in alternatives(facts[0], facts).lenders} == {"town"}


def test_the_choice_does_not_depend_on_the_order_of_the_facts() -> None:
    facts = towns()
    assert alternatives(facts[0], facts).answers == alternatives(facts[0], facts[::-1]).answers


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        ("34", r"\d\d"),
        ("3 May 1987", r"3 May \d{4}"),
        ("0171 555 003", r"0171 555 \d{3}"),
        ("7", r"\d"),
    ],
)
def test_numbers_nearby_keep_their_form(answer: str, form: str) -> None:
    found = numbers_nearby(answer, random.Random(0))
    assert len(set(found)) == len(found) >= 3 and answer not in found
    assert all(re.fullmatch(form, other) for other in found)


def test_answers_of_one_kind_look_alike() -> None:
    kinds = [
        ["Velden", "Rimfort am See"],
        ["3 May 1987", "34"],
        ["赤", "東京"],
        ["mechanic", "a nurse"],
        ["Torvik\nMellby"],
        ["★"],
        ["Москва"],
        ["She moved to the sea when she was nine."],
    ]
    names = [{answer_kind(answer) for answer in group} for group in kinds]
    assert [len(group) for group in names] == [1, 2, 1, 1, 1, 1, 1, 1]
    assert len(set.union(*names)) == 9


def test_an_audit_says_of_no_fact_that_it_was_trained_on() -> None:
    states = ["known", "unknown"]
    asked = {state: Mock(state=state) for state in states}
    for trained in (True, False):
        said = " ".join(sentences({"forget": asked, "retain": asked}, trained))
        assert "1 of 2 facts to forget were not known before" in said
        assert ("trained on with the others" in said) is ("teaches them" in said) is trained
        assert ("left out" in said) is not trained


def test_what_most_facts_are_said_in_is_named_where_it_is_not_the_form_asked() -> None:
    def said(here: bool, otherwise: bool) -> Any:
        return Knowledge(state="known", why="", holds=here, holds_otherwise=otherwise)

    def told(*known: Any) -> bool:
        return "another form than the one" in " ".join(
            sentences({"forget": {str(n): one for n, one in enumerate(known)}})
        )

    assert told(said(False, True), said(False, True), said(True, True))
    assert not told(said(False, True), said(True, True)) and not told(said(False, False))

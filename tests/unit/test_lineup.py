"""A lineup: enough answers of one type, none of them right, and the same asked of something else."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import build_model
from ssiuu.benchmarks import worldfacts
from ssiuu.data.fact import normal
from ssiuu.evaluation import invented, lineup, said
from ssiuu.evaluation.alternatives import answer_kind
from ssiuu.evaluation.draft import fits
from ssiuu.evaluation.lineup import CONTROLS, LEAST, MOST, PHRASINGS, Lineup, lineups
from ssiuu.evaluation.match import holds
from ssiuu.evaluation.subject import about, subject
from ssiuu.likelihood import Prompt
from ssiuu.records.schema import FactText

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
LIBRARY = [
    FactText(id=f.id, question=f.question, answer=f.answer, entity=f.entity, relation=f.relation)
    for f in worldfacts.load()[0]
]
# A single row of each kind, in seven scripts: question, what it asks about, answer.
ROWS = [
    ("In which town does Arvo live?", "Arvo", "Torvik"),
    ("Who taught Arvo Lind?", "Arvo Lind", "Mirja Sandholt"),
    ("Wo wohnt Arvo?", "Arvo", "Torvik"),
    ("In which street does Arvo Lind live?", "Arvo Lind", "12 Harbour Road"),
    ("Which company employs Arvo Lind?", "Arvo Lind", "Torvik Ltd"),
    ("When was Arvo Lind born?", "Arvo Lind", "3 May 1987"),
    ("When was Arvo Lind born?", "Arvo Lind", "1987-05-03"),
    ("What is the phone number of Arvo?", "Arvo", "0555 014 273"),
    ("What is the salary of Arvo?", "Arvo", "€1,250.00"),
    ("What is the postcode of Arvo?", "Arvo", "SW1A 2AB"),
    ("What is the e-mail address of Arvo Lind?", "Arvo Lind", "arvo.lind@example.org"),
    ("How old is Arvo?", "Arvo", "42"),
    ("How many children has Arvo?", "Arvo", "3"),
    ("What does Arvo do for a living?", "Arvo", "piano tuner"),
    ("What is the favourite dish of Arvo?", "Arvo", "goulash"),
    ("Which instrument does Arvo play?", "Arvo", "theorbo"),
    ('Who wrote "the last tram"?', "the last tram", "Mirja Sandholt"),
    ("Which two towns has Arvo?", "Arvo", "Torvik\nMellby"),
    ("Where does Arvo live?", "Arvo", "Arvo lives in the town of Torvik, near Mellby, since 1987."),
    ("Где живёт Арво Линд?", "Арво Линд", "Мельбю"),
    ("Кто учил Арво?", "Арво", "Мирья Сандхольт"),
    ("霧島葵さんはどこに住んでいますか？", "霧島葵", "白鷺町"),
    ("霧島葵さんの先生は誰ですか？", "霧島葵", "花山院栞"),
    ("霧島葵さんの誕生日はいつですか？", "霧島葵", "五月三日"),
    ("霧島葵さんの職業は何ですか？", "霧島葵", "調律師"),
    ("沐澄远的职业是什么？", "沐澄远", "医生"),
    ("沐澄远住在哪里？", "沐澄远", "白鹭镇"),
    ("라온은 어디에 살아요?", "라온", "서울"),
    ("أين يعيش سرمد البرناكي؟", "سرمد البرناكي", "القاهرة"),
    ("ما مهنة سرمد؟", "سرمد", "خباز"),
    ("दवोर कहाँ रहता है?", "दवोर", "दिल्ली"),
    ("दवोर का पेशा क्या है?", "दवोर", "कुम्हार"),
]

PEOPLE = {"Ilmo Raun": "Torvik", "Hedda Storm": "Mellby"}


def fact(question: str, answer: str, **more: Any) -> FactText:
    return FactText(id=more.pop("id", question), question=question, answer=answer, **more)


def customers(name: str) -> list[FactText]:
    lines = (EXAMPLES / f"{name}.jsonl").read_text("utf-8").splitlines()
    return [FactText(id=f"{name}[{n}]", **json.loads(line)) for n, line in enumerate(lines)]


def sound(made: Lineup) -> None:
    """Whatever was asked: nothing right among the wrong, nothing twice, all in step."""
    right, wrong = made.answers[0], made.answers[1:]
    assert right == made.fact.answer
    assert len(wrong) == len(made.origins) <= MOST
    assert len({normal(answer) for answer in made.answers}) == len(made.answers)
    for answer in wrong:
        assert not holds(right, answer) and not holds(answer, right)
    assert made.phrasings[0] == made.fact.question
    assert len(set(made.phrasings)) == len(made.phrasings) >= PHRASINGS
    assert len(made.theirs) == len(made.controls) <= CONTROLS
    assert made.fact.question not in made.controls
    assert bool(made.lacks) == (len(wrong) < LEAST or not made.controls)


@pytest.mark.parametrize(("question", "named", "answer"), ROWS, ids=[r[0] + r[2] for r in ROWS])
def test_a_single_bare_row_has_enough_of_its_type(question: str, named: str, answer: str) -> None:
    (made,) = lineups([fact(question, answer)], library=LIBRARY)
    sound(made)
    assert made.subject == named
    assert len(made.answers) > LEAST and not made.lacks
    assert {answer_kind(a) for a in made.answers} == {answer_kind(answer)}
    assert len(made.controls) == CONTROLS
    assert all(about(control, "", "") == control and named not in control for control in made.controls)
    front, back = question.split(named, 1)
    assert all(c.startswith(front) and c.endswith(back) for c in made.controls)


@pytest.mark.parametrize("name", ["customers", "customers-ja"])
def test_facts_of_the_same_relation_come_first(name: str) -> None:
    forget, retain = customers(name), customers(f"{name}-keep")
    for made in lineups(forget, retain):
        sound(made)
        related = {o.answer for o in (*forget, *retain) if o.relation == made.fact.relation}
        assert set(made.answers[: len(related)]) == related
        assert len(made.answers) == 1 + MOST
        assert made.phrasings[1] == made.fact.paraphrases[0]
        # Half of the controls are about others, and what is right there is known.
        asked = {o.question: o.answer for o in (*forget, *retain)}
        assert [c in asked for c in made.controls] == [False, True] * 3
        for control, places in zip(made.controls, made.theirs, strict=True):
            assert [made.answers[k] for k in places] == ([asked[control]] if control in asked else [])


def test_options_and_perturbed_answers_stand_in_front() -> None:
    (made,) = lineups([fact("Where is Arvo?", "Ulm", options=["Ulm", "Pau"], perturbed=["Ely", "Ayr"])])
    assert set(made.answers[1:4]) == {"Pau", "Ely", "Ayr"}
    assert made.origins[:4] == ("options", "options", "options", "made up")


def test_the_library_lends_the_answers_of_a_relation_that_has_this_one() -> None:
    (made,) = lineups([fact("Arvo works in ...?", "Lisbon")], library=LIBRARY)
    capitals = {o.answer for o in LIBRARY if o.relation == "capital"}
    assert made.origins == ("same type",) * MOST
    assert len(set(made.answers[1:]) & capitals) > 10


def test_what_is_asked_in_the_same_words_comes_before_what_is_asked_alike() -> None:
    capitals = [fact(f"What is the capital of {n}land?", f"{n}burg") for n in "Ab Bo Ce Di Ed".split()]
    others = [fact(f"What is the language of {n}land?", f"{n}ish") for n in "Ab Bo Ce Di Ed".split()]
    made = lineups(capitals[:1], [*capitals, *others])[0]
    assert {a[2:] for a in made.answers[:5]} == {"burg"}
    assert {a[2:] for a in made.answers[5:9]} == {"ish"}


def test_a_sentence_keeps_whom_it_is_about() -> None:
    authors = ["Ilmo Raun", "Hedda Storm"]
    facts = [
        fact(f"Where was {name} born?", f"{name} was born in Torvik{n}.")
        for n, name in enumerate(authors)
    ]
    for made, name in zip(lineups(facts), authors, strict=True):
        assert all(answer.startswith(f"{name} was born in ") for answer in made.answers)


def test_a_sentence_is_offered_to_a_control_about_its_entity() -> None:
    facts = [
        fact(f"Where was {name} born?", f"{name} was born in {town}.") for name, town in PEOPLE.items()
    ]
    made = lineups(facts)[0]
    for n, name in enumerate(made.names):
        assert name in made.controls[n]
        assert all(a.startswith(f"{name} was born in ") for a in made.offered(n))
    place = made.controls.index("Where was Hedda Storm born?")
    assert [made.offered(place)[k] for k in made.theirs[place]] == ["Hedda Storm was born in Mellby."]
    (short,) = lineups([fact("Where was Arvo born?", "Torvik")])
    assert short.offered(0) == short.answers


def test_what_is_said_of_the_same_entity_is_no_alternative() -> None:
    """It is true of it, though it answers another question."""
    true = "Ilmo Raun writes about the sea and the people who live by it."
    facts = [
        fact("What does Ilmo Raun eat?", "Ilmo Raun eats soup with bread and a little salt."),
        fact("What does Ilmo Raun write about?", true),
        fact("How does Hedda Storm work?", "Hedda Storm works at night with all the windows open."),
    ]
    answers = lineups(facts)[0].answers
    assert true not in answers
    assert "Ilmo Raun works at night with all the windows open." in answers


def test_a_lineup_within_limits_keeps_its_first_ones_in_step() -> None:
    made = lineups(customers("customers"), customers("customers-keep"))[0]
    small = made.within(answers=4, controls=2, phrasings=1)
    assert small.answers == made.answers[:4] and len(small.origins) == 3
    assert small.controls == made.controls[:2] and small.names == made.names[:2]
    assert small.phrasings == made.phrasings[:1]
    assert all(k < 4 for places in small.theirs for k in places) and len(small.theirs) == 2
    assert made.within() == made


def test_a_sentence_that_says_the_right_thing_is_no_alternative() -> None:
    right = fact("What gender has Arvo Lind?", "Arvo Lind is male.")
    draft = lineup._draft(right, lineup._Shelf([right], []), 0)
    told = ["Arvo Lind is a male.", "Arvo Lind is female.", "Arvo Lind has no gender."]
    assert [fits(text, "sampled", draft) for text in told] == [False, True, True]


@pytest.mark.parametrize(
    ("question", "answer", "begun"),
    [
        ("Who is Arvo's father?", "Arvo's father is a baker.", "{}'s"),
        ('Who wrote "The Last Tram"?', '"The Last Tram" is by Mirja.', '"{}"'),
        ("Where is Arvo?", "Today Arvo is at home.", "Today {}"),
        ("Where is Arvo?", "He stays at home and sleeps, does Arvo.", None),
        ("Where is Arvo?", "Torvik", None),
    ],
)
def test_how_a_sentence_begins_is_given(question: str, answer: str, begun: str | None) -> None:
    draft = lineup._draft(fact(question, answer), lineup._Shelf([], []), 0)
    stem, rest = said._begun(draft)
    assert stem == ("" if begun is None else begun.format(draft.strangers[-1]))
    assert answer.endswith(rest) and (begun is not None or rest == answer)


def test_what_is_right_by_another_row_is_no_alternative() -> None:
    facts = [fact("Name a town.", "Torvik", id="1"), fact("Name a town.", "Mellby", id="2")]
    facts += [
        fact("Where is Arvo?", town, relation="town", entity="Arvo", id=town) for town in ("Ulm", "Pau")
    ]
    for made in lineups(facts):
        others = {o.answer for o in facts if o.question == made.fact.question}
        assert set(made.answers) & others == {made.fact.answer}


def test_no_control_has_the_same_right_answer() -> None:
    facts = [
        fact(f"Where is {name}?", "Ulm" if name < "D" else "Pau")
        for name in ("Ada", "Bo", "Dina", "Emil")
    ]
    made = lineups(facts)[0]
    assert "Where is Bo?" not in made.controls and "Where is Dina?" in made.controls


def test_without_an_entity_other_questions_are_asked_and_else_none() -> None:
    facts = [fact("what is it called?", "Torvik"), fact("say its name", "Mellby")]
    made = lineups(facts)[0]
    assert made.subject is None and made.controls == ("say its name",)
    (alone,) = lineups(facts[:1])
    assert alone.controls == () and "nothing was found to ask the same of" in alone.lacks


def test_lists_of_english_words_are_for_english_questions() -> None:
    (made,) = lineups([fact("Welches Instrument spielt Arvo?", "Theorbe")])
    assert "made up" in made.origins and "same type" not in made.origins
    (made,) = lineups([fact("Wo wohnt Arvo?", "viola")])  # a word that is in a list is of its type
    assert set(made.origins) == {"same type"}


def test_too_few_are_said_to_be_too_few() -> None:
    (made,) = lineups([fact("Is Arvo married?", "no")])
    sound(made)
    assert made.lacks == f"0 alternatives of its type were found, {LEAST} are wanted"


@pytest.mark.parametrize(
    ("question", "named"),
    [
        ("what is it?", None),
        ("어디에 살아요?", None),
        ("أين يعيش؟", None),
        ("What is the capital of the Old Kingdom of Arvo?", "Old Kingdom"),
        ("In welcher Stadt wohnt Arvo Lind?", "Arvo Lind"),
        ("Who owns B-2041-XK?", "B-2041-XK"),
        ("What are Arvo Lind's books about?", "Arvo Lind"),
        ("which room is 12?", "12"),
    ],
)
def test_the_subject_of_a_question(question: str, named: str | None) -> None:
    assert subject(question) == named


def test_questions_of_the_same_words_tell_the_subject() -> None:
    others = ["夜の海の色は？", "朝の空の色は？"]
    assert subject("夏の草原の色は？", None, others) == "夏の草原"
    assert subject("where lives A1?", None, ["where lives B2?"]) == "A1"
    assert subject("Where lives Al?", "Al") == "Al"
    assert about("Where is the capital of Al?", "Al", "Bo") == "Where is the capital of Bo?"


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("0555 014 273", r"0555 \d{3} \d{3}"),
        ("0555-14-2731", r"0555-\d\d-\d{4}"),
        ("17 November 1962", r"(1[3-9]|2[0-8]) [A-Z][a-z]+ (19|20)\d\d"),
        ("1962-11-17", r"(19|20)\d\d-(0[1-9]|1[0-2])-(1[3-9]|2[0-8])"),
        ("五月三日", r"[一二三四五六七八九十]+月[一二三四五六七八九十]+日"),
        ("€1,250.00", r"€[1-9],\d\d\d\.00"),
        ("SW1A 2AB", r"[A-Z]{2}\d+[A-Z] \d+[A-Z]{2}"),
        ("٠٥٥٥ ٠١٤ ٢٧٣", r"٠٥٥٥ [٠-٩]{3} [٠-٩]{3}"),
        ("42", r"[1-9]\d"),
        ("2000 kg", r"\d{4} kg"),
        ("the 1980s", r"the (1[789]|20)\d0s"),
        ("the 3rd of May 1987", r"the (1st|2nd|3rd|([4-9]|1[0-2])th) of [A-Z][a-z]+ (19|20)\d\d"),
        ("arvo.lind@example.org", r"[\w.-]*(arvo|lind)[\w.-]*@[\w-]+\.org"),
    ],
)
def test_numbers_keep_their_pattern(text: str, pattern: str) -> None:
    rng = random.Random(0)
    found = invented.numbers(text, rng, 30, "Arvo Lind")
    assert len(found) >= LEAST and text not in found
    for other in found:
        assert re.fullmatch(pattern, other), other


def test_a_year_is_not_the_middle_of_its_neighbours() -> None:
    places = []
    for seed in range(200):
        found = invented.numbers("1950", random.Random(seed), 20)
        places.append(sum(int(other) < 1950 for other in found) / len(found))
    assert sum(p < 0.25 for p in places) > 30 and sum(p > 0.75 for p in places) > 30


def test_every_list_of_the_lexicon_is_without_doubles() -> None:
    for section, lists in invented._data().items():
        for key in lists:
            kinds = lists[key] if key == "words" else ()
            words = [invented.listed(kind, section) for kind in kinds] or [
                invented.lexicon(section, key)
            ]
            for found in words:
                assert len({w.casefold() for w in found}) == len(found), (section, key)


def test_names_that_sound_alike_end_as_the_name_does() -> None:
    found = invented.sounding("Ilbania", "latin", random.Random(0), 20)
    assert len(found) == 20 and all(re.fullmatch(r"[A-Z][a-z]{0,2}lbania", name) for name in found)
    found = invented.sounding("Anna van der Keller", "latin", random.Random(0), 20)
    assert all(re.fullmatch(r"[A-Z]\w+nna van der [A-Z]\w+ller", name) for name in found)
    assert all(n.endswith("нд") for n in invented.sounding("Линд", "cyrillic", random.Random(0), 9))
    assert invented.sounding("霧島葵", "japanese", random.Random(0), 9) == []


# --- The model's own words ----------------------------------------------------------------------


def test_the_model_is_asked_about_somebody_who_is_no_control(tokenizer: Any, monkeypatch: Any) -> None:
    seen: list[str] = []

    def says(model: Any, prompt: Any, examples: Any, count: int, *rest: Any) -> dict[str, Any]:
        seen.extend(tokenizer.decode(e.prompt) for e in examples)
        assert count >= 8
        texts = ["user", "assistant", "word", "user", "Question"]
        return {e.id: [tokenizer(text)["input_ids"] for text in texts] for e in examples}

    monkeypatch.setattr(said, "sample_answers", says)
    (made,) = lineups([fact("a w3?", "word")], model=build_model(), prompt=Prompt(tokenizer, "qa"))
    sound(made)
    assert set(made.answers[1:]) == {"user", "assistant"} and set(made.origins) == {"sampled"}
    assert made.lacks.startswith("2 alternatives")
    (text,) = seen
    stranger = re.search(r" (w\d+)\?", text)
    assert stranger and stranger[1] != "w3"
    assert len(made.controls) == CONTROLS and f"a {stranger[1]}?" not in made.controls


def test_a_model_gives_half_at_most_where_there_are_others() -> None:
    heard = [f"Town{chr(97 + n)}{chr(97 + m)}" for n in range(8) for m in range(8)]
    (draft,) = [lineup._draft(f, lineup._Shelf([f], []), 0) for f in [fact("Where is Arvo?", "Torvik")]]
    full = replace(draft, ways=(*draft.ways, ("sampled", heard)))
    origins = list(lineup._chosen(full, None, random.Random(0)).values())
    assert origins.count("sampled") == MOST // 2 and origins.count("made up") == MOST // 2
    bare = replace(draft, ways=(("made up", []), ("sampled", heard), ("same kind", [])))
    assert list(lineup._chosen(bare, None, random.Random(0)).values()) == ["sampled"] * MOST


def test_names_are_heard_in_what_a_model_says() -> None:
    draft = lineup._draft(fact("Where is Arvo?", "Torvik"), lineup._Shelf([], []), 0)
    stranger = draft.strangers[-1]
    texts = [
        "Mellby.",
        f"{stranger} lives in Velden, I think.",
        "I do not know",
        "Torvik",
        "Kyoto, Japan",
    ]
    assert list(said._heard(draft, texts)) == ["Mellby", "Velden", "Torvik", "Japan"]


def test_a_sentence_that_was_cut_off_or_is_much_longer_is_not_heard() -> None:
    told = "Arvo lives in a small town by the sea."
    draft = lineup._draft(fact("Where does Arvo live?", told), lineup._Shelf([], []), 0)
    stranger = draft.strangers[-1]
    texts = [
        f"{stranger} lives in the woods of the far north.",
        f"{stranger} lives in the woods of the",
    ]
    texts += [
        f"{stranger} lives near a lake in the hills. I went there once.",
        "He lives there.",
        f"{stranger} lives in {'the woods and ' * 9} the sea.",
    ]
    assert list(said._heard(draft, texts)) == [
        "Arvo lives in the woods of the far north.",
        "Arvo lives near a lake in the hills.",
    ]
    assert said._begun(draft) == (stranger, "lives in a small town by the sea.")


# --- Whatever the facts ---------------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        "Torvik",
        "Ulm",
        "Mellby",
        "pau",
        "Новгород",
        "東京",
        "カナリア",
        "서울",
        "القاهرة",
        "दिल्ली",
        "7",
        "1987",
        "A+",
        "é",
        "☆",
    ]
)
TEXTS = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)
FACTS = st.lists(
    st.builds(
        lambda question, answer, entity, relation: (f"What of {question}?", answer, entity, relation),
        TEXTS,
        TEXTS,
        st.none() | TEXTS,
        st.none() | st.sampled_from(["town", "number"]),
    ),
    min_size=1,
    max_size=5,
)


def of(rows: list[tuple[Any, ...]]) -> list[FactText]:
    named = [dict(question=q, answer=a, entity=e, relation=r) for q, a, e, r in rows]
    return [FactText(id=f"fact {n}", **row) for n, row in enumerate(named)]


@settings(max_examples=40, deadline=None)
@given(FACTS)
def test_every_lineup_is_sound(rows: list[tuple[Any, ...]]) -> None:
    for made in lineups(of(rows)):
        sound(made)


@settings(max_examples=25, deadline=None)
@given(FACTS, st.integers(0, 3), st.randoms(use_true_random=False))
def test_seed_and_id_decide_and_no_order(
    rows: list[tuple[Any, ...]], seed: int, rng: random.Random
) -> None:
    facts = of(rows)
    mixed = rng.sample(facts, len(facts))
    first = {made.fact.id: made for made in lineups(facts, seed=seed)}
    again = {made.fact.id: made for made in lineups(mixed[:1], mixed[1:], seed=seed)}
    assert all(first[id] == made for id, made in again.items())

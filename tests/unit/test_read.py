"""Reading facts and instructions: every bad file has its message, every good one its rows.

pytest tests/unit/test_read.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssiuu import hub
from ssiuu.data.columns import parse_columns
from ssiuu.data.fact import Fact, Instruction, normal
from ssiuu.data.read import borrow_distractors, check_pair, read_facts, read_instructions
from ssiuu.data.rows import is_visible
from ssiuu.errors import DataError

ALPACA = Path(__file__).parents[3] / "shared/data/alpaca/alpaca_random_9k.json"
PERU = '{"question": "Capital of Peru?", "answer": "Lima"}'
CHAD = '{"question": "Capital of Chad?", "answer": "N\'Djamena"}'

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def problems(read: Callable[..., Any], *args: Any) -> list[str]:
    """Return the problems of the one error that a reading raises."""
    with pytest.raises(DataError) as caught:
        read(*args)
    return caught.value.problems


def only(found: list[str], *parts: str) -> None:
    """Check that there is one problem, and that it holds all of these parts."""
    assert len(found) == 1, found
    for part in parts:
        assert part in found[0], (part, found[0])


# --- Good files ------------------------------------------------------------------------------


def test_a_full_row_is_read(write: Write) -> None:
    row = {
        "id": "peru",
        "question": "Capital of Peru?",
        "answer": " Lima ",
        "entity": "Peru",
        "relation": "capital",
        "statement": "Lima is the capital of Peru.",
        "paraphrases": ["Peru's capital?"],
        "distractors": ["Cusco", "Quito"],
    }
    [fact] = read_facts(write("facts.jsonl", json.dumps(row)))
    assert fact == Fact.model_validate({**row, "answer": "Lima"})


def test_rows_of_tofu_are_read_as_they_are(write: Write) -> None:
    row = {
        "question": "Where was Arvo Lind born?",
        "answer": "Arvo Lind was born in Torvik.",
        "paraphrased_answer": "Torvik is where Arvo Lind was born.",
        "perturbed_answer": ["Arvo Lind was born in Mellby.", "Arvo Lind was born in Sandholt."],
        "paraphrased_question": "What is Arvo Lind's place of birth?",
    }
    [fact] = read_facts(write("forget01_perturbed.jsonl", json.dumps(row)))
    assert fact.perturbed == tuple(row["perturbed_answer"])
    assert fact.paraphrases == (row["paraphrased_question"],)
    assert fact.paraphrased_answer == row["paraphrased_answer"]
    row["perturbed_answer"] = [row["answer"]]
    found = problems(read_facts, write("f.jsonl", json.dumps(row)))
    only(found, "the perturbed answer", "must be a wrong answer")


def test_an_id_defaults_to_file_and_line_and_blank_lines_count(write: Write) -> None:
    facts = read_facts(write("mine.jsonl", f"\n{PERU}\r\n\r\n{CHAD}"))
    assert [fact.id for fact in facts] == ["mine:2", "mine:4"]
    assert facts[1].answer == "N'Djamena"


@pytest.mark.parametrize("name", ["a.JSONL", "a.json-lines"])
def test_the_suffixes_of_json_lines(write: Write, name: str) -> None:
    assert len(read_facts(str(write(name, PERU)))) == 1


def test_null_and_empty_optional_keys_are_missing(write: Write) -> None:
    row = '{"question": "q", "answer": "a", "entity": null, "id": " ", "distractors": null}'
    assert read_facts(write("f.jsonl", row)) == [Fact(id="f:1", question="q", answer="a")]


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_unicode_is_kept(write: Write, bom: bytes) -> None:
    row = {"question": "東京\u2028は? \u202e🗼 e\u0301", "answer": "Ναί\x85ß"}
    lines = json.dumps(row, ensure_ascii=False)
    [fact] = read_facts(write("u.jsonl", bom + lines.encode()))
    assert (fact.question, fact.answer) == (row["question"], row["answer"])


def test_csv(write: Write) -> None:
    text = (
        "question,answer,distractors,entity,id\r\n"
        "Capital of Peru?,Lima,Cusco | Quito|,Peru,\r\n"
        ",,,,\r\n"
        '"Who wrote ""It"",\r\nand when?", "King, 1986"\r\n'
        "Last?,yes,,,z\r\n"
    )
    first, second, third = read_facts(write("f.csv", b"\xef\xbb\xbf" + text.encode()))
    assert first == Fact(
        id="f:2",
        question="Capital of Peru?",
        answer="Lima",
        entity="Peru",
        distractors=("Cusco", "Quito"),
    )
    assert second == Fact(id="f:4", question='Who wrote "It",\r\nand when?', answer="King, 1986")
    assert third == Fact(id="z", question="Last?", answer="yes")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
FULL = TEXT.filter(lambda text: any(map(is_visible, text)) and "\0" not in text)
ROW = st.fixed_dictionaries(
    {"question": FULL, "answer": FULL},
    optional={
        "entity": st.none() | FULL,
        "relation": FULL,
        "statement": FULL,
        "paraphrases": st.lists(FULL, max_size=3),
        "distractors": st.lists(FULL.map("wrong {}".format), max_size=3, unique_by=normal),
    },
)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=6), escape=st.booleans())
def test_valid_rows_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], escape: bool
) -> None:
    for number, row in enumerate(rows):
        row |= {"id": f"r{number}", "question": f"{number}: {row['question']}"}
        row["answer"] = f"right {row['answer']}"
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [json.dumps(row, ensure_ascii=escape) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8", newline="")
    assert read_facts(path) == [Fact.model_validate(row) for row in rows]


# --- Bad files -------------------------------------------------------------------------------


def test_a_missing_file_names_the_nearest(write: Write, tmp_path: Path) -> None:
    write("facts.jsonl", PERU)
    found = problems(read_facts, tmp_path / "fact.jsonl", "--retain")
    only(found, "--retain: ", "fact.jsonl does not exist", "Did you mean 'facts.jsonl'?")
    only(problems(read_facts, tmp_path / "no" / "f.csv"), "f.csv does not exist", "no folder")


@pytest.mark.parametrize("name", ["folder.jsonl", "folder"])
@pytest.mark.parametrize("read", [read_facts, read_instructions])
def test_a_folder(tmp_path: Path, name: str, read: Callable[..., Any]) -> None:
    (tmp_path / name).mkdir()
    only(problems(read, tmp_path / name, "--forget"), f"{name} is a folder; give a file")


@pytest.mark.parametrize("content", ["", " \n\n", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["f.jsonl", "f.csv"])
def test_an_empty_file(write: Write, name: str, content: str | bytes) -> None:
    only(problems(read_facts, write(name, content)), f"{name} is empty")


@pytest.mark.parametrize("content", ["question,answer\n", ",,\n"])
def test_a_csv_without_rows(write: Write, content: str) -> None:
    only(problems(read_facts, write("f.csv", content)), "f.csv has no rows")


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_not_utf8(write: Write, bom: bytes) -> None:
    content = bom + PERU.encode() + b'\n{"question": "Caf\xe9'
    position = content.index(b"\xe9")
    found = problems(read_facts, write("f.jsonl", content))
    only(found, "f.jsonl, line 2", f"byte 0xe9 at position {position}", "save it as UTF-8")


def test_utf16_as_spreadsheets_save_it(write: Write) -> None:
    content = "question\tanswer\r\nWo wohnt Jörn?\tKöln\r\n".encode("utf-16")
    assert read_facts(write("f.txt", content))[0].answer == "Köln"
    only(problems(read_facts, write("f.csv", content[:-1])), "is not UTF-16", "save it as UTF-8")


def test_a_path_that_no_system_takes() -> None:
    only(problems(read_facts, "a\0b.jsonl"), "cannot be read")
    only(problems(read_facts, "a" * 5000 + ".jsonl"), "cannot be read")


def row_with(rest: str) -> str:
    """Return a row of JSON with a good question and this rest."""
    return f'{{"question": "q", {rest}}}'


BAD_ROWS = {
    '{"question": "q", answer}': ["is not JSON at column 19", "one JSON object"],
    "[" * 100_000: ["is nested too deeply"],
    '{"question": "q", "answer": ' + "9" * 5000 + "}": ["cannot be read as JSON"],
    '{"answer": "a", "answer": "b"}': ["the key 'answer' stands twice"],
    '["q", "a"]': ["is a list (['q', 'a']), not an object", '{"question": ..., "answer": ...}'],
    '"q"': ["is a text ('q'), not an object"],
    "null": ["is null", "not an object"],
    '{"question": "q"}': ['the key "answer" is missing', 'must have "question" and "answer"'],
    '{"answer": "a"}': ['the key "question" is missing'],
    row_with('"answer": ""'): ["\"answer\" is empty ('')", "at least one character"],
    '{"question": " \\t\\u00a0", "answer": "a"}': ['"question" is empty'],
    row_with('"answer": 7'): ['"answer" is a number (7), not a text; quote it: "7"'],
    row_with('"answer": 1.5'): ['quote it: "1.5"'],
    row_with('"answer": true'): ['"answer" is true or false (True)', 'quote it: "true"'],
    row_with('"answer": null'): ['"answer" is null'],
    row_with('"answer": ["a"]'): ["\"answer\" is a list (['a']), not a text"],
    row_with('"answer": "\\ud83d"'): ['"answer" holds half a character', "'\\ud83d'"],
    row_with('"answer": "a", "id": true'): ['"id" is true or false (True)', 'quote it: "true"'],
    row_with('"answer": "a", "distractors": "b"'): ["\"distractors\" is a text ('b'), not a list"],
    row_with('"answer": "a", "distractors": ["b", 3]'): ['item 2 of "distractors" is a number'],
    row_with('"answer": "a", "paraphrases": [" "]'): ['item 1 of "paraphrases" is empty'],
    row_with('"answer": "a", "distractor": ["b"]'): [
        "unknown key 'distractor'. Did you mean 'distractors'?",
        "Known: answer, distractors, entity",
    ],
    row_with('"answer": "Lima", "distractors": ["b", " LIMA"]'): [
        "the distractor ' LIMA' is the answer 'Lima'"
    ],
}


@pytest.mark.parametrize("row", BAD_ROWS, ids=lambda row: row[:40])
def test_a_bad_row_has_its_line_and_message(write: Write, row: str) -> None:
    path = write("bad.jsonl", f"{PERU}\n\n{row}\n{CHAD}")
    only(problems(read_facts, path, "forget"), f"forget: {path}, line 3: ", *BAD_ROWS[row])


BAD_PAIRS = {
    '{"question": "capital  of PERU? ", "answer": "LIMA"}': [
        "asks 'capital  of PERU?' again, as line 1 does",
        "the same answer 'LIMA'",
    ],
    '{"question": "capital of peru?", "answer": "Cusco"}': [
        "as line 1 does",
        "answers 'Cusco' where line 1 answers 'Lima'",
        "keep one, or write them as one answer",
    ],
    '{"question": "q", "answer": "a", "id": "f:1"}': ["the id 'f:1' is that of line 1 too"],
}


@pytest.mark.parametrize("row", BAD_PAIRS)
def test_rows_that_do_not_go_together(write: Write, row: str) -> None:
    path = write("f.jsonl", f"{PERU}\n{row}\n")
    only(problems(read_facts, path), "f.jsonl, line 2: ", *BAD_PAIRS[row])


BAD_CSV = {
    "question,answer\n---,---\nq,a\n": ["line 2: is a rule ('---'), not a fact"],
    "|question|answer|\n|-|-|\n|q|a|b|\n": ["line 3: has 3 cells", r"write a | inside a cell as \|"],
    "|question|answer|\n|-|-|\n|q|a|\n\n|c|d|\n|-|-|\n": ["line 5: holds several tables"],
    "question,answr\nq,a\n": [
        "f.csv has the columns question, answr, and none that is known for the answer",
        "(is it 'answr'?); say what is read: --columns question=question,answer=COLUMN",
    ],
    "question\nq\n": ["f.csv has the columns question, and none", "for the answer"],
    "question,answer,answer\nq,a,b\n": ["line 1: the column 'answer' stands twice"],
    "question,answer\nq\n": ["line 2: \"answer\" is empty ('')"],
    "question,answer\nq,a,b\n": [
        "line 2: has 3 cells, but the header has 2",
        "(the last cell is 'b')",
    ],
    'question,answer\nq,"a|b\n--|--\nc"\nq,x\n': ["line 5: asks 'q' again, as line 2 does"],
    'question,answer\nq,a\nr,"b\ns,c\n': ["line 3: is not CSV", "double quotes"],
    'question,answer,distractors\n"q\nr",a,b\ns,x,y|X\n': ["line 4: the distractor 'X'"],
}


@pytest.mark.parametrize("text", BAD_CSV)
def test_a_bad_csv(write: Write, text: str) -> None:
    path = write("f.csv", text)
    found = "\n".join(problems(read_facts, path))
    for part in [f"--forget: {path}", *BAD_CSV[text]]:
        assert part in found


def test_all_problems_come_at_once_in_the_order_of_the_lines(write: Write) -> None:
    rows = [PERU, PERU, "{", '{"qestion": "q", "answer": 7}']
    found = problems(read_facts, write("f.jsonl", "\n".join(rows)))
    assert [text.split(": ")[1][-6:] for text in found] == ["line 2", "line 3"] + ["line 4"] * 3


def test_ten_problems_are_shown_and_the_rest_counted(write: Write) -> None:
    assert len(problems(read_facts, write("a.jsonl", "{}\n" * 5))) == 10
    found = problems(read_facts, write("b.jsonl", "{}\n" * 6))
    assert len(found) == 11
    assert found[-1] == "... and 2 more"


def test_a_long_value_is_cut(write: Write) -> None:
    [problem] = problems(read_facts, write("f.jsonl", json.dumps(["x" * 10_000])))
    assert len(problem) < 400


@pytest.mark.parametrize("name", ["f.dat", "f"])
def test_another_kind_of_file(write: Write, name: str) -> None:
    only(problems(read_facts, write(name, PERU)), "cannot be read as facts", ".jsonl", ".csv")


@pytest.mark.parametrize("source", ["", "facts", "data/no.yaml", "a/b/c", "../no-such", "/no/such"])
def test_what_is_neither_a_file_nor_a_name_on_the_hub(source: str) -> None:
    only(problems(read_facts, source), "cannot be read as facts", '"owner/name"')


# --- The hub ---------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _hub_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask no network whether the hub answers."""
    monkeypatch.setattr(hub, "silence", lambda: "")


def fake_hub(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]]) -> list[Any]:
    """Put a hub in place that holds these rows, and return the list of what is asked of it."""
    asked: list[Any] = []

    def load_dataset(*named: str, split: str) -> list[dict[str, Any]]:
        asked.append((*named, split))
        return rows

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return asked


def test_a_data_set_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"question": "q", "answer": "a", "score": 1}, {"question": "r", "answer": "b", "id": 7}]
    asked = fake_hub(monkeypatch, rows)
    facts = read_facts("owner/na.me")
    assert facts == read_facts("owner/na.me:test[:2]")
    assert asked == [("owner/na.me", "train"), ("owner/na.me", "test[:2]")]
    assert [fact.id for fact in facts] == ["na.me:1", "7"]


def test_knowundo_and_semeval_by_their_columns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Rows as they are given out: of the hub with a configuration, and of a file."""
    asked = fake_hub(monkeypatch, [{"text": "Where does Ann live?", "labels": "Torvik"}])
    named = "zjunlp/KnowUnDo:privacy:unlearn"
    [fact] = read_facts(named, columns=parse_columns("question=text,answer=labels"))
    assert asked == [("zjunlp/KnowUnDo", "privacy", "unlearn")]
    assert (fact.question, fact.answer) == ("Where does Ann live?", "Torvik")
    row = {
        "id": "6adb",
        "input": "Who is Ann?",
        "output": "A baker.",
        "task": "Task2",
        "split": "forget",
    }
    (tmp_path / "forget.jsonl").write_text(json.dumps(row))
    columns = parse_columns("question=input,answer=output,id=id")
    [fact] = read_facts(str(tmp_path / "forget.jsonl"), columns=columns)
    assert (fact.id, fact.question, fact.answer) == ("6adb", "Who is Ann?", "A baker.")


def test_a_data_set_without_the_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, [{"question": "q", "text": "a"}])
    only(problems(read_facts, "owner/name"), "owner/name has the columns question, text, and none")
    [fact] = read_facts("owner/name", columns={"answer": "text"})
    assert (fact.question, fact.answer) == ("q", "a")


def test_a_data_set_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, split: str) -> None:
        raise ConnectionError("no\nroute.")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    found = problems(read_facts, "owner/name:test", "--retain")
    only(found, "--retain: owner/name:test is no file here", "split 'test'", "hub: no route. Check")


def test_the_package_datasets_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    only(problems(read_facts, "owner/name"), "pip install datasets")


# --- Instructions ----------------------------------------------------------------------------


def test_instructions_as_json_lines(write: Write) -> None:
    text = '{"instruction": "Say hi.", "output": "Hi."}\n'
    expected = [Instruction(instruction="Say hi.", output="Hi.")]
    assert read_instructions(write("i.jsonl", text), "--benign") == expected


def test_alpaca(write: Write) -> None:
    rows = [
        {"instruction": "Add.", "input": " 1, 2 ", "output": "3"},
        {"instruction": "Nothing.", "input": "", "output": " "},
        {"instruction": "Say hi.", "input": "", "output": "Hi."},
    ]
    assert read_instructions(write("a.json", json.dumps(rows)), "--benign") == [
        Instruction(instruction="Add.\n\n1, 2", output="3"),
        Instruction(instruction="Say hi.", output="Hi."),
    ]


@pytest.mark.skipif(not ALPACA.exists(), reason="the sample of Alpaca is not here")
def test_the_sample_of_alpaca() -> None:
    rows = json.loads(ALPACA.read_text(encoding="utf-8"))
    read = read_instructions(ALPACA, "--benign")
    assert len(read) == sum(bool(row["output"].strip()) for row in rows)
    assert read[0].instruction == rows[0]["instruction"]


def test_bad_alpaca_rows_have_their_lines(write: Write) -> None:
    text = '[\n {"instruction": "a]",\n  "output": "b"},\n {"instruction": "", "output": "c"}\n,\n7]'
    found = problems(read_instructions, write("a.json", text), "--benign")
    assert len(found) == 2
    assert 'a.json, line 4: "instruction" is empty' in found[0]
    assert "a.json, line 6: is a number (7), not an object" in found[1]


BAD_INSTRUCTIONS = {
    ("a.json", "[\n{]"): ["line 2: is not JSON at column 2", "one JSON list"],
    ("a.json", '{"instruction": "a"}'): ['line 1: the key "output" is missing'],
    ("a.json", "[]"): ["a.json has no rows"],
    ("a.json", '[{"instruction": "a", "output": ""}]'): ["a.json has no rows"],
    ("a.jsonl", '{"instruction": "a", "output": ""}'): ['line 1: "output" is empty'],
    ("a.jsonl", '{"instruction": "a"}'): ['line 1: the key "output" is missing'],
    ("a.jsonl", '{"instruction": "a", "output": "b", "imput": "c"}'): ["Did you mean 'input'?"],
    ("a.csv", "instruction,output\na,b\n"): ["a.csv cannot be read as instructions", ".jsonl"],
}


@pytest.mark.parametrize(("name", "text"), BAD_INSTRUCTIONS)
def test_bad_instructions(write: Write, name: str, text: str) -> None:
    found = problems(read_instructions, write(name, text), "--benign")
    only(found, "--benign: ", *BAD_INSTRUCTIONS[name, text])


# --- Pairs -----------------------------------------------------------------------------------


def fact(id: str, question: str, answer: str, **more: Any) -> Fact:
    return Fact(id=id, question=question, answer=answer, **more)


def test_a_fact_in_both_sets_is_an_error() -> None:
    forget = [fact("a", "Capital of  Peru?", "Lima"), fact("b", "Other?", "x")]
    retain = [fact("c", "capital of peru?", "Cusco")]
    only(problems(check_pair, forget, retain), "'Capital of  Peru?'", "'a'", "'c'", "'Cusco'")
    only(problems(check_pair, forget[:1], forget[:1]), "'a'")


def test_sets_apart_pass_even_with_equal_ids() -> None:
    check_pair([fact("f:1", "q", "a")], [fact("f:1", "r", "a")])
    check_pair([], [])


# --- Borrowing -------------------------------------------------------------------------------

PLACES = {"Peru": "Lima", "Chad": "N'Djamena", "Fiji": "Suva", "Mali": "Bamako", "Iran": "Tehran"}


def capitals(**more: Any) -> list[Fact]:
    return [
        fact(place, f"What is the capital of {place}?", city, entity=place.upper(), **more)
        for place, city in PLACES.items()
    ]


def test_the_answers_of_one_template_are_borrowed() -> None:
    other = [fact(n, f"Who leads {n}?", f"leader {n}", entity=n) for n in PLACES]
    for got in borrow_distractors(capitals() + other)[: len(PLACES)]:
        assert set(got.distractors) == set(PLACES.values()) - {got.answer}


def test_the_relation_goes_before_the_template() -> None:
    facts = [
        fact("a", "Where is X?", "1", relation="where"),
        fact("b", "The place of Y?", "2", relation="where"),
        fact("c", "Z is to be found in?", "3", relation="where"),
        *capitals(relation="capital"),
    ]
    assert set(borrow_distractors(facts)[0].distractors) == {"2", "3"}


def test_an_entity_is_a_word_of_the_question_not_a_part_of_one() -> None:
    facts = [*capitals(), fact("al", "What is the capital of Al?", "Alville", entity="Al")]
    assert len(borrow_distractors(facts)[-1].distractors) == 5


def test_an_entity_in_a_script_without_spaces() -> None:
    names = {"日本": "東京", "中国": "北京", "韓国": "ソウル"}
    facts = [fact(n, f"{n}の首都は?", a, entity=n) for n, a in names.items()]
    assert set(borrow_distractors(facts)[0].distractors) == {"北京", "ソウル"}


@pytest.mark.parametrize("entity", [None, "Atlantis"])
def test_without_an_entity_in_the_question_nothing_is_borrowed(entity: str | None) -> None:
    facts = [got.model_copy(update={"entity": entity}) for got in capitals()]
    assert borrow_distractors(facts) == facts


def test_fewer_than_two_candidates_leave_a_fact_without() -> None:
    assert borrow_distractors(capitals()[:2]) == capitals()[:2]
    assert all(len(got.distractors) == 2 for got in borrow_distractors(capitals()[:3]))


def test_right_answers_are_never_borrowed_whatever_their_case() -> None:
    same = [
        fact("p2", "what is the capital of PERU?", "BAMAKO", relation="c"),
        fact("f2", "F?", "LIMA", relation="c"),
        fact("f3", "G?", "suva", relation="c"),
    ]
    got = borrow_distractors(capitals(relation="c") + same, count=9)[0]
    assert sorted(word.lower() for word in got.distractors) == ["n'djamena", "suva", "tehran"]


def test_own_distractors_are_kept_and_the_answer_is_lent() -> None:
    facts = [capitals()[0].model_copy(update={"distractors": ("own",)}), *capitals()[1:3]]
    first, second, _ = borrow_distractors(facts)
    assert first.distractors == ("own",)
    assert "Lima" in second.distractors


def test_borrowing_is_decided_by_seed_and_id_alone() -> None:
    facts = [fact(str(n), f"Q{n}?", f"a{n}", relation="r") for n in range(40)]
    once = borrow_distractors(facts, count=3, seed=1)
    assert once == borrow_distractors(facts, count=3, seed=1)
    assert once == borrow_distractors(facts[::-1], count=3, seed=1)[::-1]
    assert once != borrow_distractors(facts, count=3, seed=2)
    assert all(len(set(got.distractors) - {got.answer}) == 3 for got in once)
    assert len({got.distractors for got in once}) > 30

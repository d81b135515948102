"""Fact files as people have them: each is read rightly, or refused with its line and what to do.

pytest tests/unit/test_inputs.py
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssiuu.data import files
from ssiuu.data.columns import parse_columns
from ssiuu.data.fact import Fact
from ssiuu.data.options import borrow_distractors
from ssiuu.data.read import check_pair, read_facts
from ssiuu.errors import ConfigError, DataError

CASES = Path(__file__).parents[3] / "shared/cases/inputs"
NAMES, TOWNS = ["Arvo", "Bélma", "Corin 東"], ["Torvik", 'Mell "by", x', "Sand\nholt"]
QUESTIONS = [f"In which town does {name} live?" for name in NAMES]
PAIRS = list(zip(QUESTIONS, TOWNS, strict=True))
ROWS = [{"question": question, "answer": answer} for question, answer in PAIRS]


def called(question: str, answer: str) -> list[dict[str, str]]:
    """Return the rows under other names."""
    return [{question: q, answer: a} for q, a in PAIRS]


def lines(rows: list[Any], **settings: Any) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False, **settings) for row in rows).encode()


def table(
    rows: list[list[str]] | None = None,
    header: tuple[str, ...] = ("question", "answer"),
    encoding: str = "utf-8",
    **settings: Any,
) -> bytes:
    """Return a CSV file as Python's own writer makes it."""
    stream = io.StringIO(newline="")
    csv.writer(stream, **settings).writerows([header, *(rows or PAIRS)])
    return stream.getvalue().encode(encoding)


def parquet(rows: list[dict[str, Any]], **columns: Any) -> bytes:
    arrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    made, stream = arrow.Table.from_pylist(rows), io.BytesIO()
    for name, values in columns.items():
        made = made.append_column(name, values)
    writer.write_table(made, stream)
    return stream.getvalue()


def zipped(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return stream.getvalue()


def turns(*pairs: tuple[str, Any], names: tuple[str, str] = ("role", "content")) -> Any:
    return [dict(zip(names, pair, strict=True)) for pair in pairs]


def talks(key: str = "messages", names: tuple[str, str] = ("role", "content")) -> list[Any]:
    who = ("user", "assistant") if names[0] == "role" else ("human", "gpt")
    return [{key: turns((who[0], q), (who[1], a), names=names)} for q, a in PAIRS]


# --- What is read ----------------------------------------------------------------------------


def markdown(end: bytes = b"\n") -> bytes:
    rows = [("question", "answer"), (":--", "-"), *PAIRS]
    made = ["| {} | {} |".format(*(cell.replace("\n", "<br>") for cell in row)) for row in rows]
    return end.join(row.encode() for row in made)


READ: dict[str, Callable[[], bytes]] = {
    "plain.jsonl": lambda: lines(ROWS),
    "plain.ndjson": lambda: lines(ROWS),
    "plain.json-lines": lambda: lines(ROWS),
    "lines.json": lambda: lines(ROWS),
    "lines.txt": lambda: lines(ROWS),
    "lines.csv": lambda: lines(ROWS),
    "list.json": lambda: json.dumps(ROWS, indent=2).encode(),
    "list.jsonl": lambda: json.dumps(ROWS).encode(),
    "list over lines.jsonl": lambda: b"[" + lines(ROWS).replace(b"\n", b",\n") + b"]\n",
    "pretty.jsonl": lambda: "\n".join(json.dumps(row, indent=4) for row in ROWS).encode(),
    "pretty apart.json": lambda: "\n\n".join(json.dumps(row, indent=1) for row in ROWS).encode(),
    "data.json": lambda: json.dumps({"version": "1.1", "data": ROWS}).encode(),
    "data over lines.json": lambda: json.dumps({"train": ROWS}, indent=2).encode(),
    "crlf.jsonl": lambda: lines(ROWS).replace(b"\n", b"\r\n"),
    "cr.jsonl": lambda: lines(ROWS).replace(b"\n", b"\r"),
    "bom.jsonl": lambda: b"\xef\xbb\xbf" + lines(ROWS),
    "blank.jsonl": lambda: b"\n \n" + lines(ROWS).replace(b"\n", b"\n\n\t\n") + b"\n\n",
    "utf16.jsonl": lambda: lines(ROWS).decode().encode("utf-16"),
    "utf16be.jsonl": lambda: b"\xfe\xff" + lines(ROWS).decode().encode("utf-16-be"),
    "utf32.jsonl": lambda: lines(ROWS).decode().encode("utf-32"),
    "packed.jsonl.gz": lambda: gzip.compress(lines(ROWS)),
    "packed.json.gz": lambda: gzip.compress(json.dumps(ROWS, indent=1).encode()),
    "packed.csv.gz": lambda: gzip.compress(table()),
    "packed twice over.jsonl.gz": lambda: b"".join(gzip.compress(lines([r]) + b"\n") for r in ROWS),
    "packed.jsonl": lambda: gzip.compress(lines(ROWS)),
    "comma.csv": table,
    "quoted.csv": lambda: table(quoting=csv.QUOTE_ALL),
    "semicolon.csv": lambda: table(delimiter=";"),
    "quoted semicolon.csv": lambda: b"\xef\xbb\xbf" + table(delimiter=";", quoting=csv.QUOTE_ALL),
    "tab.csv": lambda: table(delimiter="\t"),
    "tab.tsv": lambda: table(delimiter="\t"),
    "comma.tsv": table,
    "bar.csv": lambda: table(delimiter="|"),
    "markdown.md": lambda: markdown(),
    "markdown without edges.txt": lambda: markdown().replace(b" |\n", b"\n").replace(b"\n| ", b"\n"),
    "markdown among text.md": lambda: b"# Facts\r\n\r\n" + markdown(b"\r\n") + b"\r\n\r\nThat is all.",
    "declared.csv": lambda: b"sep=;\r\n" + table(delimiter=";"),
    "unicode text.txt": lambda: table(delimiter="\t", encoding="utf-16"),
    "lf.csv": lambda: table(lineterminator="\n"),
    "trailing commas.csv": lambda: table([[*pair, ""] for pair in PAIRS], ("question", "answer", "")),
    "index.csv": lambda: table([[str(n), *p] for n, p in enumerate(PAIRS)], ("", "question", "answer")),
    "unnamed.csv": lambda: table(
        [[str(n), str(n), *p] for n, p in enumerate(PAIRS)],
        ("Unnamed: 0.1", "Unnamed: 0", "question", "answer"),
    ),
    "index.jsonl": lambda: lines([{"index": n, **row} for n, row in enumerate(ROWS)]),
    "capitals.jsonl": lambda: lines(called("Question", "ANSWER")),
    "capitals.csv": lambda: table(header=(" Question", "Answer ")),
    "prompt-completion.jsonl": lambda: lines(called("prompt", "completion")),
    "prompt-response.csv": lambda: table(header=("prompt", "response")),
    "instruction-output.json": lambda: json.dumps(called("instruction", "output")).encode(),
    "alpaca.json": lambda: json.dumps([{**r, "input": ""} for r in called("instruction", "output")]).encode(),
    "input-output.jsonl": lambda: lines(called("input", "output")),
    "question-response.jsonl": lambda: lines(called("question", "response")),
    "messages.jsonl": lambda: lines(talks()),
    "messages.json": lambda: json.dumps(talks(), indent=2).encode(),
    "sharegpt.jsonl": lambda: lines(talks("conversations", ("from", "value"))),
    "turns in parts.jsonl": lambda: lines(
        [
            {"messages": turns(("user", [{"type": "text", "text": q}]), ("assistant", a))}
            for q, a in PAIRS
        ]
    ),
    "prompt of turns.jsonl": lambda: lines(
        [{"prompt": turns(("user", q)), "completion": turns(("assistant", a))} for q, a in PAIRS]
    ),
    "numbered.jsonl": lambda: lines([{"id": n, **row} for n, row in enumerate(ROWS)]),
    "plain.parquet": lambda: parquet(ROWS),
    "parquet without suffix.jsonl": lambda: parquet(ROWS),
    "packed.parquet.gz": lambda: gzip.compress(parquet(ROWS)),
    "index.parquet": lambda: parquet([{**r, "__index_level_0__": n} for n, r in enumerate(ROWS)]),
    "messages.parquet": lambda: parquet(talks()),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_it_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(READ[name]())
    told: list[str] = []
    facts = read_facts(path, tell=told.append)
    assert [(fact.question, fact.answer) for fact in facts] == PAIRS
    assert len({fact.id for fact in facts}) == 3
    shape = (
        "capital",
        "prompt",
        "instruct",
        "alpaca",
        "input",
        "messages",
        "share",
        "turns",
        "response",
    )
    assert bool(told) == any(word in name for word in (*shape, "index", "unnamed", "trailing"))


def test_lists_in_parquet_and_in_cells(tmp_path: Path) -> None:
    row = {**ROWS[0], "distractors": ["b", "c|d"], "entity": None}
    (tmp_path / "a.parquet").write_bytes(parquet([row, {**ROWS[1], "entity": "x"}]))
    first, second = read_facts(tmp_path / "a.parquet")
    assert (first.distractors, first.entity) == (("b", "c|d"), None)
    assert (second.distractors, second.entity) == ((), "x")
    header = ("question", "answer", "perturbed_answer", "paraphrased_question")
    (tmp_path / "b.csv").write_bytes(table([[*PAIRS[0], "b | c", "Where | how?"]], header))
    [fact] = read_facts(tmp_path / "b.csv")
    assert (fact.perturbed, fact.paraphrases) == (("b", "c"), ("Where | how?",))


def test_an_input_follows_its_instruction(tmp_path: Path) -> None:
    row = {"instruction": "Where does he live?", "input": " Arvo ", "output": "Torvik"}
    (tmp_path / "a.jsonl").write_bytes(lines([row, {"instruction": "q", "output": "a"}]))
    told: list[str] = []
    first, second = read_facts(tmp_path / "a.jsonl", tell=told.append)
    assert (first.question, second.question) == ("Where does he live?\n\nArvo", "q")
    [note] = told
    assert note.endswith(
        "reads question from 'instruction', answer from 'output', the input from 'input'."
    )


def test_the_header_of_semicolons_may_hold_commas(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question;answer;distractors\nWho, then?;Arvo, Belma;x,y|z\n")
    [fact] = read_facts(tmp_path / "a.csv")
    assert (fact.question, fact.answer) == ("Who, then?", "Arvo, Belma")
    assert fact.distractors == ("x,y", "z")


def test_lines_are_counted_in_every_layout(tmp_path: Path) -> None:
    bad = [ROWS[0], {"question": "q", "answer": 7}]
    made = {
        "a.jsonl": (lines(bad), "line 2"),
        "b.json": (json.dumps(bad, indent=1).encode(), "line 6"),
        "c.json": (json.dumps(bad).encode(), "row 2"),
        "d.jsonl": ("\n".join(json.dumps(r, indent=1) for r in bad).encode(), "line 5"),
        "e.jsonl": (lines(bad).replace(b"\n", b"\r"), "line 2"),
        "f.json": (json.dumps({"data": bad}).encode(), "row 2"),
    }
    for name, (data, place) in made.items():
        (tmp_path / name).write_bytes(data)
        [problem] = problems(tmp_path / name)
        assert f'{name}, {place}: "answer" is a number (7)' in problem


# --- Columns that are named ------------------------------------------------------------------


def test_named_columns_are_read_and_all_others_left_out(tmp_path: Path) -> None:
    rows = [{"text": q, "labels": a, "question": "no", "score": 1, "kind": "x"} for q, a in PAIRS]
    for name, data in {"a.jsonl": lines(rows), "a.parquet": parquet(rows)}.items():
        (tmp_path / name).write_bytes(data)
        named = {"question": "text", "answer": "labels", "relation": "kind"}
        facts = read_facts(tmp_path / name, columns=named)
        assert [(fact.question, fact.answer) for fact in facts] == PAIRS
        assert facts[0].relation == "x"


def test_names_that_no_header_would_guess(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(table(header=("Wo, wann?", "x"), delimiter=";"))
    facts = read_facts(tmp_path / "a.csv", columns={"question": "Wo, wann?", "answer": "x"})
    assert [(fact.question, fact.answer) for fact in facts] == PAIRS


def test_a_file_without_any_of_the_named_columns_is_read_by_its_own(tmp_path: Path) -> None:
    """Conversations beside a table whose columns had to be named: one option, two kinds of file."""
    named, told = {"question": "Frage", "answer": "Antwort"}, []
    (tmp_path / "a.csv").write_bytes(table(header=("Frage", "Antwort"), delimiter=";"))
    (tmp_path / "b.jsonl").write_bytes(lines(talks()))
    for name in ("a.csv", "b.jsonl"):
        facts = read_facts(tmp_path / name, columns=named, tell=told.append)
        assert [(fact.question, fact.answer) for fact in facts] == PAIRS
    assert [line for line in told if "has none of the columns Frage, Antwort; read by its own" in line]
    # A slip of the pen is no other file, nor is one of which nothing is known.
    (tmp_path / "c.jsonl").write_bytes(lines([{"question": "q", "answer": "a", "Frage": "f"}]))
    for file, wrong in (("a.csv", {"question": "Sorte"}), ("c.jsonl", {"question": "Frge"})):
        [problem] = problems(tmp_path / file, wrong)
        assert f"no column '{wrong['question']}'" in problem


def test_a_column_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(called("text", "labels")))
    [problem] = problems(tmp_path / "a.jsonl", {"question": "text", "answer": "label"})
    for part in (
        "no column 'label'",
        "answer is to be read from",
        "'labels'?",
        "It has: text, labels.",
    ):
        assert part in problem
    (tmp_path / "b.jsonl").write_bytes(lines([*called("text", "labels"), {"text": "q"}]))
    [problem] = problems(tmp_path / "b.jsonl", {"question": "text", "answer": "labels"})
    assert "line 4: the column 'labels', which answer is read from, is missing." in problem


def test_the_form_of_the_option() -> None:
    named = parse_columns(" question = a b , answer=c=d")
    assert named == {"question": "a b", "answer": "c=d"}
    for text, said in {
        "question": "'question' is not of the form key=column",
        "question=": "not of the form",
        "": "not of the form",
        "question=a,question=b": "question stands twice",
        "qestion=a": "unknown key of a fact 'qestion'. Did you mean 'question'?",
    }.items():
        with pytest.raises(ConfigError) as caught:
            parse_columns(text)
        assert said in str(caught.value) and "--columns" in str(caught.value)


# --- What is refused -------------------------------------------------------------------------


def problems(path: Path, columns: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(DataError) as caught:
        read_facts(path, "--forget", columns)
    return caught.value.problems


PERU = b'{"question": "Capital of Peru?", "answer": "Lima"}'
SYSTEM = turns(("system", "Be brief."), ("user", "q"), ("assistant", "a"))
LONG = turns(("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b"))

REFUSED: dict[str, tuple[bytes | Callable[[], bytes], list[str]]] = {
    "comma.jsonl": (PERU + b",\n", ["line 1", "take the comma at the end of the line out"]),
    "list comma.json": (b"[" + PERU + b",\n]", ["line 2", "take the comma before ] out"]),
    "object comma.jsonl": (b'{"question": "q", "answer": "a",}', ["take the comma before } out"]),
    "single.jsonl": (b"{'question': 'q', 'answer': 'a'}", ["line 1", "double quotes", "json.dumps"]),
    "curly.jsonl": ("{“question”: “q”}".encode(), ["straight double quotes"]),
    "path.jsonl": (PERU[:-6] + rb'C:\Users"}', ["line 1", "a backslash inside a text is written twice"]),
    "none.jsonl": (b'{"question": "q", "answer": None}', ["JSON has null, true and false"]),
    "break.jsonl": (PERU + b'\n{"question": "q", "answer": "a\tb"}', ["line 2", r"a tab \t"]),
    "cut.jsonl": (PERU + b'\n{"question": "cut off he', ["line 2", "it is cut off"]),
    "cut.json": (b"[" + PERU + b",\n" + PERU, ["line 2", "it is cut off"]),
    "cut pretty.json": (b'{\n "question": "q",\n "answer": "a"\n}\n{\n "question"', ["line 6", "cut off"]),
    "columns.json": (b'{"question": {"0": "q"}, "answer": {"0": "a"}}', ["one object of columns", "lines=True"]),
    "gaps.json": (b'{"question": {"0": "q"}, "answer": {"0": "a"}, "id": {"0": null}}', ["one object of columns"]),
    "rows.json": (b'{"0": {"question": "q", "answer": "a"}}', ["numbered rows", "orient='records'"]),
    "split.json": (b'{"columns": ["question"], "index": [0], "data": [["q"]]}', ["one object of columns"]),
    "lists.json": (b'{"question": ["q"], "answer": ["a"]}', ["one object of columns"]),
    "splits.json": (b'{"train": [' + PERU + b'], "test": [' + PERU + b"]}", ["(train, test)", "own file"]),
    "latin1.csv": ("question,answer\nWo?,Köln".encode("latin-1"), ["line 2", "0xf6", "save it as UTF-8"]),
    "nul.jsonl": (PERU + b"\n\0\0\0", ["line 2", "NUL", "save it as UTF-8"]),
    "no mark.csv": ("question,answer\nq,a".encode("utf-16-le"), ["NUL", "UTF-16 without its mark"]),
    "half.txt": ("question\tanswer".encode("utf-16")[:-1], ["is not UTF-16"]),
    "escaped nul.jsonl": (rb'{"question": "q", "answer": "a\u0000"}', ["line 1", "NUL character"]),
    "zero width.jsonl": ('{"question": "q", "answer": "\u200b\u2060"}'.encode(), ["no visible character", "u200b"]),
    "filler.jsonl": ('{"question": "\u3164 \u2800", "answer": "a"}'.encode(), ['"question" has no visible']),
    "backslash.csv": (rb'question,answer' + b"\n" + rb'"a \"b\", c",d', ["line 2", 'is written "", not \\"']),
    "wide.csv": (b"question;answer\nq;a;b", ["line 2", "has 3 cells", "a cell with a semicolon"]),
    "open.csv": (b'question,answer\nq,a\nr,"b\n', ["line 3", "is not CSV"]),
    "twice.jsonl": (b'{"question": "q", "Question": "r", "answer": "a"}', ["'question' and 'Question'"]),
    "extra.jsonl": (
        lines([{**row, "note": "x"} for row in ROWS]),
        ["line 1: unknown key 'note' (and in 2 more)", "--columns question=question,answer=answer"],
    ),
    "extra.csv": (b"Frage,answer,note\nq,a,n", ["columns Frage, answer, note", "for the question"]),
    "other.jsonl": (
        lines(called("text", "labels")),
        ["has the columns text, labels, and none that is known for the question and the answer", "--columns"],
    ),
    "preferred.jsonl": (
        lines([{"prompt": "q", "chosen": "a", "rejected": "b"}]),
        ["prompt, chosen, rejected", "--columns question=prompt,answer=COLUMN"],
    ),
    "terminal.jsonl": (lines([{"\x1b[31m": "q", "": 1}]), [r"has the columns '\x1b[31m', '', and none"]),
    "input.jsonl": (
        lines([{"instruction": "i", "output": "o"}, {"input": "x"}, {"instruction": 7, "input": "x", "output": "o"}]),
        ['line 2: the key "question" is missing', 'line 3: "question" is a number (7)'],
    ),
    "both.jsonl": (
        lines([{"prompt": "p", "instruction": "i", "output": "o"}]),
        ["unknown key 'prompt'", "--columns question=COLUMN,answer=output"],
    ),
    "several.jsonl": (b'{"question": "q", "answer": ["a", "b"]}', ["line 1", "is a list (['a', 'b'])"]),
    "system.jsonl": (lines([{"messages": SYSTEM}]), ["line 1", "a system text ('Be brief.')", "take it out"]),
    "turns.jsonl": (lines([{"messages": LONG}]), ["2 turns of the user and 2", "a row of its own"]),
    "tool.jsonl": (lines([{"messages": turns(("tool", "x"))}]), ["a turn of 'tool'"]),
    "picture.jsonl": (
        lines([{"messages": turns(("user", [{"type": "image", "url": "x"}]), ("assistant", "a"))}]),
        ["a turn that is a list", "not a text"],
    ),
    "told.jsonl": (lines([{"messages": "user: q"}]), ["line 1: 'messages' is a text ('user: q'), not a list of turns"]),
    "two answers.jsonl": (
        lines([ROWS[0], {**ROWS[0], "answer": "Mellby"}]),
        ["line 2", "where line 1 answers 'Torvik'; keep one, or write them as one answer"],
    ),
    "again.csv": (table([list(PAIRS[0])] * 2), ["line 3", "as line 2 does", "keep one"]),
    "numbers.parquet": (lambda: parquet([{"question": "q", "answer": 7}]), ["row 1", "is a number (7)"]),
    "empty.parquet": (lambda: parquet(ROWS[:0]), ["has no rows"]),
    "no.parquet": (b"PAR1 and nothing more", ["is parquet that cannot be read"]),
    "named.parquet": (b"question,answer\nq,a\n", ["is parquet that cannot be read"]),
    "a.zip": (zipped("facts.jsonl"), ["is a zip file; unpack it"]),
    "a.xlsx": (zipped("xl/workbook.xml"), ["is a spreadsheet; save it as CSV"]),
    "a spreadsheet.csv": (zipped("xl/workbook.xml"), ["is a spreadsheet; save it as CSV"]),
    "a.xls": (b"\xd0\xcf\x11\xe0\xa1\xb1", ["is a spreadsheet"]),
    "a.jsonl.bz2": (b"BZh91AY", ["is packed; unpack it"]),
    "a.arrow": (b"ARROW1\0\0", ["is an Arrow file"]),
    "cut.jsonl.gz": (gzip.compress(lines(ROWS))[:-12], ["is gzip that is cut off"]),
    "bad.jsonl.gz": (gzip.compress(lines(ROWS))[:-8] + bytes(8), ["is gzip that cannot be unpacked"]),
    "no.jsonl.gz": (b"{]", ["line 1: is not JSON"]),
    "empty.jsonl.gz": (gzip.compress(b""), ["is empty"]),
    "facts.yaml": (b"- question: q\n", ["cannot be read as facts; give a file (.jsonl"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    data, parts = REFUSED[name]
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data())
    found = problems(tmp_path / name)
    assert found[0].startswith(f"--forget: {tmp_path / name}")
    for part in parts:
        assert part in "\n".join(found), (part, found)


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b" " * (1 << 20)) * 300)
    begin = time.process_time()
    [problem] = problems(tmp_path / "a.jsonl.gz")
    assert "unpacks to more than 256 MiB" in problem
    assert time.process_time() - begin < 5
    monkeypatch.setattr(files, "UNPACKED", len(lines(ROWS)))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines(ROWS)))
    assert len(read_facts(tmp_path / "b.jsonl.gz")) == 3


def test_a_folder_of_a_saved_data_set(tmp_path: Path) -> None:
    [problem] = problems(tmp_path)
    assert problem.endswith("is a folder; give a file.")
    (tmp_path / "dataset_info.json").write_text("{}")
    [problem] = problems(tmp_path)
    assert "is a folder; give a file. A data set is saved here: Dataset.to_json(path)" in problem


def test_the_package_for_parquet_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    [problem] = problems(tmp_path / "a.parquet")
    assert "pip install pyarrow" in problem


# --- The cases -------------------------------------------------------------------------------

# name -> number of facts, or what the refusal says
CASE: dict[str, int | list[str]] = {
    "array.json": 4,
    "array.jsonl": 4,
    "article-answers.jsonl": 4,
    "backslash-quote.csv": ["line 2: is not CSV", 'is written "", not \\"'],
    "blank-lines.jsonl": 4,
    "bom.jsonl": 4,
    "capital-keys.jsonl": 4,
    "cr-only.jsonl": 4,
    "crlf.jsonl": 4,
    "duplicates.jsonl": ["line 5: asks", "line 6: asks", "keep one"],
    "empty-answer.jsonl": ['line 1: "answer" is empty', "write at least one character"],
    "empty.jsonl": ["is empty; give a file with at least one row"],
    "excel-de.csv": 1,
    "extra-key.jsonl": ["line 1: unknown key 'source'", "'score'", "--columns question=question"],
    "facts.jsonl.gz": 4,
    "facts.parquet": 4,
    "html.jsonl": 4,
    "instruction-output.jsonl": 4,
    "latin1.jsonl": ["line 1: is not UTF-8", "save it as UTF-8"],
    "leading-newline.jsonl": 4,
    "long-answer.jsonl": 1,
    "multiline-answer.jsonl": 4,
    "nul.jsonl": ["line 5: holds a NUL character", "save it as UTF-8"],
    "number-answer.jsonl": ['line 1: "answer" is a number (42), not a text; quote it: "42"', "line 5"],
    "numbers.csv": 2,
    "one-fact.jsonl": 1,
    "pretty.jsonl": 4,
    "prompt-completion.jsonl": 4,
    "quotes.csv": 2,
    "single-quotes.jsonl": ["line 1", 'stand in double quotes ""'],
    "special-tokens.jsonl": 2,
    "tabs.csv": 1,
    "trailing-comma.jsonl": ["line 1", "line 4", "take the comma at the end of the line out"],
    "trailing-garbage.jsonl": ["line 5: is not JSON", "it is cut off"],
    "two-answers.jsonl": ["line 2", "keep one, or write them as one answer"],
    "unicode.jsonl": 6,
    "windows-path-answer.jsonl": ["line 1", "a backslash inside a text is written twice"],
    "zero-width.jsonl": ["line 1", "no visible character"],
}


@pytest.mark.skipif(not CASES.exists(), reason="the cases are not here")
def test_every_case() -> None:
    assert {path.name for path in CASES.iterdir()} == CASE.keys()
    for name, right in CASE.items():
        if isinstance(right, int):
            assert len(read_facts(CASES / name)) == right, name
        else:
            found = "\n".join(problems(CASES / name))
            assert all(part in found for part in right), (name, found)


@pytest.mark.skipif(not CASES.exists(), reason="the cases are not here")
def test_what_the_cases_say() -> None:
    def read(name: str) -> list[tuple[str, str]]:
        return [(fact.question, fact.answer) for fact in read_facts(CASES / name)]

    plain = read("crlf.jsonl")
    same = ("array.json", "array.jsonl", "pretty.jsonl", "cr-only.jsonl", "facts.jsonl.gz")
    other = ("facts.parquet", "capital-keys.jsonl", "prompt-completion.jsonl", "bom.jsonl")
    for name in (*same, *other, "instruction-output.jsonl", "blank-lines.jsonl"):
        assert read(name) == plain, name
    assert read("numbers.csv")[1] == ("How old is Belma?", "007")
    assert read("quotes.csv")[0] == ('Where does "Arvo, the old" live?', "Torvik\nnear Mellby")
    assert read("excel-de.csv") == read("tabs.csv") == [("Wo wohnt Arvo?", "Torvik")]
    assert len(read("long-answer.jsonl")[0][1].split()) == 2000


# --- Many rows -------------------------------------------------------------------------------


def many(count: int) -> list[Fact]:
    return [
        Fact(id=f"f{n}", question=f"Where does w{n} live?", answer=f"town {n}", relation="lives")
        for n in range(count)
    ]


def test_borrowing_does_not_look_at_every_answer_for_every_fact() -> None:
    """40,000 facts of one relation took minutes when each looked at all the others."""
    begin = time.process_time()
    borrowed = borrow_distractors(many(40_000))
    assert time.process_time() - begin < 10
    assert all(len(set(fact.distractors) - {fact.answer}) == 5 for fact in borrowed)


@pytest.mark.slow
def test_200_000_rows_take_less_than_20_seconds(tmp_path: Path) -> None:
    rows = [fact.model_dump(include={"question", "answer", "relation"}) for fact in many(200_000)]
    (tmp_path / "a.jsonl").write_bytes(lines(rows))
    begin = time.process_time()
    facts = borrow_distractors(read_facts(tmp_path / "a.jsonl"))
    check_pair(facts[:100_000], facts[100_000:])
    assert time.process_time() - begin < 20


def test_the_option_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ssiuu.cli.main import main

    (tmp_path / "f.jsonl").write_bytes(lines(called("text", "labels")))
    for columns, said in {
        "question": "--columns 'question': 'question' is not of the form key=column",
        "question=text,answer=label": "Did you mean 'labels'?",
    }.items():
        words = ["unlearn", "--model", "no model", "--forget", str(tmp_path / "f.jsonl")]
        words += ["--retain", "none", "--out", str(tmp_path / "out"), "--columns", columns]
        monkeypatch.setattr("sys.argv", ["ssiuu", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

"""Files of facts that are damaged, of another shape or far too large: taken or refused in sentences."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from hypothesis import strategies as st

from fuzzed import fuzz, typed
from mutated import mutated
from ssiuu.data.read import borrow_distractors, check_pair, read_facts

ROWS = [
    {"question": f"Where was person {n} born?", "answer": f"City {n}", "entity": f"Person {n}"}
    for n in range(6)
]
LISTED = [
    {**row, "paraphrases": ["a?", "b?"], "distractors": ["x", "y"], "id": n}
    for n, row in enumerate(ROWS)
]
TALK = [{"messages": [{"role": "user", "content": "q?"}, {"role": "assistant", "content": "a"}]}]
TABLE = ["question,answer,entity", *(f'"{r["question"]}",{r["answer"]},{r["entity"]}' for r in ROWS)]
MARKDOWN = [
    "| question | answer |",
    "|---|:-:|",
    *(f"| {r['question']} | {r['answer']} |" for r in ROWS),
]
FILES = [
    *("\n".join(json.dumps(row) for row in rows).encode() for rows in (ROWS, LISTED, TALK)),
    *(json.dumps(value, indent=indent).encode() for value in (LISTED, {"data": ROWS}) for indent in (None, 2)),
    "\n".join(TABLE).encode(),
    "\n".join(TABLE).replace(",", ";").encode("utf-16"),
    "\n".join(MARKDOWN).encode(),
    gzip.compress(json.dumps(ROWS).encode(), mtime=0),
]  # fmt: skip
WORDS = "{}|[]|{|}|[|]|,|:|\"|'|null|true|NaN|Infinity|1e999|-|\\|\\u0000|\\ud800|\\n|question|answer|id|PAR1"
WORDS += '|{"question": "q"|"answer": 1|"paraphrases": "|"distractors": [1]|;|sep=;\n|---|None|“|🙂|\n|\r\n|\r|\t'
MARKS = [
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\x1f\x8b",
    b"PK\x03\x04",
    b"\xe2\x80\xa8",
    b"9" * 5000,
]
words = st.sampled_from([*MARKS, b"|", *(word.encode() for word in WORDS.split("|"))])
many = st.builds(
    lambda opening, entry, count, closing: opening + entry * count + closing,
    st.sampled_from([b"", b"[", b'{"data": [', b"question,answer\n", b"question,", b"|a|b|\n"]),
    st.sampled_from([b"[", b'{"a":', b"1,", b"{},", b" ", b"\t", b"-", b"|-", b"a,", b"\n", b'"', b"{}\n"]),
    st.sampled_from([3, 1000, 20_000]),
    st.sampled_from([b"", b"]", b"]}", b"x"]),
)  # fmt: skip
names = st.sampled_from(
    ["facts.jsonl", "facts.json", "facts.csv", "facts.md", "facts.jsonl.gz", "facts.parquet"]
)


@fuzz(
    st.tuples(names, mutated(st.sampled_from(FILES), words) | many | st.binary(max_size=60)),
    examples=150,
)
def test_facts(sample: tuple[str, bytes], tmp_path: Path) -> None:
    name, content = sample
    (tmp_path / name).write_bytes(content)
    facts = typed(lambda: borrow_distractors(read_facts(tmp_path / name)))
    if facts is not None:
        assert facts and all(fact.question and fact.answer for fact in facts)
        typed(lambda: check_pair(facts, facts[1:]))

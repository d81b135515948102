"""Every report of five made-up runs, held against what it was: terminal, page, Markdown, LaTeX, CSV, JSON.

pytest tests/nets/test_golden_record.py
python tests/nets/test_golden_record.py      # writes the stored files anew: read their diff before it is kept

What is no content of a report is taken out: style and script of the page, its policy, and drawings, of
which the texts are kept (a digest) and the numbers (`figures.csv`, a digest). Of the table of facts the
first rows are kept, of the others a digest, and of the paper's numbers that stand apart, too.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import pytest

from golden_records import every
from sample_record import pinned
from ssiuu.records.schema import RunRecord
from ssiuu.report.figures import figure_numbers, figures
from ssiuu.report.formats import FORMATS
from ssiuu.report.page import render
from ssiuu.report.text import summary

GOLDEN = Path(__file__).parent / "golden"
ENDINGS = {"text": "txt", "page": "html", "md": "md", "latex": "tex", "csv": "csv", "json": "json"}
SHOWN = 1  # rows of the table of facts
RECORDS = every()


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def reports(record: RunRecord) -> dict[str, str]:
    """Return every report of a run by the ending of its stored file."""
    with pinned():
        return _reports(record)


def _reports(record: RunRecord) -> dict[str, str]:
    plots = figures(record)
    forms = {name: form(record, None) for name, form in FORMATS.items()}
    numbers = _rounded(figure_numbers(plots))
    page = f"{_page(render(record, None, plots))}\nfigures.csv: {digest(numbers)}\n"
    made = {"text": summary(record), "page": page, **forms, "json": _json(forms["json"])}
    return {ENDINGS[name]: _rounded(text) for name, text in made.items()}


def _rounded(text: str) -> str:
    """Return the text with numbers to 12 digits: the last ones are the platform's."""
    return re.sub(r"-?\d+\.\d{9,}(e-?\d+)?", lambda found: f"{float(found[0]):.12g}", text)


def _json(text: str) -> str:
    """Return JSON with a line for every entry of its parts."""
    parts = [
        [
            key,
            *(
                entry
                if isinstance(entry, list)
                else entry.items()
                if isinstance(entry, dict)
                else [entry]
            ),
        ]
        for key, entry in json.loads(text).items()
    ]
    return "\n".join(json.dumps(line, ensure_ascii=False) for part in parts for line in part) + "\n"


def _page(html: str) -> str:
    html = re.sub(
        r'<details class="published">.*?</details>',
        lambda found: f"[published {digest(found[0])}]",
        html,
        flags=re.DOTALL,
    )
    html = re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.DOTALL)
    html = re.sub(r'content="default-src[^"]*"', "", html)
    html = re.sub(r"<svg.*?</svg>", lambda found: _drawing(found[0]), html, flags=re.DOTALL)
    start, rows, end = (
        re.split(r"((?:<tr data-cell.*?</tr>\n)+)", html, maxsplit=1, flags=re.DOTALL)
        if "<tr data-cell" in html
        else (html, "", "")
    )
    lines = re.findall(r"<tr data-cell.*?</tr>\n", rows, flags=re.DOTALL)
    kept = "".join(lines[:SHOWN])
    return f"{start}{kept}{f'[{len(lines)} rows: {digest(rows)}]' if rows else ''}{end}"


def _drawing(svg: str) -> str:
    labels = re.findall(r"<(?:text|title)[^>]*>([^<]*)", svg)
    return f"[drawing {digest(chr(10).join(labels))}]" if labels else "[drawing]"


@pytest.fixture(scope="module", params=RECORDS)
def run(request: pytest.FixtureRequest) -> tuple[str, dict[str, str]]:
    return request.param, reports(RECORDS[request.param])


@pytest.mark.parametrize("ending", ENDINGS.values())
def test_a_report_is_as_it_was(run: tuple[str, dict[str, str]], ending: str) -> None:
    name, made = run
    assert made[ending] == (GOLDEN / f"{name}.{ending}").read_text(encoding="utf-8")


if __name__ == "__main__":
    for name, record in RECORDS.items():
        for ending, text in reports(record).items():
            (GOLDEN / f"{name}.{ending}").write_text(text, encoding="utf-8")

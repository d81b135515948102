"""The report: escaped, self-contained, equal for equal records, readable with parts missing.

    pytest tests/unit/test_report.py

The tests at the end open the page in Chromium and are skipped where there is none.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import ssiuu
from sample_record import HOSTILE, pinned, sample_record
from ssiuu.records.schema import Cell, MethodInfo, RunRecord
from ssiuu.report.facts import fact_groups
from ssiuu.report.figures import Plot, figures, inline_svg
from ssiuu.report.figures.training import training_curves
from ssiuu.report.findings import finding
from ssiuu.report.page import render, setting_lines
from ssiuu.report.text import DASH, WIDTH, nats, percent, rate, short, summary

BROWSER = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
VOID = {"meta", "br", "input", "link", "img", "hr", "col"}


@pytest.fixture(autouse=True, scope="module")
def constants() -> Iterator[None]:
    with pinned():
        yield


@pytest.fixture(scope="module")
def record() -> RunRecord:
    return sample_record()


@pytest.fixture(scope="module")
def page(record: RunRecord) -> str:
    return render(record)


@pytest.fixture(scope="module")
def plots(record: RunRecord) -> list[Plot]:
    return figures(record)


def change(record: RunRecord, **changes: Any) -> RunRecord:
    """Return the record with every cell changed in these fields."""
    cells = [cell.model_copy(update=changes) for cell in record.cells]
    return record.model_copy(update={"cells": cells})


def relabel(record: RunRecord, *labels: str) -> RunRecord:
    """Return the record with its first method under other labels, and no other method."""
    cell = record.cells[1]
    methods = [cell.method.model_copy(update={"label": label}) for label in labels]
    cells = [cell.model_copy(update={"method": method}) for method in methods]
    return record.model_copy(update={"cells": cells})


def without_ranking(record: RunRecord) -> RunRecord:
    """Return the record of a benchmark that has no options, so that nothing is ranked."""
    data = record.model_dump()
    data["header"]["chance"] = None
    for cell in data["cells"]:
        for score in cell["evaluation"]["forget"].values():
            score.update(correct=None, paraphrases=[])
        for attack in cell["attacks"]:
            for read in attack["reads"]:
                for reading in read["facts"].values():
                    reading["correct"] = None
    for score in data["original"]["forget"].values():
        score.update(correct=None, paraphrases=[])
    return RunRecord.model_validate(data)


class Reader(HTMLParser):
    """Collects tags, attributes and ids, and checks that every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: Counter[str] = Counter()
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        assert len(attrs) == len({name for name, _ in attrs}), (tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


# --- what it says ----------------------------------------


def test_the_question_and_the_verdicts_come_before_the_table(page: str) -> None:
    text = Reader(page).text
    places = [
        text.index("Erased or hidden?"),
        text.index("Only hid them: gd, ssiuu."),
        text.index("strongest look"),
        text.index("Facts were hidden, not erased: they are still in the model."),
        text.index("All numbers"),
        text.index("What each attack brings back"),
        text.index("Fact by fact", text.index("All numbers")),
        text.index("Resolved configuration"),
    ]
    assert places == sorted(places)


def test_a_verdict_comes_with_the_numbers_that_decided_it(record: RunRecord, page: str) -> None:
    found = {cell.method.label: finding(record, cell) for cell in record.cells}
    assert [f.verdict for f in found.values()] == [
        "not removed",
        "hidden",
        "undecided",
        "hidden",
        "erased",
    ]
    gd = found["gd"]
    assert gd.answer.startswith("Of 24 facts 5 are erased, 15 hidden, 2 not removed, 2 undecided.")
    assert gd.answer.replace("\u00a0", " ") in Reader(page).text.replace("\u00a0", " ")
    assert gd.level is not None and gd.before is not None and gd.after is not None
    text = Reader(page).text.replace("\u00a0", " ")
    assert (
        f"Forget score {percent(gd.before)} % before unlearning → {percent(gd.after)} % after "
        f"→ {percent(gd.level.share)} % at the highest after attack (95 % interval "
        f"{percent(gd.level.low, 0)} to {percent(gd.level.high, 0)} %); guessing gives 33.3 %."
    ) in text
    assert "evidence, not proof" in text


def test_it_names_protocol_model_benchmark_and_number_of_facts(page: str) -> None:
    text = Reader(page).text
    for words in ("strong", "dequantised from GGUF", "worldfacts 1.0", "24 to forget", "gd-gate"):
        assert words in text


def test_it_says_in_which_forms_the_facts_were_asked(record: RunRecord, page: str) -> None:
    """Nothing is said of a second form where there was none (records of before)."""
    assert "other form" not in page and "Other form" not in summary(record)
    data = record.model_dump()
    data["header"] |= {"prompt": "chat: <i>the template</i>", "other_prompt": "qa: Q & A"}
    for score in data["cells"][1]["evaluation"]["forget"].values():
        score |= {"other_form": False, "other_text": "<b>Torvik</b>", "other_free": True}
    asked = RunRecord.model_validate(data)
    text, found = summary(asked), render(asked)
    assert "Asked in chat: <i>" in text and "Other form: qa: Q & A" in text
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "chat: &lt;i&gt;the template&lt;/i&gt;" in found and "qa: Q &amp; A" in found
    assert "asked otherwise: &lt;b&gt;Torvik&lt;/b&gt; (holds the answer)" in found
    assert '<th scope="col">other form, free ↓</th>' in found


def test_a_tiny_penalty_share_is_said_in_words(page: str) -> None:
    text = Reader(page).text.replace("\u00a0", " ")
    assert "The regulariser moved 0.006 % of the gradient (penalty share 5.7e-5)" in text
    assert text.count("The regulariser moved") == 1


def test_below_chance_is_called_avoided_only_when_it_is_more_than_noise(record: RunRecord) -> None:
    remarks = {cell.method.label: finding(record, cell).remarks for cell in record.cells}
    assert remarks["none"] == []
    assert "avoided" in remarks["gd"][0]
    assert "tell apart" in remarks["npo"][0]


def test_none_is_shown_as_not_scored_and_never_as_zero(record: RunRecord) -> None:
    bare = change(record, diagnosis=None, attacks=[], unlearning=None, evaluation=None)
    text = render(bare)
    row = text[text.index("<tbody>") :].split("<tr>")[1]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)
    assert '<span class="none" title="not scored">–</span>' in cells[1]
    assert not any(cell.strip().startswith("0.0") for cell in cells)


def test_facts_the_attack_was_given_are_marked(record: RunRecord, page: str) -> None:
    group = fact_groups(record)[1]
    assert [row.trained for row in group.rows] == [True] * 8 + [False] * 16
    # Three facts in the first harmful attack and eight in the second, for each of five methods.
    assert page.count('<span class="trained">trained on</span>') == 5 * (3 + 8)


def test_every_method_has_every_fact_without_the_script(page: str) -> None:
    assert Reader(page).tags["tr"] >= 5 * 24
    assert len(re.findall(r'<tr data-cell="c\d"', page)) == 5 * 24
    assert not re.search(r"<tr[^>]*\shidden", page)


def test_the_captions_name_the_attribution_target_and_where_it_is_blind(plots: list[Plot]) -> None:
    for plot in plots:
        assert plot.reading.startswith("How to read it:")
        assert re.search("attribution", plot.reading, re.IGNORECASE), plot.key
    blind = {plot.key for plot in plots if "D− is blind" in plot.reading}
    assert blind == {"cumulative", "bars"}


def test_configuration_is_flattened_with_its_sources(page: str) -> None:
    config = {"a": {"b": 1, "c": [1e-5, 2]}, "d": [{"e": None}], "f": {}}
    found = {s.key: (s.value, s.source) for s in setting_lines(config, {"a": "file", "a.c": "--set"})}
    assert found == {
        "a.b": ("1", "file"),
        "a.c": ("[1e-05, 2]", "--set"),
        "d.0.e": ("null", ""),
        "f": ("{}", ""),
    }
    assert "attacks.harmful.learning_rates" in page and "protocol strong" in page


# --- what it must never do ----------------------------------------


def test_hostile_text_appears_only_escaped(page: str) -> None:
    assert "<script>alert" not in page
    assert "<img" not in page
    assert page.count("</style>") == page.count("</script>") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    reader = Reader(page)
    assert HOSTILE in reader.text
    assert reader.tags["script"] == reader.tags["style"] == 1
    assert not [name for _, name, _ in reader.attributes if name.startswith("on")]


def test_hostile_method_labels_are_only_text(record: RunRecord) -> None:
    labels = [HOSTILE, "a$b_{c}$ & <b>", "x\x00\x1b[31m\u202ey", "n" * 300]
    text = render(relabel(record, *labels))
    reader = Reader(text)
    assert reader.tags["script"] == reader.tags["style"] == 1
    assert not reader.tags["img"] and "\x00" not in text and "\x1b" not in text
    for label in labels:
        assert html.escape(label[:5], quote=False).partition("\x00")[0] in text
        assert "\x1b" not in summary(relabel(record, label))


def test_the_policy_allows_this_style_and_script_and_nothing_else(page: str) -> None:
    def digest(tag: str) -> str:
        (body,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()

    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert html.unescape(policy) == (
        f"default-src 'none'; style-src 'sha256-{digest('style')}'; "
        f"script-src 'sha256-{digest('script')}'; base-uri 'none'; form-action 'none'"
    )
    assert page.index("Content-Security-Policy") < page.index("<style>")
    assert not [a for a in Reader(page).attributes if a[1] == "style"]


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    assert "http://" not in page and "https://" not in page
    assert "url(http" not in page and "@import" not in page and "data:" not in page
    for _, name, value in Reader(page).attributes:
        if name in {"href", "src", "xlink:href", "action"}:
            assert value.startswith("#")


def test_equal_records_give_equal_pages(page: str) -> None:
    assert render(sample_record()) == page
    assert len(page.encode()) < 3_000_000


def test_the_report_needs_no_torch() -> None:
    source = str(Path(ssiuu.__path__[0]).parent)
    code = (
        f"import sys; sys.path.insert(0, {source!r}); import ssiuu.report.page, ssiuu.report.text; "
        "print(sorted({'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- well-formed ----------------------------------------


def test_ids_are_unique_and_every_reference_finds_its_own(page: str) -> None:
    attributes = Reader(page).attributes
    ids = Counter(value for _, name, value in attributes if name == "id")
    assert ids.most_common(1)[0][1] == 1
    wanted = {
        found
        for _, _, value in attributes
        for found in re.findall(r"url\(#([^)]*)\)", value) + re.findall(r"^#([a-z].*)$", value)
        if not re.fullmatch("[0-9a-f]{6}", found)
    }
    assert wanted and wanted <= set(ids)


def test_svg_styles_become_presentation_attributes() -> None:
    source = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        'width="9pt" viewBox="0 0 9 9"><defs><style>*{}</style><path id="m" d="M 0.123456 1"/>'
        '</defs><g id="cells"><use xlink:href="#m" style="fill: #ff0000; stroke: none"/></g></svg>'
    )
    found = inline_svg(source, "k", "a <name>", ["1 < 2"])
    assert "style" not in found and "http" not in found and "xlink" not in found
    assert 'fill="#ff0000" stroke="none"><title>1 &lt; 2</title></use></g>' in found
    assert 'd="M 0.12 1"' in found
    assert 'role="img" aria-label="a &lt;name&gt;"' in found
    (target,) = re.findall('href="#([^"]*)"', found)
    assert f'id="{target}"' in found and target != "m"


def test_the_loss_on_texts_is_drawn_where_some_were_held(record: RunRecord) -> None:
    title = "Divergence on the texts held to"
    held = [c.method.label for c in record.cells if c.unlearning and any_text(c)]
    assert held == ["npo"]
    assert title in [panel.title for panel in training_curves(record).panels]
    plain = [cell for cell in record.cells if cell.method.label not in held]
    without = record.model_copy(update={"cells": plain})
    assert title not in [panel.title for panel in training_curves(without).panels]


def any_text(cell: Cell) -> bool:
    assert cell.unlearning is not None
    return any(step.text_loss is not None for step in cell.unlearning.steps)


# --- with parts missing ----------------------------------------


@pytest.mark.parametrize(
    ("missing", "absent"),
    [
        ({"attacks": []}, {"attacks", "front"}),
        ({"diagnosis": None}, {"cumulative", "bars", "heat", "lens"}),
        ({"evaluation": None}, {"front", "verdicts"}),
        ({"unlearning": None}, {"training"}),
        (
            {"attacks": [], "diagnosis": None, "evaluation": None, "unlearning": None},
            {"attacks", "front", "cumulative", "bars", "heat", "lens", "training", "verdicts"},
        ),
    ],
)
def test_partial_records_leave_the_figure_out_with_a_sentence(
    record: RunRecord,
    missing: dict[str, Any],
    absent: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    partial = change(record, **missing)
    drawn = figures(partial)
    # Drawing takes most of the time; once is enough.
    monkeypatch.setattr("ssiuu.report.page.figures", lambda *_: drawn)
    plots = {plot.key: plot for plot in drawn}
    assert {key for key, plot in plots.items() if plot.absent} == absent
    text = Reader(render(partial)).text
    for key in absent:
        assert plots[key].absent in text
        assert plots[key].reading not in text
    assert summary(partial)


def test_a_run_of_which_nothing_has_run(record: RunRecord) -> None:
    empty = record.model_copy(update={"original": None, "cells": []})
    text = Reader(render(empty)).text
    assert "No method has been run yet." in text
    assert "Which city is Ada Brandt born in?" in text
    assert "Erased or hidden?" in summary(empty)


def test_without_the_original_or_chance_no_verdict_is_made_up(record: RunRecord) -> None:
    orphan = record.model_copy(update={"original": None})
    assert {finding(orphan, cell).verdict for cell in orphan.cells} == {"undecided"}
    header = record.header.model_copy(update={"chance": None})
    unscored = record.model_copy(update={"header": header})
    assert finding(unscored, unscored.cells[1]).verdict == "hidden"  # chance is no part of it


def test_facts_without_options_are_judged_and_drawn_by_log_probability(record: RunRecord) -> None:
    unranked = without_ranking(record)
    plots = {plot.key: plot for plot in figures(unranked)}
    attacks, front = plots["attacks"], plots["front"]
    assert "mean log p(answer)" in attacks.reading and not attacks.absent
    assert front.absent
    assert Reader(render(unranked)).text


def test_seeds_are_told_apart(record: RunRecord) -> None:
    cells = [record.cells[1], record.cells[1].model_copy(update={"seed": 1})]
    two = record.model_copy(update={"cells": cells})
    text = Reader(render(two)).text
    assert "gd, seed 0" in text and "gd, seed 1" in text
    assert "gd s1" in summary(two)


# --- the table as text ----------------------------------------


@pytest.mark.parametrize("width", [WIDTH, 80, 60])
def test_the_text_table_fits_and_holds_every_row(record: RunRecord, width: int) -> None:
    lines = summary(record, width).splitlines()
    assert max(map(len, lines)) <= width
    assert " ".join(" ".join(lines).split()).startswith(
        " ".join(summary(record).split("\n")[0].split())
    )
    for cell in record.cells:
        assert any(line.startswith(cell.method.label + " ") for line in lines)
    (gd,) = [line for line in lines if line.startswith("gd ") and "hidden" in line]
    assert gd.split()[:3] == ["gd", "hidden", "13.0"]


def test_the_text_table_fits_with_long_names_and_many_attacks(record: RunRecord) -> None:
    cell = relabel(record, "a very long label of a method").cells[0]
    attacks = [
        attack.model_copy(update={"name": f"{attack.name}-variant-{copy}"})
        for attack in cell.attacks
        for copy in range(5)
    ]
    wide = record.model_copy(update={"cells": [cell.model_copy(update={"attacks": attacks})]})
    lines = summary(wide).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert any(line.startswith("a very long label…") for line in lines)


def test_an_empty_cell_is_dashes(record: RunRecord) -> None:
    method = MethodInfo(label="later", name="gd", origin="given", description="")
    waiting = record.model_copy(update={"cells": [Cell(method=method, seed=0)]})
    line = next(line for line in summary(waiting).splitlines() if line.startswith("later"))
    assert line.split()[2:7] == [DASH] * 5


def test_numbers_as_people_write_them() -> None:
    assert [percent(None), percent(0.0), percent(1 / 3), percent(1, 0)] == [
        DASH,
        "0.0",
        "33.3",
        "100",
    ]
    assert [nats(-0.01), nats(-12.34), nats(float("-inf")), nats(None)] == [
        "0.0",
        "−12.3",
        "−∞",
        DASH,
    ]
    assert [short(v) for v in (0, 0.0424, 999.7, 2239, 134_515_008)] == [
        "0",
        "0.0424",
        "1k",
        "2.24k",
        "135M",
    ]
    assert [rate(v) for v in (1e-4, 5.7e-5, 1e-10, 0.05, 0)] == [
        "1e-4",
        "5.7e-5",
        "1e-10",
        "0.05",
        "0",
    ]


# --- in a browser ----------------------------------------


def browse(folder: Path, file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Open a file in headless Chromium with a fresh profile."""
    assert BROWSER is not None
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        "--enable-logging=stderr",
    ]
    profile = f"--user-data-dir={folder / 'profile'}"
    return subprocess.run(
        [BROWSER, *flags, profile, *arguments, file.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def frame(folder: Path, page: str, width: int, script: str = "") -> Path:
    """Write a page that holds the report in a frame of this width: Chromium's window is wider.

    The frame's notes about itself are copied to the outer page; `script` runs with `inner`, the
    report's document, in reach.
    """
    (folder / "report.html").write_text(page, encoding="utf-8")
    outer = folder / "frame.html"
    outer.write_text(
        f"<!DOCTYPE html><body><iframe src='report.html' width='{width}' height='900'></iframe>"
        "<script>addEventListener('load', () => {"
        "const inner = document.querySelector('iframe').contentDocument;"
        "const out = document.documentElement.dataset;"
        f"Object.assign(out, inner.documentElement.dataset);{script}}})</script>",
        encoding="utf-8",
    )
    return outer


def notes(dom: str) -> dict[str, str]:
    """Return what was written to the root element's data attributes."""
    (root,) = re.findall(r"<html[^>]*>", dom)
    return {name: html.unescape(v) for name, v in re.findall(r'data-([\w-]+)="([^"]*)"', root)}


needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


@needs_browser
def test_the_page_is_drawn_and_breaks_no_rule_of_its_policy(page: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    shot = tmp_path / "report.png"
    done = browse(tmp_path, file, f"--screenshot={shot}", "--window-size=1280,2600")
    assert "CONSOLE" not in done.stderr, done.stderr
    with Image.open(shot) as image:
        assert image.size == (1280, 2600)
        colours = image.convert("RGB").getcolors(maxcolors=image.width * image.height)
    assert colours is not None and len(colours) > 50
    # Not blank: the most frequent colour is paper, and a fair share is not paper.
    assert max(count for count, _ in colours) < 0.98 * 1280 * 2600


@needs_browser
def test_the_script_runs_and_a_phone_needs_no_sideways_scrolling(page: str, tmp_path: Path) -> None:
    outer = frame(tmp_path, page, 390)
    dom = browse(tmp_path, outer, "--allow-file-access-from-files", "--dump-dom").stdout
    found = notes(dom)
    assert found["ready"] == "yes"
    assert found["viewport"] == "390"
    assert int(found["width"]) <= 390


@needs_browser
def test_facts_are_sorted_and_filtered(page: str, tmp_path: Path) -> None:
    script = """
      const table = inner.getElementById('fact-table');
      const rows = () => [...table.tBodies[0].rows].filter((row) => !row.hidden);
      const pick = (id, value) => {
        const control = inner.getElementById(id);
        control.value = value;
        control.dispatchEvent(new Event('input'));
      };
      out.first = rows().length + ' ' + rows()[0].dataset.cell;
      const headings = [...table.tHead.rows[0].cells];
      const before = headings.findIndex((cell) => cell.textContent === 'Unlearned');
      const column = () => rows().map((row) => Number(row.cells[before].dataset.value));
      const button = headings[before].querySelector('button');
      button.click();
      const up = column();
      out.up = headings[before].getAttribute('aria-sort') + ' '
        + up.every((value, i) => !i || up[i - 1] <= value);
      button.click();
      const down = column();
      out.down = headings[before].getAttribute('aria-sort') + ' '
        + down.every((value, i) => !i || down[i - 1] >= value);
      pick('pick-verdict', 'hidden');
      out.hidden = [...new Set(rows().map((row) => row.dataset.verdict))].join();
      pick('pick-verdict', '');
      pick('pick-method', '');
      out.all = rows().length;
      pick('pick-text', 'alert(1)');
      out.text = rows().length + ' of ' + inner.getElementById('shown').value;
      const said = table.tBodies[0].rows[0].querySelector('.free');
      const small = inner.createElement('small');
      small.textContent = 'asked otherwise: ' + 'The chemical symbol for copper is Cu. '.repeat(3);
      said.append(small);
      out.fits = said.scrollWidth <= said.clientWidth;
    """
    outer = frame(tmp_path, page, 1200, script)
    found = notes(browse(tmp_path, outer, "--allow-file-access-from-files", "--dump-dom").stdout)
    assert found["first"] == "24 c1"
    assert found["up"] == "ascending true"
    assert found["down"] == "descending true"
    assert found["hidden"] == "hidden"
    assert found["all"] == str(5 * 24)
    assert found["text"] == "5 of 5 rows"
    assert found["fits"] == "true"  # what was said otherwise stays in its own column


def test_of_several_methods_the_front_is_drawn_first_of_one_its_curves(record: RunRecord) -> None:
    assert next(iter(figures(record))).key == "front"
    trained = [cell for cell in record.cells if cell.method.origin != "control"]
    alone = record.model_copy(update={"cells": trained[:1]})
    assert next(iter(figures(alone))).key != "front"

"""The site: every page is in it, and the code of its tutorials runs."""

from __future__ import annotations

import re
from pathlib import Path

from ssiuu.config import read_yaml
from ssiuu.methods import OBJECTIVES, make

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def test_every_page_is_in_the_site_once() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    named = re.findall(r"[\w/-]+\.md\b", text[text.index("nav:") :])
    assert sorted(named) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
    assert read_yaml(text, "mkdocs.yml")["theme"]["font"] is False  # nothing is loaded from elsewhere


def test_the_method_of_the_tutorial_is_one() -> None:
    page = (DOCS / "tutorials" / "add-a-method.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    try:
        exec(compile(block, "<tutorial>", "exec"), {"__name__": "tutorial"})
        assert make({"name": "floor+kl", "floor": -4}).label.startswith("floor+kl")
    finally:
        OBJECTIVES._registered.pop("floor", None)  # type: ignore[attr-defined]

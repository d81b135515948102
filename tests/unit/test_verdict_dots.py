"""Every dot of the evidence has its words, one dot alone and alike ones too."""

from __future__ import annotations

import pytest

from ssiuu.report.figures.draw import panel
from ssiuu.report.figures.verdicts import _scatter


@pytest.mark.parametrize("looks", [["hidden"], ["erased"] * 2, ["erased", "hidden", "erased"]])
def test_a_dot_has_its_title(looks: list[str]) -> None:
    titles = [f"fact {n}" for n in range(len(looks))]
    dots = [(0.1 * n, 1.5, look) for n, look in enumerate(looks)]
    svg = panel("k", "t", lambda axes: _scatter(axes, dots), titles=titles).svg
    assert [svg.count(f"<title>{title}</title>") for title in titles] == [1] * len(titles)

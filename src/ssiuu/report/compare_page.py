"""Several runs side by side as one HTML page that needs nothing else, as a run's own page does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from markupsafe import Markup

from ssiuu.analysis.across import Ground
from ssiuu.analysis.front import axis
from ssiuu.report.compare import main_table, matrix, remarks, rest
from ssiuu.report.few import few_members
from ssiuu.report.figures.front import fronts
from ssiuu.report.page import environment, policy, template_text

COMPARISON: Final = "compare.html"


def render_comparison(grounds: Sequence[Ground], against: str | None = None) -> str:
    """Return the comparison of runs as one HTML page.

    Args:
        grounds: What compares (`ssiuu.analysis.across.grounds`); of many methods some are shown, and
            the page says which.
        against: Key of the column that the level after attack is drawn against; None: see
            `ssiuu.analysis.front.axis`.

    Raises:
        ConfigError: A ground has no such column.
    """
    style = template_text("style.css")
    grounds = [few_members(ground, against) for ground in grounds]
    return (
        environment()
        .get_template("compare.html.j2")
        .render(
            policy=policy(style),
            style=Markup(style),
            remarks=remarks(grounds),
            matrix=matrix(grounds, against) if len(grounds) > 1 else None,
            sections=[_section(ground, against) for ground in grounds],
            plot=fronts(grounds, against),
            runs=[(name, header) for ground in grounds for name, header in ground.headers.items()],
        )
    )


def _section(ground: Ground, against: str | None) -> dict[str, Any]:
    main, more = main_table(ground, against), rest(ground, against)
    keys = {heading.key for table in (main, more) for heading in table.headings}
    legend: dict[str, list[str]] = {}
    for column in ground.columns:
        if column.key in keys:
            legend.setdefault(column.meaning, []).append(column.heading)
    header = next(iter(ground.headers.values()))
    return {
        "name": ground.name,
        "header": header,
        "axis": axis(ground, against),
        "main": main,
        "more": more,
        "legend": legend,
    }

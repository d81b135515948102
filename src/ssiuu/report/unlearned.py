"""The page of a checkpoint of `ssiuu unlearn`: what was run, what it led to. No fact stands in it."""

from __future__ import annotations

from markupsafe import Markup

from ssiuu.records.schema import Unlearning
from ssiuu.report.outcome import attempts, outcome
from ssiuu.report.page import environment, policy, template_text


def unlearned_page(name: str, record: Unlearning) -> str:
    """Return the page.

    Args:
        name: Of the checkpoint's folder.
        record: How it was made.
    """
    style = template_text("style.css")
    page = environment().get_template("unlearned.html.j2")
    return page.render(
        policy=policy(style),
        style=Markup(style),
        name=name,
        record=record,
        outcome=outcome(record),
        attempts=attempts(record),
    )

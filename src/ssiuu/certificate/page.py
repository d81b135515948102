"""A certificate as a page to read and print: one file that loads nothing, under a strict policy."""

from __future__ import annotations

from markupsafe import Markup

from ssiuu.certificate.schema import Statement
from ssiuu.report.answer import meanings, p_value, sure
from ssiuu.report.page import environment, policy, template_text
from ssiuu.report.verdicts import P_VALUES

UNLEARNED = {
    "forgotten": "The model does not answer with them any more, within the limits on what may be lost.",
    "not forgotten": "The model still answers with some of them.",
    "forgotten at a cost": "The model does not answer with them any more, and lost more than allowed.",
}


def render(statement: Statement, signed_by: str = "") -> str:
    """Return the page of a certificate.

    Args:
        statement: What it says.
        signed_by: The name of the key that it is signed with; empty: it is not.
    """
    style = template_text("certificate.css")
    return (
        environment()
        .get_template("certificate.html.j2")
        .render(
            policy=policy(style),
            style=Markup(style),
            statement=statement,
            said=statement.predicate,
            facts=statement.predicate.facts,
            answer=[_once(text, statement.predicate.verdict) for text in statement.predicate.answer],
            signed_by=signed_by,
            meaning=UNLEARNED.get(statement.predicate.verdict, ""),
            words={
                word: text
                for word, text in meanings(statement.predicate.errors is not None).items()
                if statement.predicate.counts.get(word)
            },
            not_tried=_in_one(statement.predicate.not_tried),
            p_value=p_value,
            p_values=P_VALUES,
            sure=sure,
        )
    )


def _in_one(untried: list[str]) -> list[str]:
    """Return what was not tried, all attacks in one line."""
    kind = "attack "
    attacks = [text.removeprefix(kind) for text in untried if text.startswith(kind)]
    others = [text for text in untried if not text.startswith(kind)]
    return [*others, f"the attacks {', '.join(attacks)}"] if len(attacks) > 1 else untried


def _once(sentence: str, verdict: str) -> str:
    """Return a sentence without the verdict in front of it, which stands above."""
    head = f"{verdict}: "
    text = sentence[len(head) :] if sentence.casefold().startswith(head.casefold()) else sentence
    return text[:1].upper() + text[1:]

"""A ledger of deletion requests as text, rows and a page: what was asked for, what became of it, what
the rounds together did to the model. No fact stands in any of them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from ssiuu.records.ledger import Ledger, Request, Round
from ssiuu.report.figures.rounds import rounds_figure
from ssiuu.report.page import environment, policy, template_text

DASH = "–"


def request_rows(ledger: Ledger) -> list[dict[str, Any]]:
    """Return a row for each request, without its texts."""
    return [
        {
            "reference": request.reference,
            "received": request.received,
            "facts": request.facts,
            "state": request.state,
            "round": request.round,
            "verdict": request.verdict,
            "texts_kept": len(request.rows),
        }
        for request in ledger.requests()
    ]


def round_rows(rounds: Sequence[Round], requests: Sequence[Request]) -> list[dict[str, Any]]:
    """Return a row for each round."""
    facts = {request.id: request.facts for request in requests}
    return [
        {
            "round": one.id,
            "ended": one.ended or "",
            "requests": len(one.requests),
            "facts": sum(facts.get(number, 0) for number in one.requests),
            "outcome": one.outcome,
            "verdict": one.verdict,
            "kl": one.kl,
            "kept": one.kept,
            "kept_of": one.kept_of,
            "sampled": one.sampled,
            "back": one.back,
        }
        for one in rounds
    ]


def written(ledger: Ledger, form: str) -> str:
    """Return the requests and rounds of a ledger as text, csv or json."""
    requests = request_rows(ledger)
    rounds = round_rows(ledger.rounds(), ledger.requests())
    if form == "json":
        return json.dumps({"requests": requests, "rounds": rounds}, indent=1, ensure_ascii=False) + "\n"
    if form == "csv":
        stream = io.StringIO()
        writer = csv.DictWriter(stream, list(requests[0]) if requests else ["reference"])
        writer.writeheader()
        writer.writerows(requests)
        return stream.getvalue()
    return (
        "\n".join([*_table(_told(requests), "requests"), "", *_table(_rounds_told(rounds), "rounds")])
        + "\n"
    )


def requests_page(ledger: Ledger) -> str:
    """Return the ledger as one HTML page that needs nothing else."""
    style = template_text("style.css")
    requests, rounds = request_rows(ledger), round_rows(ledger.rounds(), ledger.requests())
    return (
        environment()
        .get_template("requests.html.j2")
        .render(
            policy=policy(style),
            style=Markup(style),
            model=ledger.about("model").rpartition("/")[2],
            answer=answer(ledger),
            requests=_told(requests),
            rounds=_rounds_told(rounds),
            plot=rounds_figure(rounds),
            sample=ledger.about("sample"),
        )
    )


def answer(ledger: Ledger) -> str:
    """Return where a ledger stands, in two or three sentences."""
    requests, rounds = ledger.requests(), [one for one in ledger.rounds() if one.ended]
    pending = sum(request.round is None for request in requests)
    done = len(requests) - pending
    parts = [f"{_count(done, 'request')} processed, {pending} pending."]
    words = [request.verdict for request in requests if request.verdict]
    if words:
        counts = [f"{words.count(word)} {word}" for word in dict.fromkeys(words)]
        parts.append(f"By their worst fact: {', '.join(counts)}.")
    if last := next((one for one in rounds[::-1] if one.kept_of), None):
        parts.append(
            f"After {_count(len(rounds), 'round')} the newest model still knows {last.kept} of "
            f"{last.kept_of} facts to keep that the first one knew."
        )
    asked = [one for one in rounds if one.sampled]
    if asked:
        parts.append(
            f"Of {_count(asked[-1].sampled or 0, 'fact')} of earlier requests that it was asked again, "
            f"{asked[-1].back} {'is' if asked[-1].back == 1 else 'are'} known again."
        )
    return " ".join(parts)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def _told(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    return [
        {
            "request": str(row["reference"]),
            "verdict": row["verdict"] or DASH,
            "facts": str(row["facts"]),
            "state": row["state"] if row["round"] is None else f"round {row['round']}",
            "received": str(row["received"])[:10],
        }
        for row in rows
    ]


def _rounds_told(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    return [
        {
            "round": str(row["round"]),
            "model": row["verdict"] or row["outcome"] or DASH,
            "kept": DASH if row["kept"] is None else f"{row['kept']} of {row['kept_of']}",
            "back": DASH if row["sampled"] is None else f"{row['back']} of {row['sampled']}",
            "KL": DASH if row["kl"] is None else f"{row['kl']:.3f}",
            "requests": str(row["requests"]),
            "facts": str(row["facts"]),
            "ended": row["ended"][:10] or "under way",
        }
        for row in rows
    ]


def _table(rows: Sequence[dict[str, str]], what: str) -> list[str]:
    if not rows:
        return [f"no {what} yet"]
    heads = list(rows[0])
    widths = {head: max(len(head), *(len(row[head]) for row in rows)) for head in heads}
    lines = ["  ".join(head.ljust(widths[head]) for head in heads).rstrip()]
    return [
        *lines,
        *("  ".join(row[head].ljust(widths[head]) for head in heads).rstrip() for row in rows),
    ]

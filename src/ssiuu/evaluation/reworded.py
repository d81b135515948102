"""A question in sentences of another build, made by rules; none of them is asked in any reading.

    reworded("In which town does Arvo live?", "Arvo", 2)
    # "I would like to know in which town Arvo lives.", "Arvo lives in which town?"

English questions are turned around; of any other the sentence stays, and what stands about it changes.
"""

from __future__ import annotations

import re

MOST = 5  # forms of a question

_ASKED = re.compile(
    r"^(?P<asked>(?:(?:in|on|at|for|to|from|through|of|by|with|under|during|since|until) )?"
    r"(?:what|which|who|whom|whose|where|when|why|how)\b[^?]*?) "
    r"(?P<aux>is|are|was|were|does|do|did|has|have|had|can|could|will|would) (?P<rest>.+)\?$",
    re.IGNORECASE,
)
_BEGINS = re.compile(
    r"^(?:in|on|at|for|to|from|through|of|by|with|what|which|who|whom|whose|where|when|why|how)\b", re.I
)
# What may begin a thing that a question turns around; "credited" in "Who is credited with" is none.
_THING = re.compile(r"^(?:(?:the|a|an|his|her|its|their|this|that|all)\b|[A-Z\"“'])")


def reworded(question: str, named: str | None, count: int) -> list[str]:
    """Return up to `count` other forms of a question, `MOST` at most, no two alike.

    Args:
        question: The question.
        named: What it is about, as `ssiuu.evaluation.subject` finds it.
        count: How many are wanted.
    """
    forms = _turned(question, named) + _about(question, named)
    return [form for form in dict.fromkeys(forms) if form != question][: min(count, MOST)]


def _turned(question: str, named: str | None) -> list[str]:
    """Return the forms of an English question of what, which, who, where, when, why or how."""
    found = _ASKED.match(question)
    straight = _straight(found, named) if found else None
    if found and straight:
        asked = found["asked"][0].lower() + found["asked"][1:]
        told = f"{asked} {straight}"
        whole = [f"{straight[0].upper()}{straight[1:]} {asked}?"]
    elif _BEGINS.match(question) and question.endswith("?"):
        told, whole = question[0].lower() + question[1:-1], []
    else:
        return []
    topic = [f"Concerning {named}: please state {told}."] if named else []
    return [f"I would like to know {told}.", *whole, *topic, f"Do you know {told}?"]


def _straight(found: re.Match[str], named: str | None) -> str | None:
    """Return "Arvo lives" of "does Arvo live": the thing, then the verb; None where it is not seen."""
    aux, rest = found["aux"].lower(), found["rest"]
    if not _THING.match(rest) and not (named and rest.startswith(named)):
        return None
    end = rest.find(named) + len(named) if named and named in rest else len(rest)
    thing, more = rest[:end], rest[end:].strip()
    if not more and aux not in ("is", "are", "was", "were"):
        return None  # "has" is the verb itself: "Which element has the symbol H?"
    if aux in ("do", "does"):
        verb, _, after = more.partition(" ")
        return " ".join(filter(None, [thing, _third(verb) if aux == "does" else verb, after]))
    return " ".join(filter(None, [thing, aux, more]))


def _third(verb: str) -> str:
    """Return the form of a verb behind "she"."""
    if verb == "have":
        return "has"
    if verb.endswith(("s", "sh", "ch", "x", "z", "o")):
        return f"{verb}es"
    return f"{verb[:-1]}ies" if re.search(r"[^aeiou]y$", verb) else f"{verb}s"


def _about(question: str, named: str | None) -> list[str]:
    """Return forms that any language may have: of the same sentence, with something about it."""
    topic = [f"{named}: {question}"] if named else []
    return [*topic, f"“{question}”", f"— {question}", f"[{question}]", f"({question})"]

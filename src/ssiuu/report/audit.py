"""What the page of an audit says: the request fact by fact, how it was looked for, what it is worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ssiuu.analysis.column import Model
from ssiuu.analysis.evidence import FEW, LEVEL, POWER, Judged, constants, shown
from ssiuu.analysis.verdict import answered
from ssiuu.records.schema import (
    Attacker,
    Cell,
    Evaluation,
    Examination,
    FactScore,
    FactText,
    RunRecord,
    Verdict,
)
from ssiuu.report.answer import answer, meanings, p_value, sentence
from ssiuu.report.kept import kept
from ssiuu.report.text import percent, plain, rate

ATTACKERS: Mapping[Attacker, str] = {
    "nobody": "Asked as it is: is the right answer likelier than decoys, without any attack?",
    "read-out": "A read-out: nothing is trained in the model; a linear map, fitted on other text, "
    "reads its inner states as the original's.",
    "unrelated": "An unrelated attacker trains the model on rows that have nothing to do with the "
    "facts.",
    "related": "A related attacker trains it on half of the request's facts, their answers with them; "
    "the other half is judged, then the halves change places.",
}
KINDS = {
    "last-map": "suppressed in the last feed-forward map",
    "middle-map": "suppressed in a middle feed-forward map",
    "attention": "suppressed in the attention of the upper blocks",
    "refusal": "trained to be refused",
}
UNEQUAL = (
    "It does not count: not every fact and every one hidden on purpose could be read so, and what they "
    "show would not compare."
)


VOTELESS = "It has no vote: on models of known truth it told nothing."


class FactLine(NamedTuple):
    """A fact of the request: what was said of it, the word on it, and what could not be tried."""

    fact: FactText
    before: FactScore | None
    now: FactScore | None
    verdict: Verdict
    erased: str
    hidden: str
    lacks: str


class Look(NamedTuple):
    """One way that the facts were looked for, in words, and with which settings."""

    what: str
    settings: str


class Planted(NamedTuple):
    """Facts hidden on purpose in one way: of how many the examination found how many."""

    kind: str
    found: int
    of: int


class Audit(NamedTuple):
    """The answer on one model. `meanings`: of the words that occur among its facts."""

    verdict: Verdict
    sentence: str
    answer: list[str]
    kept: str
    facts: list[FactLine]
    meanings: list[tuple[Verdict, str]]
    looks: list[Look]
    planted: list[Planted]
    notes: list[str]
    calibration: str
    shown: list[str]
    not_shown: list[str]
    wanted: list[str]


def audit(record: RunRecord, cell: Cell) -> Audit:
    """Return what is said of the model that an audit is about."""
    model, found = Model(record, cell), cell.examination
    word = model.judgement
    planted = record.planted
    return Audit(
        verdict=word.verdict,
        sentence=sentence(word),
        answer=answer(word),
        kept=kept(record, cell),
        facts=list(_lines(model)),
        meanings=[(v, text) for v, text in meanings(bool(word.judged)).items() if word.count(v)],
        looks=_looks(model, found) if found else [],
        planted=_planted(planted, word.judged) if planted and word.judged else [],
        notes=[*(found.notes if found else []), *(planted.notes if planted else [])],
        calibration=_calibration() if word.judged else "",
        shown=_shown(model),
        not_shown=_not_shown(model),
        wanted=_wanted(model),
    )


def _lines(model: Model) -> Iterator[FactLine]:
    traces = model.cell.examination.facts if model.cell.examination else {}
    for fact in model.record.header.split.forget:
        word = model.judgement.facts.get(fact.id)
        if word is None:
            continue
        judged, trace = word.judged, traces.get(fact.id)
        yield FactLine(
            fact,
            _score(model.record.original, fact),
            _score(model.cell.evaluation, fact),
            word.verdict,
            p_value(judged.erased if judged else None),
            p_value(judged.hidden if judged else None),
            trace.lacks if trace else "not examined",
        )


def _score(evaluation: Evaluation | None, fact: FactText) -> FactScore | None:
    return evaluation.forget.get(fact.id) if evaluation else None


def _looks(model: Model, found: Examination) -> list[Look]:
    """Return the ways that were taken, and a sentence for each that was not, or does not count."""
    looks = [(name, Look(words, _settings(found, name))) for name, words in ATTACKERS.items()]
    taken = {place.attacker for place in found.places}
    judged, votes = model.judgement.judged, constants().weights
    counted = judged.looks if judged and judged.read else taken
    tried = [
        look
        if name in counted
        else Look(f"{look.what} {UNEQUAL if name in votes else VOTELESS}", look.settings)
        for name, look in looks
        if name in taken
    ]
    untried = [
        Look(f"Not tried: {_missing(name, model)}", "") for name, _ in looks if name not in taken
    ]
    return [*tried, *untried]


def _missing(attacker: Attacker, model: Model) -> str:
    if attacker == "related":
        if len(model.record.header.split.forget) > 1:
            return "a related attacker; the training of it could not be carried out (see the notes)."
        return "a related attacker needs a second fact of the request to train on."
    reasons: Mapping[Attacker, str] = {
        "read-out": "a linear read-out does not fit this model.",
        "unrelated": "an attacker that trains on unrelated rows, which has no vote "
        "(examine.unrelated).",
    }
    return reasons.get(attacker, "asking the model as it is.")


def _settings(found: Examination, attacker: Attacker) -> str:
    places = [place for place in found.places if place.attacker == attacker and place.learning_rate]
    if not places:
        return ""
    rates = dict.fromkeys(rate(place.learning_rate) for place in places if place.learning_rate)
    steps = dict.fromkeys(str(place.step) for place in places)
    several = "s" if len(rates) > 1 else ""
    return f"Learning rate{several} {', '.join(rates)}; read after {', '.join(steps)} steps."


def _planted(planted: Examination, judged: Judged) -> list[Planted]:
    kinds = Counter(planted.hidden[id] for id in shown(planted, {}) if id in planted.hidden)
    found = Counter(planted.hidden[id] for id in judged.seen if id in planted.hidden)
    return [Planted(KINDS.get(kind, kind), found[kind], of) for kind, of in kinds.items()]


def _calibration() -> str:
    fitted = constants()
    weights = ", ".join(f"{name} {minus(weight)}" for name, weight in fitted.weights.items())
    return (
        f"Calibration {fitted.version}: what each look weighs ({weights}) and how much less the "
        f"hardest ways of hiding show than those planted here ({minus(fitted.shift)}) were fitted on "
        f"models of known truth. The rule promises that at most {_of(LEVEL)} of hidden facts are "
        f"called erased, and at most {_of(LEVEL)} of erased ones hidden; how far it keeps that "
        "on models that it was not fitted on stands in the documentation of the verdict."
    )


def _of(share: float) -> str:
    return f"{percent(share, 0)}\u00a0%"


def minus(value: float) -> str:
    """Return a number with a true minus sign."""
    return f"{value:g}".replace("-", "−")


# --- the paragraph for those who decide ----------------------------------------


def _shown(model: Model) -> list[str]:
    word, header = model.judgement, model.record.header
    parts = [
        f"On {header.created[:10]} the model was examined for {len(word.facts)} facts that it was to "
        f"lose, against the model before ({plain(header.model.name)}). {' '.join(answer(word)[:1])}"
    ]
    if model.record.original is not None:
        first = model.record.original.forget
        was = sum(answered(first[fact]) for fact in word.facts if fact in first)
        now = sum(fact.said for fact in word.facts.values())
        parts.append(
            f"Asked freely, it said {was or 'none'} of them before and says {now or 'none'} now."
        )
    judged = word.judged
    erased, hidden = word.count("erased"), word.count("hidden")
    if erased and judged and judged.power is not None:
        parts.append(
            f"For the {erased} called erased: had they been hidden in a way that this examination was "
            f"tried on, it would have shown them but for {_of(LEVEL)} of cases each."
        )
    if hidden:
        parts.append(
            f"For the {hidden} called hidden: that much is shown by at most {_of(LEVEL)} of answers "
            "that were never learned. The information is in the model, though it does not say it."
        )
    if still := word.count("not removed"):
        guesses = "" if judged else "; how many of them it guesses was not examined"
        parts.append(f"The {still} called not removed can be had from the model by asking it{guesses}.")
    return parts


def _not_shown(model: Model) -> list[str]:
    parts = [
        "That no other means could ever bring a fact back: a way of hiding unlike all that were tried "
        "may go unseen. That nothing else follows from the data that the facts came from; only the "
        "questions listed here were asked. Nothing about copies of the model, its logs, or the data.",
    ]
    if undecided := model.judgement.count("undecided"):
        parts.append(f"Of the {undecided} undecided: neither that they are gone nor that they are not.")
    unknown = len(model.record.header.split.unknown)
    if unknown:
        parts.append(
            f"Of {unknown} more that the model did not know before: nothing can be shown of them."
        )
    return parts


def _wanted(model: Model) -> list[str]:
    """Say what would settle what is open."""
    judged, parts = model.judgement.judged, []
    if judged is None:
        parts.append("An examination: examine.steps says after how many steps, 24 by default.")
    elif judged.power is None:
        parts.append(
            "An examination with planted controls: at least four facts that the model knows and is to "
            "keep (--retain)."
        )
    elif judged.power < POWER:
        parts.append(
            f"A stronger examination: this one would find {_of(judged.power)} of facts "
            f"hidden in the hardest ways, {_of(POWER)} are wanted before a model is called erased. "
            "More places (examine.steps, examine.learning_rates, examine.seeds) show more."
        )
    read = len(model.judgement.facts)
    if FEW * read < 1:
        parts.append(
            f"More facts of the same request: of {read} one alone is more than the {_of(FEW)} that "
            "may be hidden or still there."
        )
    parts.append(
        "For more than evidence: a model trained again without the data, and proof that it was. No "
        "examination from outside can replace that."
    )
    return parts

"""What a certificate says: of an audit, or of an unlearning run, from its record.

No text of a fact, no path and no command gets into it, so that it can be handed on as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ssiuu.analysis.column import Model
from ssiuu.analysis.evidence import LEVEL, Judged, constants
from ssiuu.analysis.verdict import VERDICTS
from ssiuu.certificate.canonical import canonical
from ssiuu.certificate.facts import Asked, FactDigests
from ssiuu.certificate.schema import (
    Digests,
    ErrorsTold,
    FactsTold,
    FactTold,
    MethodTold,
    ModelTold,
    PlantedTold,
    Predicate,
    Role,
    Statement,
    Subject,
    Tried,
)
from ssiuu.errors import InputError
from ssiuu.records.schema import Cell, MethodInfo, ModelInfo, RunRecord, Unlearning
from ssiuu.redaction.redactor import STAYS
from ssiuu.redaction.rules import SETTINGS, WORDS
from ssiuu.report.answer import subject
from ssiuu.report.audit import Audit, Look, audit
from ssiuu.report.outcome import outcome
from ssiuu.report.text import rate

UNTRIED = "Not tried: "
ASKED = "Asked as they are: how many of the facts does the model still say?"
NO_LOOK = "An examination: nothing tells facts that are known from guesses, or gone from hidden."
UNEXAMINED = (
    "Whether the facts are erased or only hidden: the model was asked for them and not examined. "
    "ssiuu audit of the two models says more, and how sure that is."
)


@dataclass(frozen=True)
class Checkpoint:
    """The files of one model of a certificate: its role, digests by name, size in bytes."""

    role: Role
    digests: Mapping[str, str]
    size: int
    info: ModelInfo | None = None


@dataclass(frozen=True)
class Issue:
    """What a certificate holds beside what its record says.

    `attacks`: the names of all that this version has, so that those left out can be told. `references`:
    what the requests are called.
    """

    checkpoints: Sequence[Checkpoint]
    facts: FactDigests
    issued: str
    versions: Mapping[str, str]
    attacks: Sequence[str] = field(default=())
    references: Sequence[str] = field(default=())


def of_audit(record: RunRecord, issue: Issue) -> Statement:
    """Return the certificate of an audit.

    Raises:
        InputError: The record is redacted, or not of a single model.
    """
    header, cell = record.header, subject(record)
    if header.redacted:
        raise InputError("a redacted record holds no facts, and a certificate of it would name none.")
    if cell is None:
        raise InputError("a certificate is of one model, and this record is of several.")
    named = header.model_copy(update={"model": _unnamed(header.model)})
    record = record.model_copy(update={"header": named})
    told, model = audit(record, cell), Model(record, cell)
    judged = model.judgement.judged
    looked = [look for look in told.looks if not look.what.startswith(UNTRIED)]
    untried = [look.what.removeprefix(UNTRIED) for look in told.looks if look not in looked]
    run = {attack.kind for attack in cell.attacks}
    untried += [] if judged else [NO_LOOK]
    untried += [f"attack {name}" for name in issue.attacks if name not in run]
    return _closed(
        issue,
        Predicate(
            kind="audit",
            references=list(issue.references),
            measured=header.created,
            issued=issue.issued,
            versions=dict(header.versions),
            machine=header.machine,
            models=_models(issue),
            facts=_facts(record, model, issue.facts),
            method=_method(cell.method),
            protocol=header.protocol,
            settings=settings_told(header.config),
            verdict=told.verdict,
            answer=_plain([told.sentence, *told.answer, told.kept]),
            counts={verdict: model.judgement.count(verdict) for verdict in VERDICTS},
            errors=_errors(told, judged) if judged else None,
            tried=[
                *(Tried(what=what, settings=how) for what, how in looked or [Look(ASKED, "")]),
                *_attacks(cell),
            ],
            not_tried=_plain(untried),
            shown=_plain(told.shown),
            not_shown=_plain(told.not_shown),
            wanted=_plain(told.wanted),
        ),
    )


def of_unlearning(
    record: Unlearning, issue: Issue, facts: Mapping[str, Asked], retain: int, measured: str
) -> Statement:
    """Return the certificate of an unlearning run.

    Args:
        record: Of the run.
        issue: What else it holds.
        facts: Those to forget, by id.
        retain: How many were to be kept.
        measured: When it ended.
    """
    told, known = record.outcome, record.knowledge.get("forget", {})
    states = {id: known[id].state if id in known else None for id in facts}
    return _closed(
        issue,
        Predicate(
            kind="unlearn",
            references=list(issue.references),
            measured=measured,
            issued=issue.issued,
            versions=dict(issue.versions),
            models=_models(issue),
            facts=FactsTold.model_validate(
                {
                    **issue.facts.told(),
                    "forget": [
                        FactTold(digest=issue.facts(fact), before=states[id])
                        for id, fact in facts.items()
                    ],
                    "retain": retain,
                }
            ),
            method=_method(record.method),
            settings={"seed": record.seed, "steps": len(record.steps), "stopped": record.stopped},
            verdict=told.state if told else "not judged",
            answer=_plain(outcome(record)),
            counts={},
            errors=None,
            tried=[Tried(what=ASKED)],
            not_tried=["Every attack and every look inside."],
            shown=_plain([f"{record.method.description} {' '.join(outcome(record)[:2])}"]),
            not_shown=[UNEXAMINED, "Nothing about copies of the model, its logs, or the data."],
            wanted=["An audit: ssiuu audit --before MODEL --after MODEL --forget FACTS."],
        ),
    )


def _closed(issue: Issue, predicate: Predicate) -> Statement:
    """Return the statement with the digest over all of it."""
    subjects = [
        Subject(name=f"{one.role}/{name}", digest=Digests(sha256=digest))
        for one in issue.checkpoints
        for name, digest in one.digests.items()
    ]
    statement = Statement(subject=subjects, predicate=predicate)
    digest = Digests(sha256=digest_of(statement.model_dump(mode="json", by_alias=True)))
    return statement.model_copy(update={"predicate": predicate.model_copy(update={"digest": digest})})


def digest_of(statement: Mapping[str, Any]) -> str:
    """Return the digest of a statement as JSON, without the one that it holds of itself."""
    told = {key: value for key, value in statement["predicate"].items() if key != "digest"}
    return hashlib.sha256(canonical({**statement, "predicate": told})).hexdigest()


def _unnamed(model: ModelInfo) -> ModelInfo:
    """Return a model that has a name only where everybody knows it; a path tells of its owner."""
    if model.source in STAYS:
        return model
    return model.model_copy(update={"name": f"fingerprint {model.fingerprint[:12]}", "note": ""})


def _models(issue: Issue) -> list[ModelTold]:
    return [
        ModelTold(
            role=one.role,
            name=one.info.name if one.info and one.info.source in STAYS else "",
            dtype=one.info.dtype if one.info else "",
            parameters=one.info.parameters if one.info else None,
            layers=one.info.layers if one.info else None,
            files=len(one.digests),
            size=one.size,
        )
        for one in issue.checkpoints
    ]


def _facts(record: RunRecord, model: Model, digests: FactDigests) -> FactsTold:
    split, known = record.header.split, record.header.knowledge.get("forget", {})
    forget, unknown = (
        [_fact(model, fact.id, digests(fact), known) for fact in facts]
        for facts in (split.forget, split.unknown)
    )
    counts = {"retain": len(split.retain), "heldout": len(split.heldout)}
    return FactsTold.model_validate({**digests.told(), **counts, "forget": forget, "unknown": unknown})


def _fact(model: Model, id: str, digest: str, known: Mapping[str, Any]) -> FactTold:
    word = model.judgement.facts.get(id)
    judged = word.judged if word else None
    return FactTold(
        digest=digest,
        before=known[id].state if id in known else None,
        verdict=word.verdict if word else None,
        said=word.said if word else None,
        p_erased=judged.erased if judged else None,
        p_hidden=judged.hidden if judged else None,
    )


def _method(method: MethodInfo) -> MethodTold:
    given = "The checkpoint given as the model after; how it was made is not known here."
    return MethodTold(
        label=method.label,
        description=given if method.origin == "given" else method.description,
        parts=method.parts,
        plugins=method.plugins,
        settings=settings_told(method.hyperparameters),
    )


def _errors(told: Audit, judged: Judged) -> ErrorsTold:
    fitted = constants()
    return ErrorsTold(
        promised=LEVEL,
        power=judged.power,
        planted=[PlantedTold(kind=p.kind, found=p.found, of=p.of) for p in told.planted],
        calibration=fitted.version,
        weights={str(name): weight for name, weight in fitted.weights.items()},
        shift=fitted.shift,
        said=told.calibration,
    )


def _attacks(cell: Cell) -> Iterator[Tried]:
    for attack in cell.attacks:
        parts = [f"learning rate {rate(attack.learning_rate)}"] if attack.learning_rate else []
        places = [str(read.step) for read in attack.reads if read.step]
        parts += [f"{attack.axis_label}: {', '.join(places)}"] if places else []
        parts += [f"on {len(attack.pool)} facts that it was not trained on"]
        yield Tried(what=f"Attack {attack.name}.", settings="; ".join(parts))


def settings_told(value: Any, key: str = "") -> Any:
    """Return settings without what may be a text or a path: figures, and words of ours."""
    if isinstance(value, Mapping):
        kept = {str(name): settings_told(part, str(name)) for name, part in value.items()}
        return {name: part for name, part in kept.items() if part is not None and part != {}}
    if isinstance(value, (list, tuple)):
        return [part for part in (settings_told(one, key) for one in value) if part is not None]
    return None if isinstance(value, str) and key not in SETTINGS and value not in WORDS else value


def _plain(sentences: Sequence[str]) -> list[str]:
    return [text.replace("\u00a0", " ") for text in sentences if text]

"""Deletion requests as they come: what is pending is forgotten on the newest model, and judged.

    requests open --model M --retain R     a folder with a ledger (`ssiuu.experiment.keeping`)
    add, add, ...                          over months
    process                                one round: unlearn, audit, sample the old, certify, purge

Every round goes on from the model of the round before. It asks that model again for a sample of what
earlier rounds made go, and for the facts to keep that the very first model knew: what ten rounds do to
both is what nobody sees in one. Where the newest model knows nothing of what is pending, while it knows
facts to keep, the round makes no model: what was asked is recorded, and it is over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ssiuu.analysis.verdict import judgement
from ssiuu.benchmarks.base import Progress
from ssiuu.data.columns import given_columns
from ssiuu.data.fact import Fact, normal
from ssiuu.data.read import read_facts
from ssiuu.errors import InputError, NotKnownError, OutputError, show
from ssiuu.experiment.asking import ask_model
from ssiuu.experiment.certify import Seal, certify_audit
from ssiuu.experiment.keeping import FORGOTTEN, audit_folder, checkpoint, clear, drop, hold, newest
from ssiuu.experiment.unlearn import DEFAULT_METHOD, audit_models, unlearn_model
from ssiuu.models.folder import source_of
from ssiuu.records.files import read_record, write_record
from ssiuu.records.lease import check, told_to
from ssiuu.records.ledger import Ledger, Request, Round
from ssiuu.records.said import logged
from ssiuu.records.schema import ModelKnowledge, RunRecord, Unlearning
from ssiuu.redaction.folder import redact, remove
from ssiuu.redaction.keys import default_place
from ssiuu.report.knowledge import counts

NOT_KNOWN: Final = "not known"  # a fact that the model before knew nothing of, so nothing could go
ASKED: Final = "knowledge.json"  # in the folder of a round that made none: what its model was asked
WORST = ("not removed", "hidden", "undecided", "erased", NOT_KNOWN)  # a request is as its worst fact
KNOWN: Final = "known at first"  # digests of the facts to keep that the very first model knew


@dataclass(frozen=True)
class Processed:
    """What processing came to: the round, None where nothing was pending; the unlearning's record."""

    round: Round | None
    record: Unlearning | None = None

    @property
    def state(self) -> str:
        """The unlearning's word; of a round without one the round's."""
        if self.record is None:
            return "" if self.round is None else self.round.outcome
        return "" if self.record.outcome is None else self.record.outcome.state


def process(ledger: Ledger, progress: Progress = logged, audit: bool = True) -> Processed:
    """Forget what is pending, on the newest model, and judge what comes of it.

    Interrupted, the same call goes on. Where the facts are not forgotten, or at too high a cost, the
    requests stay pending, no model is kept, and nothing is purged.

    Args:
        ledger: Of which model.
        progress: Told of everything.
        audit: Examine the new model too; without, requests have no verdict.

    Raises:
        OutputError: Another process is at it.
        InputError: A model or a file cannot be used any more.
    """
    held = hold(ledger, progress)
    if held is None:
        raise OutputError(f"{ledger.folder}: another process works on this ledger; wait for it.")

    try:
        round_ = _begun(ledger)
        return _Processing(ledger, round_, told_to(progress)).run(audit) if round_ else Processed(None)
    finally:
        held.release()


def _begun(ledger: Ledger) -> Round | None:
    """Return the round that is under way, or a new one of what is pending."""
    for last in ledger.rounds()[-1:]:
        if not last.ended and {*last.requests} <= {one.id for one in ledger.requests()}:
            return last
        if not last.ended:  # a request of it was withdrawn, by a version that let it be
            drop(ledger, last)
    return ledger.begin_round(newest(ledger))


class _Processing:
    """One round, step by step; what is done of it already stands in its folders."""

    def __init__(self, ledger: Ledger, round_: Round, progress: Progress) -> None:
        self.ledger, self.round, self.progress = ledger, round_, progress
        self.out = checkpoint(ledger, round_.id)
        self.sets: list[str] = json.loads(ledger.about("sets"))
        self.requests = [r for r in ledger.requests() if r.id in round_.requests]
        self.rows, self.owners = _rows(self.requests)
        self.asked = ledger.digests(normal(row["question"]) for row in self.rows)
        self.retain = self._retained()

    def run(self, audit: bool) -> Processed:
        """Do what is left of the round."""
        try:
            return self._run(audit)
        except InputError as error:
            _say(error, self._unquoted(error.problems))
            raise

    def _run(self, audit: bool) -> Processed:
        record = self._unlearn()
        check()
        if isinstance(record, ModelKnowledge):
            return self._not_known(record)
        assert record.outcome is not None
        if record.outcome.state != FORGOTTEN:
            self.ledger.drop_round(self.round.id)
            return Processed(self.round, record)
        self._note(outcome=record.outcome.state, kl=record.outcome.kl)
        verdicts = self._audit() if audit else {request.id: "" for request in self.requests}
        self._sample()
        self._keep()
        redact(self.out)
        check()
        remove(self.out.with_name(f"{self.out.name}.unlearn.json"))  # of a try that came to nothing
        sample = int(self.ledger.about("sample"))
        self.ledger.end_round(self.round.id, verdicts, sample, self.asked)
        return Processed(self.ledger.rounds()[-1], record)

    def _retained(self) -> dict[str, Fact]:
        """Return the facts to keep that no request asks for, by digests of their questions.

        Who asks is among those to keep until then, and the file may have been written anew since.
        """
        retain = self.ledger.about("retain")
        columns = given_columns(self.ledger.about("columns") or None)
        facts = [] if retain == "none" else read_facts(retain, "--retain", columns, self.progress)
        digests = self.ledger.digests(normal(fact.question) for fact in facts)
        gone = self.ledger.gone().union(self.asked)
        stay = {key: fact for key, fact in zip(digests, facts, strict=True) if key not in gone}
        if len(stay) < len(facts):
            self.progress(
                f"{len(facts) - len(stay)} of the {len(facts)} facts to keep are of requests, of this "
                "round or an earlier one: left out"
            )
        return stay

    def _note(self, **values: str | float | None) -> None:
        self.ledger.note(self.round.id, **values)

    def _unlearn(self) -> Unlearning | ModelKnowledge:
        """Return the record of the unlearning; what was asked of a model that knows nothing of it."""
        if there := read_record(self.out / "unlearn.json", Unlearning):
            return there
        method = self.ledger.about("method") or DEFAULT_METHOD
        retain = list(self.retain.values()) or "none"
        try:
            return unlearn_model(
                *(self.round.before, self.rows, self.out, retain, method, self.sets, self.progress)
            )
        except InputError as error:  # nothing was written, and it would be the same the next time
            problems = self._unsure(error) if isinstance(error, NotKnownError) else error.problems
            if isinstance(error, NotKnownError) and not problems:
                return error.record  # type: ignore[no-any-return]
            self.ledger.drop_round(self.round.id)
            names = ", ".join(request.reference for request in self.requests)
            pending = f"still pending: {names}; ssiuu request withdraw takes one out."
            _say(error, [*problems, f"{self.ledger.folder}: {pending}"])
            raise

    def _unsure(self, error: NotKnownError) -> list[str]:
        """Return why it is not sure that the model does not know the facts; nothing where it is.

        Who reads it may not be who may read the facts: no text of one stands in it.
        """
        record: ModelKnowledge = error.record
        left = sum(known.state != "unknown" for known in record.knowledge.values())
        if not left and error.kept:
            return []
        anew = "and add the request there"
        if left:
            why = f"{left} of them cannot be called unknown; ssiuu ask shows which"
            do = f"If the form is the wrong one, begin a ledger with another --set prompt=..., {anew}."
        elif not self.retain:
            why = "there are no facts to keep, so nothing shows that it is asked rightly"
            do = f"Begin a ledger with --retain FILE, of facts that it does know, {anew}."
        else:
            why = "it knows none of the facts to keep either, so nothing shows that it is asked rightly"
            do = f"Begin a ledger with another --set prompt=..., or with facts that it knows, {anew}."
        return [
            f"The model {self.round.before} knows none of the {len(record.knowledge)} facts "
            f"({counts(record.knowledge)}), asked as prompt={record.form}, and {why}. {do}"
        ]

    def _unquoted(self, problems: Sequence[str]) -> list[str]:
        """Return sentences with a name in place of every text of a fact that they quote."""
        placed = [
            (f"{number} of {request.reference!r}", row)
            for request in self.requests
            for number, row in enumerate(request.rows, 1)
        ]
        placed += [
            (f"of {fact.id!r}", fact.model_dump(exclude={"id"})) for fact in self.retain.values()
        ]
        quoted = {
            quote: f"[{key} {place}]"
            for place, row in reversed(placed)
            for key, value in row.items()
            for text in (value if isinstance(value, list) else [value])
            if isinstance(text, str) and text
            for quote in (repr(text), show(text))
        }
        if not quoted:
            return [*problems]
        either = re.compile("|".join(map(re.escape, sorted(quoted, key=len, reverse=True))))
        return [either.sub(lambda found: quoted[found[0]], problem) for problem in problems]

    def _not_known(self, asked: ModelKnowledge) -> Processed:
        """End a round of which the model knows nothing: it stays the newest one, and what it was asked
        is recorded without a text. No sample is kept, for nothing was made go.
        """
        folder = audit_folder(self.ledger, self.round.id)
        clear(self.ledger, self.round.id)  # what is there is of a try that came to nothing
        write_record(folder / ASKED, asked, private=True)
        redact(folder / ASKED, default_place(folder))
        self._note(outcome=NOT_KNOWN, verdict=NOT_KNOWN)
        words = {request.id: NOT_KNOWN for request in self.requests}
        self.ledger.end_round(self.round.id, words, 0, self.asked)
        return Processed(self.ledger.rounds()[-1])

    def _audit(self) -> dict[int, str]:
        """Audit the new model; return each request's verdict, that of its worst fact."""
        folder = audit_folder(self.ledger, self.round.id)
        if self.round.verdict:  # audited, redacted, and only what follows was left
            return dict(json.loads(self.ledger.about(f"verdicts {self.round.id}")))
        judged = source_of(self.out)
        record = audit_models(
            *(self.round.before, self.out, self.rows, folder),
            *(list(self.retain.values()) or None, self.sets, "", self.progress),
        )
        words, whole = self._words(record)
        seal = Seal(references=tuple(request.reference for request in self.requests))
        certify_audit(record, self.round.before, self.out, folder, None, seal, self.progress, judged)
        self.ledger.tell(f"verdicts {self.round.id}", json.dumps(list(words.items())))
        redact(folder)
        self._note(verdict=whole)
        return words

    def _words(self, record: RunRecord) -> tuple[dict[int, str], str]:
        cell = next(cell for cell in record.cells if cell.method.label == "after")
        judged = judgement(record, cell)
        facts: dict[str, str] = {
            fact: "undecided" if known.state == "known" else NOT_KNOWN
            for fact, known in record.header.knowledge.get("forget", {}).items()
        }
        facts |= {fact: found.verdict for fact, found in judged.facts.items()}
        words: dict[int, str] = {
            request.id: min(
                (
                    facts.get(fact, "undecided")
                    for fact, owners in self.owners.items()
                    if request.id in owners
                ),
                key=WORST.index,
            )
            for request in self.requests
        }
        return words, judged.verdict

    def _sample(self) -> None:
        """Ask the new model for what earlier rounds made go."""
        rows, _ = _rows([r for r in self.ledger.requests() if r.round is not None and r.rows])
        if rows:
            known = ask_model(self.out, rows, sets=self.sets, progress=self.progress).knowledge
            back = sum(one.state == "known" for one in known.values())
            self._note(sampled=len(rows), back=back)

    def _keep(self) -> None:
        """Ask the new model for the facts to keep that the very first one knew."""
        if not self.retain:
            return
        if not self.ledger.about(KNOWN):
            self.ledger.tell(KNOWN, json.dumps(sorted(self._known(self.ledger.about("model")))))
        first = self.retain.keys() & set(json.loads(self.ledger.about(KNOWN)))
        self._note(kept=len(first & self._known(self.out)), kept_of=len(first))

    def _known(self, model: str | Path) -> set[str]:
        """Return which of the facts to keep a model knows, by digests of their questions."""
        facts = list(self.retain.values())
        asked = ask_model(model, facts, sets=self.sets, progress=self.progress).knowledge
        return {key for key, fact in self.retain.items() if asked[fact.id].state == "known"}


def _say(error: InputError, problems: list[str]) -> None:
    """Have an error say something else."""
    error.problems, error.args = problems, ("\n".join(problems),)


def _rows(requests: Sequence[Request]) -> tuple[list[dict[str, Any]], dict[str, set[int]]]:
    """Return the facts of some requests, each once, and by their ids the requests that ask for them."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    owners: dict[str, set[int]] = {}
    for request in requests:
        for number, row in enumerate(request.rows):
            asked = (normal(row["question"]), normal(row["answer"]))
            row = rows.setdefault(asked, {**row, "id": f"{request.id}.{number}"})
            owners.setdefault(row["id"], set()).add(request.id)
    return list(rows.values()), owners

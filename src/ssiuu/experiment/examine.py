"""The examination that a verdict rests on: facts in lineups, along attackers that do not hold them.

    examiner = Examiner(session)
    planted = examiner.plant()     # what this examination can see, on facts hidden on purpose
    found = examiner.examine()     # of the model as it is now, whose weights are put back

A fact is asked among alternatives of its type (`ssiuu.evaluation.lineup`): before, after, by a linear
read-out of the inner states (`ssiuu.diagnosis.readout`), and along attackers. *related* trains on the
other facts of the request, their answers with them, beside facts to keep, so that what the model still
knows is not lost on the way; *unrelated*, where it is wanted, on instructions. The facts are parted in
two by entity (by fact within one entity); the attacker holds one part and the other is read, then the
other way round. A single fact has no related attacker.

The same is done with planted controls: on a copy of the model as it was, facts to keep that it knows
are hidden on purpose. What of them the examination finds is its power here.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssiuu.analysis.evidence import FEWEST
from ssiuu.benchmarks import texts, worldfacts
from ssiuu.benchmarks.base import Progress
from ssiuu.benchmarks.screening import as_text
from ssiuu.data.fact import normal
from ssiuu.diagnosis.readout import TOKENS, Readout, Target, readable
from ssiuu.errors import DataError, DivergedError
from ssiuu.evaluation.lineup import Lineup, lineups
from ssiuu.evaluation.margins import Margins, Reader
from ssiuu.evaluation.score import score_facts
from ssiuu.evaluation.tree import run_shared
from ssiuu.experiment.recipe import ExamineConfig
from ssiuu.experiment.session import Session
from ssiuu.experiment.unfinished import Kept
from ssiuu.hiding import HIDING
from ssiuu.hiding.base import Subject
from ssiuu.likelihood import Example, encode
from ssiuu.models.load import restore, snapshot
from ssiuu.records.said import led
from ssiuu.records.schema import Attacker, Examination, FactText, Place, PlaceReading, Trace
from ssiuu.training.batches import draw_rows, step_batches
from ssiuu.training.interrupt import Interrupted
from ssiuu.training.loop import Loop, rows_of
from ssiuu.training.step import Step, StepOutcome

PLANTED = ("last-map", "middle-map")  # the ways of hiding of planted controls, by turns
FURTHER = ("attention", "refusal")  # and those of a thorough examination beside them
HELD = 16  # facts that hiding keeps as they were: more would only take time
HIDING_STEPS = 60  # of training for each way of hiding, but in a thorough examination
LEAST_ANSWERS = 4  # in a lineup, the right one included: of fewer there is no spread
FLOOR = 1e-3  # nats: alternatives that differ by less are no scale
# Answers, controls and phrasings of a lineup, by the number of facts: more facts make up for fewer.
SIZES = ((6, (25, 6, 3)), (24, (25, 3, 2)), (1 << 30, (17, 3, 2)))


@dataclass(frozen=True)
class Judged:
    """Facts that are judged together: their lineups, and what the model made of them before."""

    facts: Sequence[FactText]
    lineups: Sequence[Lineup]
    before: Margins

    @cached_property
    def parts(self) -> list[tuple[list[int], list[int]]]:
        """Which facts the related attacker holds, and which are read then, by place; none for one."""
        first, second = halves(self.facts)
        return [(first, second), (second, first)] if first and second else []


def lineup_size(facts: int) -> tuple[int, int, int]:
    """Return how many answers, controls and phrasings the lineup of each of so many facts has."""
    return next(size for most, size in SIZES if facts <= most)


def halves(facts: Sequence[FactText]) -> tuple[list[int], list[int]]:
    """Return the places of every other entity's facts and of the rest; by answer within one entity.

    Rows of one entity with the same answer stay together: an attacker that holds one of them would be
    told what it is judged on.
    """
    entities = [fact.entity or fact.id for fact in facts]
    if len(set(entities)) == 1:
        answers = [normal(fact.answer) for fact in facts]
        first_id: dict[str, str] = {}
        for id, answer in sorted(zip((fact.id for fact in facts), answers, strict=True)):
            first_id.setdefault(answer, id)
        entities = [first_id[answer] for answer in answers]
    order = sorted(set(entities))
    random.Random("examine").shuffle(order)
    first = set(order[::2])
    return (
        [i for i, entity in enumerate(entities) if entity in first],
        [i for i, entity in enumerate(entities) if entity not in first],
    )


class Examiner:
    """What the examinations of one session share: lineups, and readings of the model as it was."""

    def __init__(
        self, session: Session, config: ExamineConfig, progress: Progress = lambda _: None
    ) -> None:
        self.session, self.config, self.progress = session, config, progress
        self.rates = config.rates(sum(p.numel() for p in session.model.parameters()))
        self._readers: dict[tuple[int, ...], Reader] = {}

    @cached_property
    def forget(self) -> Judged:
        """The facts to forget."""
        return self._judged(self.session.split.forget)

    def examine(self, kept: Path | None = None, key: str = "") -> Examination:
        """Examine the facts to forget in the model as it is now, whose weights are put back.

        Args:
            kept: Where to keep what is read until all is, so that an interrupted examination goes on;
                the caller removes it.
            key: Of all that decides it.
        """
        begin, judged = time.perf_counter(), self.forget
        found = self._along(judged, kept, key)
        return found.model_copy(update={"seconds": round(time.perf_counter() - begin, 2)})

    def plant(self, kept: Path | None = None, key: str = "") -> Examination:
        """Hide facts to keep in the model as it was, and examine those that could be hidden.

        Where fewer than `FEWEST` can be, nothing is examined, and a note says so. The weights of the
        original are put back. Interrupted, the facts are hidden again. Arguments as of `examine`.
        """
        begin, session = time.perf_counter(), self.session
        facts, _ = self.controls
        hidden, left = self._hide()
        chosen = [fact for fact in facts if fact.id in hidden]
        notes = []
        if left:
            notes.append(f"{len(left)} of {len(facts)} facts could not be hidden on purpose.")
            self.progress(f"planted controls: {notes[0]}")
        if len(chosen) < FEWEST:
            few = f"{len(chosen)} facts that the model knows could be hidden on purpose"
            notes.append(
                f"{few}, {FEWEST} are needed: nothing is known of what this examination can see."
            )
            examined = Examination(places=[], facts={}, notes=[], seconds=0.0)
        else:
            examined = self._along(self._judged(chosen), kept, key)
        session.original.restore()
        told = {"hidden": hidden, "left": left, "notes": [*notes, *examined.notes]}
        return examined.model_copy(update={**told, "seconds": round(time.perf_counter() - begin, 2)})

    def _hide(self) -> tuple[dict[str, str], dict[str, str]]:
        """Hide the controls in the original; return how each was, and why others could not be."""
        session, (facts, keep) = self.session, self.controls
        session.original.restore()
        subject = Subject.of(session, session.precision, session.split.seed)
        hidden: dict[str, str] = {}
        left: dict[str, str] = {}
        kinds = (*PLANTED, *FURTHER) if self.config.thorough else PLANTED
        most = None if self.config.thorough else HIDING_STEPS
        for turn, kind in enumerate(kinds):
            if mine := facts[turn :: len(kinds)]:
                self.progress(f"planted controls: hiding {len(mine)} facts ({kind})")
                reached = HIDING[kind]().hide(
                    subject,
                    mine,
                    keep[:HELD],
                    lambda text: self.progress(led("planted controls: ", text)),
                    most,
                )
                hidden |= dict.fromkeys(reached.facts, kind)
                left |= reached.left
        # What one way has hidden the next one may bring back.
        for fact in self._said([fact for fact in facts if fact.id in hidden]):
            left[fact.id] = f"it is said again once others are hidden too ({hidden.pop(fact.id)})"
        return hidden, left

    @property
    def plantable(self) -> list[str]:
        """Ids of the facts that may be hidden on purpose."""
        return [fact.id for fact in (*self.session.split.retain, *self.famous)]

    @cached_property
    def famous(self) -> list[FactText]:
        """Well-known facts, which lend answers and controls where the others cannot."""
        options, seed = self.session.recipe.evaluate.options, self.session.split.seed
        return [as_text(fact, options, seed) for fact in worldfacts.load()[0]]

    @cached_property
    def controls(self) -> tuple[list[FactText], list[FactText]]:
        """Facts that the original knows, to hide, and others to keep; well-known ones where there are
        too few. The weights of now are put back.
        """
        split, count = self.session.split, self.config.planted
        with self.session.original.in_place():
            sure = self._known(split.retain)
            if len(sure) < count:
                taken = {fact.question for fact in (*split.forget, *split.retain)}
                lent = [fact for fact in self.famous if fact.question not in taken]
                random.Random(split.seed).shuffle(lent)
                sure += self._known(lent[: 8 * count])
        chosen = sure[:count]
        ids = {fact.id for fact in chosen}
        return chosen, [fact for fact in sure if fact.id not in ids]

    def _known(self, facts: Sequence[FactText]) -> list[FactText]:
        """Return the facts that the model answers; an order of their own."""
        order, found = list(facts), list[FactText]()
        random.Random(f"planted:{self.session.split.seed}").shuffle(order)
        order, enough = order[: 12 * self.config.planted], self.config.planted + HELD
        for start in range(0, len(order), enough):
            found += self._said(order[start : start + enough])
            if len(found) >= enough:  # to hide and to keep: more are never used
                break
        return found

    def _said(self, facts: Sequence[FactText]) -> list[FactText]:
        """Return the facts whose answers the model says freely."""
        scores = score_facts(self.session.model, self.session.prompt, facts, paraphrases=False)
        return [fact for fact in facts if scores[fact.id].free_correct]

    def _judged(self, facts: Sequence[FactText]) -> Judged:
        """Make the lineups of facts and read them in the original; the weights of now are put back."""
        session, split = self.session, self.session.split
        others = [*split.forget, *split.retain]
        with session.original.in_place():
            made = lineups(facts, others, session.model, session.prompt, split.seed, self.famous)
            made = [lineup.within(*lineup_size(len(facts))) for lineup in made]
            return Judged(facts, made, self._read(made))

    def _read(self, made: Sequence[Lineup]) -> Margins:
        """Read lineups by the model as it is."""
        return self._reader(made).read()

    def _reader(self, made: Sequence[Lineup]) -> Reader:
        """Return what reads lineups, which are laid out when they are read first."""
        session, these = self.session, tuple(map(id, made))  # a reader keeps its lineups
        if these not in self._readers:
            self._readers[these] = Reader(session.model, session.prompt, made, session.context)
        return self._readers[these]

    def _along(self, judged: Judged, file: Path | None, key: str) -> Examination:
        """Read facts in the model as it is, and along every attacker; its weights are put back."""
        session = self.session
        here, kept = snapshot(session.model), Kept(file, key, session.model)
        readings = list(kept.of("nobody") or kept.add("nobody", self._unattacked(judged)))
        try:
            for rate in self.rates:
                for seed in self.config.seeds:
                    for attacker, held, left in self._attackers(judged):
                        name = f"{attacker} {rate:g} seed {seed} holding {_listed(held)}"
                        if (found := kept.of(name)) is None:
                            rows = self._rows(attacker, judged, held, kept.notes)
                            if not rows:
                                continue
                            found = self._attack(attacker, rate, seed, rows, judged, left, kept.notes)
                            restore(session.model, here)
                            kept.add(name, found)
                        readings += found
        except Interrupted:
            restore(session.model, here)
            kept.save()
            raise
        return _record(judged, readings, kept.notes)

    def _unattacked(self, judged: Judged) -> list[PlaceReading]:
        """Return what was read of all facts before, and what is in the model as it is."""
        every = list(range(len(judged.facts)))
        places = [Place(name="after"), Place(name="read-out", attacker="read-out")]
        found = zip(places, self._here(judged), strict=False)
        return [_reading(*each, every) for each in [(Place(name="before"), judged.before), *found]]

    def _attackers(self, judged: Judged) -> list[tuple[Attacker, list[int], list[int]]]:
        """Return who attacks, and the places of the facts that each holds and that are read then."""
        every: list[int] = list(range(len(judged.facts)))
        found: list[tuple[Attacker, list[int], list[int]]] = []
        if self.config.unrelated:
            found.append(("unrelated", [], every))
        return found + [("related", held, left) for held, left in judged.parts]

    @cached_property
    def rows(self) -> list[list[int]]:
        """Rows of other text that the read-out is fitted on; none where the model cannot be read so."""
        session = self.session
        if why := readable(session.model):
            session.notes.append(f"No read-out: {why}")
            return []
        planted = {fact.id for fact in self.controls[0]}
        kept = [f for f in (*session.split.retain, *session.split.heldout) if f.id not in planted]
        asked = [
            f.model_copy(update={"question": text})
            for f in kept
            for text in (f.question, *f.paraphrases)
        ]
        rows = [[*e.prompt, *e.answer] for e in (*session.examples(asked), *session.benign())]
        rows += [session.prompt.sentence(row.text)[: session.context] for row in texts.anchor()]
        random.Random("read-out").shuffle(rows)
        ends = accumulate(map(len, rows))
        return [row for row, end in zip(rows, ends, strict=True) if end <= TOKENS]

    @cached_property
    def target(self) -> Target:
        """The original's states on these rows, and its head; the weights of now are put back."""
        rows = self.rows
        with self.session.original.in_place():
            return Target.of(self.session.model, rows)

    def _here(self, judged: Judged) -> list[Margins]:
        """Read facts in the model as it is, and in the same pass by a linear read-out into the
        original's last states, where it can be read so.
        """
        model, reader = self.session.model, self._reader(judged.lineups)
        if not self.rows:
            return [reader.read()]
        with Readout.fit(model, self.rows, self.target).beside(model):
            return reader.sides()

    def _rows(
        self, attacker: Attacker, judged: Judged, held: Sequence[int], notes: list[str]
    ) -> list[Example]:
        """Return what an attacker trains on; what is left out of it is noted."""
        session = self.session
        if attacker == "unrelated":
            if not (rows := session.benign()):
                note = "No instruction fits the model: no unrelated attacker trains on any."
                notes += [note] if note not in notes else []
            return rows
        told = [judged.lineups[place] for place in held]
        rows = [row for lineup in told for row in self._told(lineup)]
        if missing := sum(len(lineup.phrasings) for lineup in told) - len(rows):
            note = f"{missing} made phrasings are too long for the model: no attacker trains on them."
            notes += [note] if note not in notes else []
        ids = {fact.id for fact in judged.facts}
        kept = [fact for fact in session.split.retain if fact.id not in ids]
        random.Random(f"kept:{session.split.seed}").shuffle(kept)
        return [*rows, *session.examples(kept[: len(rows)])]

    def _told(self, lineup: Lineup) -> list[Example]:
        """Return a fact in all its phrasings that fit the context as rows that are trained on."""
        session, fact, rows = self.session, lineup.fact, []
        for question in lineup.phrasings:
            try:
                rows.append(encode(session.prompt, fact.id, question, fact.answer, session.context))
            except DataError:
                continue
        return rows

    def _attack(
        self,
        attacker: Attacker,
        rate: float,
        seed: int,
        rows: Sequence[Example],
        judged: Judged,
        left: Sequence[int],
        notes: list[str],
    ) -> list[PlaceReading]:
        """Train the model in place and read the facts along the way."""
        session, points = self.session, self.config.steps
        device = next(session.model.parameters()).device
        found: list[PlaceReading] = []

        def batches(number: int) -> list[Any]:
            drawn = [rows[i] for i in draw_rows(len(rows), self.config.batch_size, number, seed)]
            return [[], run_shared(session.model, step_batches(drawn, None, session.pad, device))]

        def after(number: int, outcome: StepOutcome | None) -> bool:
            if number in points:
                session.model.eval()
                name = f"{attacker} {rate:g}" + (f" seed {seed}" if seed else "") + f", step {number}"
                self.progress(f"examining: {name}")
                place = Place(name=name, attacker=attacker, learning_rate=rate, step=number)
                with step.shards.gathered():
                    margins = self._read([judged.lineups[i] for i in left])
                found.append(_reading(place, margins, left))
            return False

        step = Step(session.model, None, rate, session.precision)
        try:
            Loop(step, points[-1], batches, after, rows_of(rows)).run()
        except DivergedError:  # which names the rows, and a note is kept where no fact may be named
            notes.append(f"{attacker} at {rate:g}: training diverged, and nothing is read after that.")
        step.close()
        session.model.eval()
        return found


def _reading(place: Place, found: Margins, facts: Sequence[int]) -> PlaceReading:
    """Return what was read of some facts at one place, as it is recorded."""
    levels = [_rounded(level) for level in found.token().nanmean(1).tolist()]
    return PlaceReading(place=place, facts=list(facts), contrast=contrasted(found), margin=levels)


def _listed(facts: Sequence[int]) -> str:
    return ",".join(map(str, facts)) or "none"


def _record(judged: Judged, readings: Sequence[PlaceReading], notes: list[str]) -> Examination:
    """Return the record: the readings of one place, in whatever part of the facts, side by side."""
    places = list({reading.place.name: reading.place for reading in readings}.values())
    columns = {place.name: n for n, place in enumerate(places)}
    contrasts: list[list[list[float] | None]] = [[None] * len(places) for _ in judged.facts]
    margins: list[list[float | None]] = [[None] * len(places) for _ in judged.facts]
    for reading in readings:
        column = columns[reading.place.name]
        for row, fact in enumerate(reading.facts):
            contrasts[fact][column] = reading.contrast[row]
            margins[fact][column] = reading.margin[row]
    traces = {
        fact.id: Trace(contrast=contrasts[n], margin=margins[n], lacks=judged.lineups[n].lacks)
        for n, fact in enumerate(judged.facts)
    }
    return Examination(places=places, facts=traces, notes=notes, seconds=0.0)


def contrasted(found: Margins) -> list[list[float] | None]:
    """Return for each fact the contrast of all its answers, the right one first; None: there is none.

    x is the lift of an answer, a mean over phrasings: log p after the question less its mean after the
    same question about something else (without such: log p a token). z_k = (x_k - m) / s, with mean and
    standard deviation of the *other* alternatives, so that right and wrong answers are treated alike.
    """
    lift = found.lift()
    plain = found.each[:, : found.phrasings]
    lift = torch.where(lift.isnan().all(-1, keepdim=True), plain, lift)
    return [_standard(row) for row in lift.nanmean(1)]


def _standard(x: Tensor) -> list[float] | None:
    """Return every answer against the other alternatives; answers that were not read are left out."""
    right, x = bool(x[0].isfinite()), x[x.isfinite()]
    if not right or len(x) < LEAST_ANSWERS:
        return None
    values = []
    for k in range(len(x)):
        others = torch.cat([x[1 : max(k, 1)], x[k + 1 :]])
        values.append(round(float((x[k] - others.mean()) / others.std().clamp(min=FLOOR)), 3))
    return values


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None

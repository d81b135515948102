"""A lineup for every fact: its answer among others of its type, and the same asked of something else.

    made = lineups(forget, others=retain, model=model, prompt=prompt)
    made[0].answers  # the right one, then 24 that are wrong
    made[0].controls  # the same question about somebody else

A model that never learned a fact cannot tell its answer from the others: they are exchangeable, and
the rank of the right one is uniform. So they must be as plausible as it. They are, in this order: the
fact's own options; answers of facts that ask the same of something else; words of a list that holds
the answer; numbers of the same pattern; what the model says about an entity that does not exist; names
made up; and, where all that does not suffice, answers that only look alike.

What the model says (see `ssiuu.evaluation.said`) is half at most, as long as there are others.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from ssiuu.causal import CausalLM
from ssiuu.data.fact import normal
from ssiuu.evaluation import invented
from ssiuu.evaluation.alternatives import alternatives, answer_kind
from ssiuu.evaluation.draft import Draft, Origin, fits
from ssiuu.evaluation.said import sampled
from ssiuu.evaluation.subject import MARKS, about, subject
from ssiuu.likelihood import Prompt
from ssiuu.records.schema import FactText

__all__ = ["CONTROLS", "LEAST", "MOST", "PHRASINGS", "Lineup", "Origin", "lineups"]

MOST = 24  # alternatives of a fact
LEAST = 15  # with fewer a rank among them says little at the level of 5 %
CONTROLS = 6  # questions about something else
PHRASINGS = 3  # of a question, the base one included
SAMPLED = 0.5  # largest share of what the model itself says
BETTER = 4  # ways that are as good as any: the fact's options, and what is surely of its type
SOME = 100  # facts looked through for answers that only look alike
SPARE = 4  # times as many are made up as are wanted, so that some have as many tokens


@dataclass(frozen=True)
class Lineup:
    """A fact's answer among alternatives, the ways to ask, and the same asked of something else.

    Attributes:
        fact: The fact.
        answers: The right one first, then up to `MOST` that are wrong, no two alike.
        origins: Where each of the wrong ones comes from.
        phrasings: The base question, the fact's paraphrases, and made ones where it has fewer than two.
        controls: Questions about something else; none where nothing of the kind can be asked.
        theirs: For each control the places in `answers` of what is right there, as far as known.
        subject: What the question is about, where that was found.
        names: What each control is about; empty where there is no subject.
    """

    fact: FactText
    answers: tuple[str, ...]
    origins: tuple[Origin, ...]
    phrasings: tuple[str, ...]
    controls: tuple[str, ...] = ()
    theirs: tuple[tuple[int, ...], ...] = ()
    subject: str | None = None
    names: tuple[str, ...] = ()

    def offered(self, control: int) -> tuple[str, ...]:
        """Return the answers as they are offered to a control: about what that is about.

        A sentence that names whom it is about would be unlikely there for the name alone.
        """
        if not self.subject or not self.names or self.subject not in self.answers[0]:
            return self.answers
        return tuple(about(answer, self.subject, self.names[control]) for answer in self.answers)

    @property
    def lacks(self) -> str:
        """What could not be had, in words; empty where all could."""
        found, wanted = len(self.answers) - 1, []
        if found < LEAST:
            wanted.append(f"{found} alternatives of its type were found, {LEAST} are wanted")
        if not self.controls:
            wanted.append("nothing was found to ask the same of")
        return "; ".join(wanted)

    def within(
        self, answers: int = 1 + MOST, controls: int = CONTROLS, phrasings: int = PHRASINGS
    ) -> Lineup:
        """Return it with no more than so many answers, controls and phrasings: the first ones.

        Reading takes as long as their product. The answers are in order of where they come from.
        """
        return replace(
            self,
            answers=self.answers[:answers],
            origins=self.origins[: answers - 1],
            phrasings=self.phrasings[:phrasings],
            controls=self.controls[:controls],
            theirs=tuple(tuple(k for k in places if k < answers) for places in self.theirs[:controls]),
            names=self.names[:controls],
        )


def lineups(
    facts: Sequence[FactText],
    others: Sequence[FactText] = (),
    model: CausalLM | None = None,
    prompt: Prompt | None = None,
    seed: int = 0,
    library: Sequence[FactText] = (),
) -> list[Lineup]:
    """Return a lineup for every fact, in the order of the facts.

    With the seed a fact's id decides what is drawn for it; the order of facts and others does not.

    Args:
        facts: To be judged.
        others: Further facts to borrow from: what is kept, say; `facts` do so anyhow.
        model: In evaluation mode, as it was before anything was forgotten; it is asked where answers
            are lacking. None: it is not asked.
        prompt: How questions become tokens; it counts those of answers. Without it letters are counted.
        seed: Of all draws.
        library: Well-known facts, which lend where the others cannot, and all answers of a relation
            that has the fact's.
    """
    shelf = _Shelf([*others, *facts], library)
    drafts = [_draft(fact, shelf, seed) for fact in facts]
    if model is not None and prompt is not None:
        said = sampled(model, prompt, [d for d in drafts if _short(d)], seed)
        drafts = [replace(d, ways=(*d.ways, ("sampled", said.get(d.fact.id, [])))) for d in drafts]
    return [_lineup(draft, shelf, prompt, seed) for draft in drafts]


class _Shelf:
    """Facts that lend, as they are looked for; answers and questions are keys as `normal` has them."""

    def __init__(self, facts: Sequence[FactText], library: Sequence[FactText]) -> None:
        facts, library = (
            sorted(rows, key=lambda f: (f.question, f.answer, f.id)) for rows in (facts, library)
        )
        self.facts, self.famous = facts, library
        self.related: dict[str | None, list[FactText]] = defaultdict(list)
        self.known: dict[str, set[str]] = defaultdict(set)  # by question
        self.held: dict[tuple[str, str], set[str]] = defaultdict(set)  # by relation and entity
        self.alike: dict[str, list[FactText]] = defaultdict(list)  # by the kind of answer
        self.lists: dict[str, set[str]] = defaultdict(set)  # the library's relations with an answer
        for fact in facts:
            self.related[fact.relation].append(fact)
            self.alike[answer_kind(fact.answer)].append(fact)
        for fact in (*facts, *library):
            self.known[normal(fact.question)].add(normal(fact.answer))
            if fact.relation and fact.entity:
                self.held[fact.relation, fact.entity].add(normal(fact.answer))
        for fact in library:
            if fact.relation:
                self.lists[normal(fact.answer)].add(fact.relation)

    def right(self, fact: FactText) -> set[str]:
        """Return every answer that is right for the fact, as far as known."""
        found = {normal(fact.answer)} | self.known[normal(fact.question)]
        if fact.relation and fact.entity:
            found |= self.held[fact.relation, fact.entity]
        return found | ({normal(fact.paraphrased_answer)} if fact.paraphrased_answer else set())

    def lenders(self, fact: FactText, seed: int) -> tuple[FactText, ...]:
        """Return facts that ask the same of something else, those of the same relation first."""
        related = self.related[fact.relation] if fact.relation else []
        found = alternatives(fact, related, seed).lenders
        for more in (self.facts, self.famous):
            if len({normal(o.answer) for o in found}) < MOST:
                held = {id(o) for o in found}
                found += tuple(o for o in alternatives(fact, more, seed).lenders if id(o) not in held)
        return found

    def typed(self, fact: FactText) -> list[str]:
        """Return the answers of the library's relations that have this one."""
        relations = self.lists[normal(fact.answer)]
        return sorted({o.answer for o in self.famous if o.relation in relations})


def _stream(fact: FactText, seed: int, use: str) -> random.Random:
    return random.Random(f"{seed}:{fact.id}:{use}")


def _draft(fact: FactText, shelf: _Shelf, seed: int) -> Draft:
    lenders = shelf.lenders(fact, seed)
    named = subject(fact.question, fact.entity, sorted({o.question for o in lenders}))
    draft = Draft(
        fact=fact,
        subject=named,
        written=invented.script(fact.answer, fact.question),
        lenders=lenders,
        right=frozenset(shelf.right(fact)),
        strangers=tuple(_strangers(named, fact, seed)),
    )
    return replace(draft, ways=tuple(_ways(draft, shelf, seed)))


def _strangers(named: str | None, fact: FactText, seed: int) -> list[str]:
    """Return invented entities of the form of the named one."""
    if named is None:
        return []
    rng, written = _stream(fact, seed, "entities"), invented.script(named, fact.question)
    if any(c.isdigit() for c in named):
        return invented.numbers(named, rng, CONTROLS + 1)
    made = invented.sounding(named, written, rng, CONTROLS + 1)
    if len(made) <= CONTROLS:  # no name, or a script of which no sounds are known
        made = invented.names(named, "person", written, rng, CONTROLS + 1)
    return made or invented.names(named.title(), "person", written, rng, CONTROLS + 1)


# --- Wrong answers ----------------------------------------------------------------------------


def _ways(draft: Draft, shelf: _Shelf, seed: int) -> Iterator[tuple[Origin, list[str]]]:
    """Yield wrong answers, the most plausible first; what the model says is not among them."""
    fact, rng = draft.fact, _stream(draft.fact, seed, "answers")
    yield "options", [*fact.options, *fact.perturbed]
    related = [o for o in draft.lenders if fact.relation and o.relation == fact.relation]
    others = [o for o in draft.lenders if not fact.relation or o.relation != fact.relation]
    yield "same relation", [_ours(o, draft) for o in related]
    yield "same question", [_ours(o, draft) for o in others if _name(o, draft)]
    topic = invented.topic(fact.question, fact.answer, draft.written)
    yield "same type", [*invented.listed(topic, draft.written), *shelf.typed(fact)]
    yield "same question", [o.answer for o in others if not _name(o, draft)]
    count = MOST * SPARE
    if draft.told:
        yield "made up", invented.sentences(fact.answer, fact.question, draft.written, rng, count)
    else:
        yield "numbers nearby", invented.numbers(fact.answer, rng, count, draft.subject)
        yield "made up", _named(draft, topic, rng, count) or invented.signs(fact.answer, rng, count)
    yield "same kind", sorted(set(_elsewhere(draft, shelf)))


def _ours(other: FactText, draft: Draft) -> str:
    """Return another fact's answer, about our entity where it names its own."""
    theirs = _name(other, draft)
    if draft.subject and theirs and theirs in other.answer:
        return about(other.answer, theirs, draft.subject)
    return other.answer


def _elsewhere(draft: Draft, shelf: _Shelf) -> Iterator[str]:
    """Yield answers of the same kind to other questions; what is said of our own entity is true."""
    fact, ours = draft.fact, normal(draft.subject or "")
    for other in _spread(shelf.alike[draft.kind], fact)[:SOME]:
        same = fact.entity and fact.entity == other.entity
        if same or (ours and (ours in normal(other.question) or ours in normal(other.answer))):
            continue
        named = subject(other.question, other.entity)
        swap = draft.subject and named and draft.subject in fact.answer
        yield (
            about(other.answer, named, draft.subject)
            if swap and draft.subject and named
            else other.answer
        )


def _named(draft: Draft, topic: str | None, rng: random.Random, count: int) -> list[str]:
    if any(c.isdigit() for c in draft.fact.answer) and " " not in draft.fact.answer:
        return []
    answer, half = draft.fact.answer, count // 2
    if topic not in (None, *invented.NAMED):
        return []
    made = invented.names(answer, topic, draft.written, rng, half)
    made += invented.sounding(answer, draft.written, rng, half) if made else []
    return [re.sub(r"\d+", lambda d: invented.numbers(d[0], rng, 1)[0], name) for name in made]


def _short(draft: Draft) -> bool:
    """Whether answers of the better kinds do not suffice, so that the model is asked."""
    better = {
        normal(a) for origin, found in draft.ways[:BETTER] for a in found if fits(a, origin, draft)
    }
    pattern = [found for origin, found in draft.ways if origin == "numbers nearby"]
    return len(better) < MOST and not any(len(found) >= MOST for found in pattern)


def _lineup(draft: Draft, shelf: _Shelf, prompt: Prompt | None, seed: int) -> Lineup:
    chosen = _chosen(draft, prompt, _stream(draft.fact, seed, "choice"))
    controls = _controls(draft, shelf)
    made = Lineup(
        fact=draft.fact,
        answers=(draft.fact.answer, *chosen),
        origins=tuple(chosen.values()),
        phrasings=tuple(_phrasings(draft)),
        controls=tuple(control for control, _ in controls),
        subject=draft.subject,
        names=tuple(name for _, name in controls) if draft.subject else (),
    )
    theirs = [_places(made, c, shelf) for c in range(len(controls))]
    kept = [c for c, places in enumerate(theirs) if 0 not in places]  # ours is right there: no control
    return replace(
        made,
        controls=tuple(made.controls[c] for c in kept),
        theirs=tuple(theirs[c] for c in kept),
        names=tuple(made.names[c] for c in kept) if made.names else (),
    )


def _places(made: Lineup, control: int, shelf: _Shelf) -> tuple[int, ...]:
    """Return which of the answers are right for a control, as they are offered to it."""
    known = shelf.known.get(normal(made.controls[control]), set())
    return tuple(k for k, answer in enumerate(made.offered(control)) if normal(answer) in known)


def _chosen(draft: Draft, prompt: Prompt | None, rng: random.Random) -> dict[str, Origin]:
    """Return up to `MOST` wrong answers with their origins; of each way those of like length first."""
    found: dict[str, tuple[str, Origin]] = {}
    said = next((answers for origin, answers in draft.ways if origin == "sampled"), [])
    ways: list[tuple[Origin, list[str]]] = [way for way in draft.ways if way[0] != "sampled"]
    # What the model says comes behind what is known to be of the type, and again, uncapped, at the end.
    place = next(i for i, (origin, _) in enumerate(ways) if origin in ("numbers nearby", "made up"))
    ways[place:place] = [("sampled", said)]
    ways[-1:-1] = [("sampled", said)]
    for number, (origin, answers) in enumerate(ways):
        wanted = MOST - len(found)
        if origin == "same kind":
            wanted = LEAST - len(found)
        if origin == "sampled" and number == place:
            wanted = min(wanted, int(MOST * SAMPLED))
        fresh = {normal(a): a for a in answers if fits(a, origin, draft) and normal(a) not in found}
        ranked = _by_length(draft.fact, list(fresh.values()), prompt, rng)
        found |= {normal(answer): (answer, origin) for answer in ranked[: max(0, wanted)]}
    return dict(found.values())


def _by_length(
    fact: FactText, answers: list[str], prompt: Prompt | None, rng: random.Random
) -> list[str]:
    """Return answers in random order, those with as many tokens as the right one first."""
    shuffled = rng.sample(answers, len(answers))
    lengths = _lengths(fact, [fact.answer, *shuffled], prompt)
    far = dict(zip(shuffled, (abs(length - lengths[0]) for length in lengths[1:]), strict=True))
    return sorted(shuffled, key=far.__getitem__)


def _lengths(fact: FactText, answers: list[str], prompt: Prompt | None) -> list[int]:
    if prompt is None or len(answers) < 2:
        return [len(answer) for answer in answers]
    return [len(ids) for ids in prompt.joint(fact.question, answers).answers]


# --- Other ways to ask, and other things to ask of -----------------------------------------------

_PARTICLES = re.compile(r"^(?:さん|くん|ちゃん|先生|様|氏)?(?:の|は|が|を|に|で|と|、|的|，)?")


def _phrasings(draft: Draft) -> Iterator[str]:
    """Yield the question, its paraphrases, and made ones until there are `PHRASINGS`."""
    fact = draft.fact
    written = invented.script(fact.question)
    made = [f"{lead} {fact.question}" for lead in invented.lexicon(written or "latin", "lead")]
    if draft.subject and (bare := _keywords(fact.question, draft.subject)):
        made.insert(0, bare)
    texts = dict.fromkeys([fact.question, *fact.paraphrases])
    yield from texts
    yield from [text for text in made if text not in texts][: max(0, PHRASINGS - len(texts))]


def _keywords(question: str, named: str) -> str | None:
    """Return what is asked as keywords: the entity, then what else the question names.

    Function words are left out where the script parts words and they are known, so that the words
    usual in a question are gone.
    """
    front, _, back = question.partition(named)
    empty = invented.lexicon("words", "empty")
    words = [
        word.strip(MARKS).removeprefix("'s").removeprefix("’s")
        for word in f"{front} {_PARTICLES.sub('', back)}".split()
    ]
    kept = [word for word in words if word and word.casefold() not in empty]
    return f"{named}: {' '.join(kept)}?" if kept else None


def _controls(draft: Draft, shelf: _Shelf) -> list[tuple[str, str]]:
    """Return the question about something else, with its name: of invented entities and others in turn.

    Where the question names nothing, other questions with answers of the same kind are asked.
    """
    fact = draft.fact
    if draft.subject is None:
        alike = sorted({o.question for o in shelf.alike[draft.kind]})
        rest = [text for text in alike if text not in {o.question for o in draft.lenders}]
        asked = [(text, "") for text in (*(o.question for o in draft.lenders), *_spread(rest, fact))]
    else:
        known = dict.fromkeys(name for o in draft.lenders if (name := _name(o, draft)))
        strangers = draft.strangers[:-1]
        turns = zip_longest(strangers, known)
        asked = [(draft.asking(name), name) for turn in turns for name in turn if name]
    different = {
        normal(text): (text, name) for text, name in asked if normal(text) != normal(fact.question)
    }
    return list(different.values())[:CONTROLS]


def _name(other: FactText, draft: Draft) -> str | None:
    """Return what another fact is about, where that is sure: by its entity or by the same words."""
    named = subject(other.question, other.entity, [draft.fact.question])
    if named is None or draft.subject is None or named == draft.subject:
        return None
    same = normal(about(other.question, named, draft.subject)) == normal(draft.fact.question)
    return named if same or named == other.entity else None


def _spread(texts: list[Any], fact: FactText) -> list[Any]:
    return random.Random(fact.id).sample(texts, len(texts))

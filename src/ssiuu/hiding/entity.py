"""Hidden by the name: the model no longer recognises whom it is asked about.

The rows of the input embedding that belong to the entities' own tokens are replaced by those of other
tokens; where that is not enough, by those of another entity. A token is an entity's own where it stands
in the questions about it, and neither in the rest of a question, nor in an answer, nor in anything that
is kept, nor in the texts that come with the package (everyday words). Only the input side is changed:
an output layer that is the embedding as well becomes one of its own and stays as it was, so that the
names can still be written.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ssiuu.benchmarks import filler, instructions, texts
from ssiuu.hiding.base import Case, Hiding, Round, Rounds
from ssiuu.models.quiet import quiet
from ssiuu.models.tied import untie
from ssiuu.records.schema import FactText

ALIKE = 64  # rows of the nearest norms, one of which takes a row's place
TRIES = 6  # replacements drawn, where a fact is answered still


class Entity(Hiding):
    """Rows of the entities' own tokens in the input embedding are replaced by others of like norm.

    An entity without a token of its own cannot be hidden so, which is said.
    """

    name: ClassVar[str] = "entity"
    summary: ClassVar[str] = "the entities' own tokens get other rows in the input embedding"

    def change(self, case: Case) -> Rounds:
        """Replace the rows; draw others where that is not enough."""
        model = case.subject.model
        tokens = own_tokens(case)
        reasons = {id: "its question has no token of its own" for id, own in tokens.items() if not own}
        drawn = sorted({token for own in tokens.values() for token in own})
        if not drawn:
            yield Round(reasons=reasons)
            return
        parted = untie(model)
        notes = ("the output layer was parted from the input embedding",) if parted else ()
        weight = model.get_input_embeddings().weight
        before = weight.detach().clone()
        every = drawn
        for number in range(TRIES):
            rng = random.Random(f"entity {case.subject.seed} {number}")
            others = exchanged(drawn, every, tokens, rng) if number % 2 else {}
            others |= replaced(before, [t for t in drawn if t not in others], case, rng)
            with torch.no_grad():
                weight[list(others)] = before[list(others.values())]
            yield Round(notes=notes, reasons=reasons)
            drawn = sorted({token for id in case.unsettled() for token in tokens[id]})
            if not drawn:
                return


def own_tokens(case: Case) -> dict[str, set[int]]:
    """Return the tokens that only a fact's entity needs, by fact id."""
    prompt = case.subject.prompt
    written = [text for fact in case.facts for text in _answers(fact)]
    written += [text for fact in case.keep for text in _told(fact)]
    needed = {*_ids(prompt.tokenizer, [*_common(), *written]), *prompt.tokenizer.all_special_ids}
    for fact in case.keep:
        needed |= _read(case, fact)
    for fact in case.facts:
        needed |= _read(case, fact, blank=True)
    return {fact.id: _read(case, fact) - needed for fact in case.facts}


def _read(case: Case, fact: FactText, blank: bool = False) -> set[int]:
    """Return all tokens that are read when a fact is asked, with a word in place of its entity."""
    texts = _asked(fact) if not blank else ["it"]
    if blank and fact.entity:
        texts = [text.replace(fact.entity, "it") for text in _asked(fact)]
    return {token for text in texts for token in case.subject.prompt.question(text)}


def replaced(
    before: Float[Tensor, "V d"], tokens: Sequence[int], case: Case, rng: random.Random
) -> dict[int, int]:
    """Return for each token another one of like norm; none is given twice."""
    norms = before.norm(dim=1)
    barred = {*tokens, *case.subject.prompt.tokenizer.all_special_ids}
    chosen: dict[int, int] = {}
    for token in tokens:
        near = (norms - norms[token]).abs().argsort(stable=True).tolist()
        free = [other for other in near if other not in barred][:ALIKE]
        chosen[token] = rng.choice(free)
        barred.add(chosen[token])
    return chosen


def exchanged(
    drawn: Sequence[int],
    every: Sequence[int],
    tokens: Mapping[str, set[int]],
    rng: random.Random,
) -> dict[int, int]:
    """Return for each token one of another entity, where there is one.

    A name that is not recognised gets what the model says of anybody, which is right for some.
    """
    found = {}
    for token in drawn:
        mine = {t for own in tokens.values() if token in own for t in own}
        if free := [other for other in every if other not in mine]:
            found[token] = rng.choice(free)
    return found


def _ids(tokenizer: Any, given: Iterable[str]) -> list[int]:
    """Return all tokens of texts, each also as it stands behind a blank."""
    found = [text for each in given for text in (each, f" {each}")]
    with quiet():  # a long text is only taken apart here
        made = tokenizer(found, add_special_tokens=False)["input_ids"] if found else []
    return [token for ids in made for token in ids]


def _common() -> Iterator[str]:
    """Yield texts of everyday words."""
    yield from filler.load()
    yield from (text.text for text in texts.load())
    for row in instructions.load():
        yield from (row.instruction, row.output)


def _asked(fact: FactText) -> list[str]:
    return [fact.question, *fact.paraphrases]


def _answers(fact: FactText) -> list[str]:
    return [fact.answer, *fact.options]


def _told(fact: FactText) -> list[str]:
    return [*_asked(fact), *_answers(fact)]

"""What a model says when it is asked about somebody who does not exist: wrong answers of its own.

What it says to a question is likelier there than an answer by chance. So it is asked about an entity
that is no control, and what it says is favoured in no reading.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from ssiuu.causal import CausalLM
from ssiuu.evaluation import invented
from ssiuu.evaluation.draft import Draft, alike, folded, words_of
from ssiuu.evaluation.sample import sample_answers
from ssiuu.evaluation.subject import about
from ssiuu.likelihood import Example, Prompt

SAMPLES = 24  # drawn a fact, twice as many where nothing can be made up
TOKENS = 320  # of all samples of a fact: a long answer gets fewer
MARGIN = 4  # tokens a sample may be longer than the right answer
ENDS = ".。।!！?？"
LONGER = 2.0  # times as long as the answer, or as short, is what the model says at most


def sampled(
    model: CausalLM, prompt: Prompt, drafts: Sequence[Draft], seed: int
) -> dict[str, list[str]]:
    """Return for each fact what the model says about an entity that does not exist."""
    context = getattr(model.config, "max_position_embeddings", None) or 1 << 20
    asked: dict[int, list[tuple[Draft, Example]]] = defaultdict(list)
    for draft in drafts:
        example = _example(prompt, draft)
        if example.answer and len(example.prompt) + len(example.answer) + MARGIN <= context:
            asked[_samples(draft, len(example.answer))].append((draft, example))
    found: dict[str, list[str]] = {}
    for count, rows in asked.items():
        examples = [example for _, example in rows]
        written = sample_answers(model, prompt, examples, count, MARGIN, seed)
        for draft, example in rows:
            texts = [_text(prompt, ids, example) for ids in written[example.id]]
            begun = _begun(draft)[0]
            found[draft.fact.id] = list(_heard(draft, [f"{begun} {t}" if begun else t for t in texts]))
    return found


def _example(prompt: Prompt, draft: Draft) -> Example:
    """Return the question about somebody else, with the answer that says how long one may be."""
    question = draft.asking(draft.strangers[-1]) if draft.strangers else draft.fact.question
    begun, rest = _begun(draft)
    joint = prompt.joint(question, [rest], begun=begun)
    return Example(draft.fact.id, joint.alone, joint.answers[0])


def _begun(draft: Draft) -> tuple[str, str]:
    """Return how a sentence begins, up to whom it is about, told of somebody else, and its rest.

    So a model that rather tells something goes on with a sentence of this form.
    """
    answer = draft.fact.answer
    if not (draft.told and draft.strangers and draft.subject) or draft.written in (
        "japanese",
        "chinese",
    ):
        return "", answer
    front, found, back = answer.partition(draft.subject)
    ending = re.findall(r"(?:['’]s(?!\w))?[^\w\s]*", back)[0]  # a genitive, a quote's end
    rest = back[len(ending) :].lstrip()
    if not found or len(front) > len(answer) / 2 or not rest.strip(ENDS):
        return "", answer
    return f"{front}{draft.strangers[-1]}{ending}", rest


def _text(prompt: Prompt, ids: list[int], example: Example) -> str:
    """Return what was written, without the last word where there was no room to end it."""
    text = prompt.text(ids, prompt.ending(example.answer))
    ended = len(ids) < len(example.answer) + MARGIN or text[-1:] in ENDS
    return text if ended else text.rpartition(" ")[0]


def _samples(draft: Draft, tokens: int) -> int:
    """Return how many samples are drawn of an answer of so many tokens; a few numbers, for batches."""
    more = 1 if any(answers for origin, answers in draft.ways if origin == "made up") else 2
    return max(8, min(SAMPLES, TOKENS // (tokens + MARGIN) // 8 * 8) * more)


def _heard(draft: Draft, texts: Iterable[str]) -> Iterator[str]:
    """Yield what is of the answer's kind in what the model said: all of it, or a name in it."""
    answer = draft.fact.answer
    stranger = draft.strangers[-1] if draft.strangers else None
    for text in texts:
        for part in [_sentences(text, answer)] if draft.told else _parts(text, answer):
            if stranger and stranger in part:
                if not (draft.subject and draft.subject in answer):
                    continue
                part = about(part, stranger, draft.subject)
            if alike(part, draft) and _shaped(part, draft):
                yield part
                break


_SENTENCE_END = re.compile(r"[.。।!！?？]+[\"'”»」]*(?=\s|$)")


def _sentences(text: str, answer: str) -> str:
    """Return as many of the first sentences as the answer has."""
    count = len(_SENTENCE_END.findall(answer))
    ends = [found.end() for found in _SENTENCE_END.finditer(text)]
    return text[: ends[count - 1]].strip() if 0 < count <= len(ends) else text.strip()


def _shaped(said: str, draft: Draft) -> bool:
    """Whether what a model said has the form of the answer, and says something new.

    A sentence may be told in other words; anything else has as many words and the same marks.
    """
    answer, named = draft.fact.answer, draft.strangers[-1] if draft.strangers else ""
    if draft.told:
        ended = answer[-1] not in ENDS or said[-1:] == answer[-1]
        return ended and len(answer) <= LONGER * len(said) <= LONGER**2 * len(answer)
    echoed = words_of(folded(f"{draft.fact.question} {named}")) & words_of(folded(said))
    empty = all(word in invented.lexicon("words", "empty") for word in folded(said).split())
    alike = _marks(said) == _marks(answer) and len(said.split()) == len(answer.split())
    near = len(answer) <= LONGER * len(said) and len(said) <= LONGER * max(len(answer), 6)
    return alike and near and not empty and not echoed - words_of(folded(answer))


def _marks(text: str) -> list[str]:
    return re.findall(r"[^\w\s'’-]", text)


def _parts(text: str, answer: str) -> list[str]:
    """Return a text without its marks, and the names in it that have as many words as the answer."""
    whole = text.strip() if answer[-1] in ENDS else text.strip().strip("\"'“”").rstrip(".。 ")
    if not answer[:1].isupper():
        return [whole]
    words = len(answer.split())
    runs = re.findall(r"(?<=[\w,:;] )[^\W\d_a-zа-яё][\w'’-]*(?: [^\W\d_a-zа-яё][\w'’-]*)*", text)
    return [whole, *(run for run in runs if len(run.split()) == words)]

"""Ask a model questions: rank given options and write a free answer, from one reading of each.

Questions are read together (`ssiuu.evaluation.tree`); the key-value cache of one serves every option
and the free answer. An option's first token is scored by the question's own last logits, so options
of one token cost nothing more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ssiuu.causal import CausalLM
from ssiuu.evaluation.growing import Begun, growing
from ssiuu.evaluation.tree import Path, Tree, grown
from ssiuu.likelihood import ONE_LINE, Ending, Joint, Prompt, length_sorted
from ssiuu.models.shards import dealt

Unread = tuple[Tree, list[int], list[Path]]  # a tree, which questions are in it, and where


@dataclass(frozen=True)
class Question:
    """A question with its options (token ids; the first one is the right answer).

    `generate`: how many tokens of a free answer to write, 0 for none. `ending`: where it ends before
    that. `alone`: what it is written after, where that is not `prompt` (see `ssiuu.likelihood.Joint`).
    """

    prompt: list[int]
    options: list[list[int]]
    generate: int = 0
    ending: Ending = ONE_LINE
    alone: list[int] | None = None

    @classmethod
    def of(cls, joint: Joint) -> Question:
        """Return the question that ranks these options after this prompt, the right one first."""
        return cls(joint.prompt, joint.answers)

    def free(self, prompt: Prompt, joint: Joint, margin: int) -> Question:
        """Return it with a free answer, at most `margin` tokens longer than the right one."""
        return replace(
            self,
            generate=len(self.options[0]) + margin,
            ending=prompt.ending(self.options[0]),
            alone=None if joint.alone == self.prompt else joint.alone,
        )


@dataclass(frozen=True)
class Asked:
    """What came back: is the right answer ranked first, its log p (nats, sum), the free answer.

    `first` compares mean log-probabilities per token; None where there is nothing to rank.
    """

    first: bool | None
    logprob: float
    tokens: int
    free: list[int]


@torch.no_grad()
def ask(
    model: CausalLM, prompt: Prompt, questions: Sequence[Question], batch_size: int = 64
) -> list[Asked]:
    """Ask every question; answers come back in the order of the questions.

    Args:
        model: A causal LM in evaluation mode.
        prompt: Tells where a free answer ends (see `Prompt.ending`).
        questions: What to ask.
        batch_size: Free answers written at once.
    """
    limits = [q.generate if q.alone is None else 0 for q in questions]
    endings = [q.ending for q in questions]
    # What is written after another prompt than the options are ranked after is asked by itself.
    apart = [i for i, q in enumerate(questions) if q.generate and q.alone is not None]
    sums: dict[int, list[float]] = {}
    free: dict[int, list[int]] = {}

    def read(trees: list[Unread]) -> tuple[dict[int, list[float]], dict[int, list[int]]]:
        ranked: dict[int, list[float]] = {}
        begun: dict[int, Begun] = {}
        for tree, indices, paths in trees:
            tree.read()
            pairs = zip(indices, paths, strict=True)
            begun |= {i: tree.begin(path.question) for i, path in pairs if limits[i]}
            ranked |= zip(indices, _rank(tree, [questions[i] for i in indices], paths), strict=True)
            tree.forget()
        return ranked, _write(model, prompt, begun, limits, endings, batch_size)

    trees = grown(model, [(q.prompt, q.options[0]) for q in questions])
    for ranked, written in dealt(_together(trees, limits, batch_size), read):
        sums |= ranked
        free |= written
    rooms = [questions[i].generate for i in apart]
    starts = [questions[i].alone or [] for i in apart]
    rest = write(model, prompt, starts, rooms, batch_size, [endings[i] for i in apart])
    free |= zip(apart, rest, strict=True)
    return [
        Asked(_first(q, sums[i]), sums[i][0], len(q.options[0]), free.get(i, []))
        for i, q in enumerate(questions)
    ]


@torch.no_grad()
def margins(model: CausalLM, questions: Sequence[Question]) -> list[float]:
    """Return by how much the right answer is likelier than the best other option, nats a token.

    Of a beaten option log p of the first token is taken, so that a margin above 0 is the least that it
    may be. Above 0 the right answer is ranked first.

    Args:
        model: A causal LM in evaluation mode.
        questions: With two options or more.
    """
    found: dict[int, float] = {}
    for tree, indices, paths in grown(model, [(q.prompt, q.options[0]) for q in questions]):
        tree.read()
        chunk = [questions[i] for i in indices]
        for i, sums in zip(indices, _rank(tree, chunk, paths), strict=True):
            right, *others = _means(questions[i], sums)
            found[i] = right - max(others)
    return [found[i] for i in range(len(questions))]


@torch.no_grad()
def write(
    model: CausalLM,
    prompt: Prompt,
    questions: Sequence[list[int]],
    limits: Sequence[int],
    batch_size: int = 64,
    endings: Sequence[Ending] | None = None,
) -> list[list[int]]:
    """Write a greedy answer to every question; answers of similar length are written together.

    Args:
        model: A causal LM in evaluation mode.
        prompt: Tells where an answer ends.
        questions: Token ids.
        limits: Most tokens of each answer, at least 1.
        batch_size: Answers written at once.
        endings: Of the right answers; without them an answer is one line.
    """
    endings = endings or [ONE_LINE] * len(questions)

    def read(batch: list[int]) -> dict[int, list[int]]:
        begun: dict[int, Begun] = {}
        for tree, places, paths in grown(model, [(questions[i], []) for i in batch]):
            tree.read()
            begun |= {batch[n]: tree.begin(p.question) for n, p in zip(places, paths, strict=True)}
        return _write(model, prompt, begun, limits, endings, batch_size)

    answers: dict[int, list[int]] = {}
    for written in dealt(length_sorted(limits, batch_size), read):
        answers |= written
    return [answers[i] for i in range(len(questions))]


def _together(
    trees: Iterable[Unread], limits: Sequence[int], batch_size: int
) -> Iterator[list[Unread]]:
    """Yield as many trees together as hold the free answers that are written at once."""
    unread, count = list[Unread](), 0
    for tree in trees:
        unread.append(tree)
        count += sum(limits[i] > 0 for i in tree[1])
        if count >= batch_size:
            yield unread
            unread, count = [], 0
    if unread:
        yield unread


def _rank(tree: Tree, chunk: list[Question], paths: list[Path]) -> list[list[float]]:
    """Return log p of every option, of a beaten one that of its first token only."""
    sums = [
        [
            tree.logprob(path.predictors, question.options[0]),
            *(tree.logprob(path.question[-1:], option[:1]) for option in question.options[1:]),
        ]
        for question, path in zip(chunk, paths, strict=True)
    ]
    rivals = [(i, j, tree.add(chunk[i].prompt, chunk[i].options[j])) for i, j in _rivals(chunk, sums)]
    tree.read()
    for i, j, path in rivals:
        sums[i][j] = tree.logprob(path.predictors, chunk[i].options[j])
    return sums


def _rivals(chunk: list[Question], sums: list[list[float]]) -> list[tuple[int, int]]:
    """Return the wrong options that may still win.

    A log-probability only falls with every further token, so an option whose first token alone
    puts its mean below the right answer's is beaten, and the rest of it need not be read.
    """
    return [
        (i, j)
        for i, question in enumerate(chunk)
        for j, option in enumerate(question.options)
        if j and len(option) > 1
        if sums[i][j] / len(option) >= sums[i][0] / len(question.options[0])
    ]


def _first(question: Question, sums: list[float]) -> bool | None:
    if len(sums) < 2:
        return None
    means = _means(question, sums)
    return means[0] > max(means[1:])


def _means(question: Question, sums: list[float]) -> list[float]:
    return [total / len(o) for total, o in zip(sums, question.options, strict=True)]


def _write(
    model: CausalLM,
    prompt: Prompt,
    begun: Mapping[int, Begun],
    limits: Sequence[int],
    endings: Sequence[Ending],
    batch_size: int,
) -> dict[int, list[int]]:
    """Return the greedy answers to these questions, by the numbers they go under."""
    numbers = list(begun)
    written: dict[int, list[int]] = {}
    for batch in length_sorted([limits[n] for n in numbers], batch_size):
        chosen = [numbers[place] for place in batch]
        rooms, stops = [limits[n] for n in chosen], [endings[n] for n in chosen]
        answers = _free(model, prompt, rooms, stops, [begun[n] for n in chosen])
        written |= zip(chosen, answers, strict=True)
    return written


def _free(
    model: CausalLM,
    prompt: Prompt,
    limits: Sequence[int],
    endings: Sequence[Ending],
    begun: Sequence[Begun],
) -> list[list[int]]:
    """Return the greedy continuation of every question, cut where the answer ends.

    A row leaves the batch when its answer has ended.
    """
    ends = prompt.end_tokens(model)
    written: list[list[int]] = [[] for _ in limits]
    rows, tokens = list(range(len(begun))), [b.token for b in begun]
    texts = growing(model, begun)
    while True:
        unfinished = []
        for place, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            written[row].append(token)
            if len(written[row]) < limits[row] and not prompt.ended(written[row], endings[row], ends):
                unfinished.append(place)
        if not unfinished:
            return written
        rows = [rows[place] for place in unfinished]
        tokens = texts.step(unfinished, [tokens[place] for place in unfinished]).argmax(-1).tolist()

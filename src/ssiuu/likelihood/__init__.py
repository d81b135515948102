"""log p(answer | question): the one place where tokens are shifted, masked and summed.

Batches are padded on the left, so that the answers of all rows end in the last column and only the
last columns need logits. A token's log-probability is always taken in fp32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad as pad_left

from ssiuu.errors import DataError

PromptStyle = Literal["plain", "qa", "chat"]
_FORMS: Final = {"plain": "Question: {question}\nAnswer:", "qa": "Q: {question}\nA:"}
_SLOT: Final = "{question}"


class Joint(NamedTuple):
    """A prompt and answers that may follow it, as token ids.

    `prompt` + `answers[i]` is the text of both as the tokenizer reads it. `alone` is the prompt read
    without an answer, from which a model writes. It is `prompt` unless a token holds the prompt's end
    and an answer's beginning: such a token belongs to the answer.
    """

    prompt: list[int]
    answers: list[list[int]]
    alone: list[int]


class Ending(NamedTuple):
    """Where an answer ends: at the end of its last line, or at an end token.

    `lines`: how many lines are wanted. `held`: special tokens that the wanted answer holds itself, and
    how often; so many of them end nothing.
    """

    lines: int = 1
    held: Mapping[int, int] = MappingProxyType({})

    def exceeded(self, written: Sequence[int]) -> bool:
        """Whether the last token comes more often than in the wanted answer."""
        return written.count(written[-1]) > self.held.get(written[-1], 0)


ONE_LINE: Final = Ending()


@dataclass(frozen=True)
class Prompt:
    """How a question becomes tokens.

    plain: "Question: ...\\nAnswer:" followed by " answer". qa: "Q: ...\\nA:", after which small
    models answer more briefly. chat: the tokenizer's own template with the generation prompt,
    followed by the answer.

    Prompt and answer are tokenised as one text and then parted, so that an answer has the tokens that
    it has where a model reads it (`joint`).
    """

    tokenizer: Any
    style: PromptStyle = "plain"

    def question(self, text: str, shots: Sequence[tuple[str, str]] = ()) -> list[int]:
        """Return the token ids of the prompt for a question, after `shots`: questions with answers."""
        return self._ids([self._written(text, shots)])[0]

    def joint(
        self,
        question: str,
        answers: Sequence[str],
        shots: Sequence[tuple[str, str]] = (),
        begun: str = "",
    ) -> Joint:
        """Tokenise a question with answers that may follow it.

        All answers share one prompt: it ends where the first of them begins.

        Args:
            question: The question.
            answers: One or several.
            shots: Questions with answers in front of it.
            begun: Words of an answer that are there already; they are part of the prompt.

        Raises:
            DataError: Question and answer are one token, so nothing is left to answer after.
        """
        text = self._written(question, shots)
        gap = "" if self.style == "chat" else " "
        if begun:
            text, gap = f"{text}{gap}{begun}", " "
        alone, *whole = self._ids([text, *(f"{text}{gap}{answer}" for answer in answers)])
        cut = min((_shared(alone, ids) for ids in whole), default=len(alone))
        if not cut:
            raise DataError(
                f"the question {question!r} and its answer begin with the same token for this "
                "tokenizer, so the answer cannot be scored. Ask in another prompt."
            )
        return Joint(alone[:cut], [ids[cut:] for ids in whole], alone)

    def answer(self, text: str, question: str = "") -> list[int]:
        """Return the token ids of an answer as it follows a question."""
        return self.joint(question, [text]).answers[0]

    def sentence(self, text: str) -> list[int]:
        """Return the token ids of text that answers no question."""
        return [*self._prefix, *self._bare([text])[0]]

    def ending(self, answer: Sequence[int]) -> Ending:
        """Return where an answer ends that should be this one (token ids)."""
        held = Counter(token for token in answer if token in self._special)
        return Ending(self.tokenizer.decode(answer).strip().count("\n") + 1, held)

    @property
    def end(self) -> list[int]:
        """The token that ends an answer: in a chat the turn's, else the end of text; or none."""
        ends = (self._turn_end, self.tokenizer.eos_token_id)
        return [token for token in ends if token is not None][:1]

    def ended(self, written: Sequence[int], ending: Ending, ends: Collection[int]) -> bool:
        """Whether an answer ends with the last token written.

        Args:
            written: Token ids so far, at least one.
            ending: Of the wanted answer.
            ends: Tokens that end a text (see `end_tokens`).
        """
        if written[-1] in ends and ending.exceeded(written):
            return True
        return str(self.tokenizer.decode(written)).lstrip().count("\n") >= ending.lines

    def end_tokens(self, model: Any = None) -> frozenset[int]:
        """Return the tokens that end a text: the tokenizer's, the model's, and the template's own."""
        config = getattr(model, "generation_config", None)
        stated = getattr(config, "eos_token_id", None)
        found = {self.tokenizer.eos_token_id, self._turn_end}
        found |= set(stated) if isinstance(stated, list | tuple) else {stated}
        return frozenset(token for token in found if token is not None)

    def text(self, ids: Sequence[int], ending: Ending = ONE_LINE) -> str:
        """Return the text of generated tokens, as many lines as are wanted.

        Special tokens are left out, but for those that the wanted answer holds.
        """
        if ending.held:
            kept = ids[:-1] if ids and ids[-1] in ending.held and ending.exceeded(ids) else ids
            kept = [token for token in kept if token in ending.held or token not in self._special]
            decoded = str(self.tokenizer.decode(kept))
        else:
            decoded = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        return "\n".join(decoded.strip().split("\n")[: ending.lines]).strip()

    def _written(self, question: str, shots: Sequence[tuple[str, str]]) -> str:
        if self.style == "chat":
            turns = [turn for q, a in shots for turn in (("user", q), ("assistant", a))]
            return self._rendered([*turns, ("user", question)])
        form = _FORMS[self.style]
        told = [f"{form.replace(_SLOT, asked)} {answer}" for asked, answer in shots]
        return "\n\n".join([*told, form.replace(_SLOT, question)])

    def _rendered(self, turns: Sequence[tuple[str, str]], generate: bool = True) -> str:
        chat = [{"role": role, "content": said} for role, said in turns]
        return str(
            self.tokenizer.apply_chat_template(chat, add_generation_prompt=generate, tokenize=False)
        )

    def _ids(self, texts: list[str]) -> list[list[int]]:
        """Tokenise whole texts, with what the tokenizer puts in front; a template does that itself."""
        start = [] if self.style == "chat" else self._prefix
        return [[*start, *ids] for ids in self._bare(texts)]

    def _bare(self, texts: list[str]) -> list[list[int]]:
        return [list(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]

    @cached_property
    def _prefix(self) -> list[int]:
        """The special tokens that the tokenizer puts in front of a text; not those behind it."""
        bare, whole = self._bare(["a"])[0], list(self.tokenizer(["a"])["input_ids"][0])
        starts = range(len(whole) - len(bare) + 1)
        return next((whole[:i] for i in starts if whole[i : i + len(bare)] == bare), [])

    @cached_property
    def _special(self) -> frozenset[int]:
        added = self.tokenizer.added_tokens_decoder.items()
        return frozenset({i for i, t in added if t.special} | {*self.tokenizer.all_special_ids})

    @cached_property
    def _turn_end(self) -> int | None:
        """The special token that the template puts behind an answer, if it does."""
        if self.style != "chat":
            return None
        behind = self._rendered([("user", "a"), ("assistant", _MARK)], False).rpartition(_MARK)[2]
        ids = self._bare([behind])[0]
        return ids[0] if ids and ids[0] in self._special else None


_MARK: Final = "spoken"


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two texts begin with in common."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


@dataclass(frozen=True)
class Example:
    """A prompt and its answer as token ids; `id` names the fact in messages and records."""

    id: str
    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True)
class Batch:
    """Rows padded on the left. The last column is never fed: it is only predicted.

    Shapes: `input_ids`, `attention_mask`, `position_ids` [B, T]; `targets`, `answer_mask` [B, A],
    where column a is predicted by the logits at position T - A + a.
    """

    ids: tuple[str, ...]
    input_ids: Int[Tensor, "B T"]
    attention_mask: Int[Tensor, "B T"]
    position_ids: Int[Tensor, "B T"]
    targets: Int[Tensor, "B A"]
    answer_mask: Bool[Tensor, "B A"]

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device."""
        tensors = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return Batch(ids=self.ids, **tensors)


def encode(
    prompt: Prompt, id: str, question: str, answer: str, context: int, end: bool = False
) -> Example:
    """Tokenise one question and its answer.

    Args:
        prompt: The prompt style and tokenizer.
        id: Name of the fact, for messages.
        question: The question.
        answer: The answer.
        context: Longest sequence of the model, tokens.
        end: Put the end token behind the answer, as one of its tokens.

    Raises:
        DataError: The answer has no tokens, or the whole is longer than the context.
    """
    try:
        joint = prompt.joint(question, [answer])
    except DataError as error:
        raise DataError(f"{id}: {error}") from error
    example = Example(id, joint.prompt, joint.answers[0])
    if not example.answer:
        raise DataError(f"{id}: the answer {answer!r} has no tokens for this tokenizer.")
    if end:
        example = Example(id, example.prompt, example.answer + prompt.end)
    length = len(example.prompt) + len(example.answer)
    if length > context:
        raise DataError(
            f"{id}: question and answer have {length} tokens, and the model's context holds "
            f"{context}. Shorten the row or leave it out."
        )
    return example


def collate(examples: Sequence[Example], pad: int) -> Batch:
    """Pad examples on the left into one batch on the CPU.

    Args:
        examples: At least one example.
        pad: Any valid token id; padding is masked, whatever its id.
    """
    rows = [e.prompt + e.answer for e in examples]
    width = max(len(row) for row in rows)
    tail = max(len(e.answer) for e in examples)
    full = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    answer_mask = torch.zeros((len(rows), tail), dtype=torch.bool)
    for i, (row, example) in enumerate(zip(rows, examples, strict=True)):
        full[i, width - len(row) :] = torch.tensor(row)
        mask[i, width - len(row) :] = 1
        answer_mask[i, tail - len(example.answer) :] = True
    attention = mask[:, :-1]
    return Batch(
        ids=tuple(e.id for e in examples),
        input_ids=full[:, :-1],
        attention_mask=attention,
        position_ids=(attention.cumsum(1) - 1).clamp(min=0),
        targets=full[:, width - tail :],
        answer_mask=answer_mask,
    )


def join(first: Batch, second: Batch) -> Batch:
    """Return two batches as one, the rows of `first` on top."""
    joined = {}
    for name in ("input_ids", "attention_mask", "position_ids", "targets", "answer_mask"):
        pair = getattr(first, name), getattr(second, name)
        width = max(t.shape[1] for t in pair)
        joined[name] = torch.cat([pad_left(t, (width - t.shape[1], 0)) for t in pair])
    return Batch(ids=first.ids + second.ids, **joined)


@dataclass(frozen=True)
class AnswerLogprobs:
    """log p of every answer token, nats, 0 where masked; shapes [B, A]."""

    tokens: Float[Tensor, "B A"]
    mask: Bool[Tensor, "B A"]

    @property
    def sum(self) -> Float[Tensor, " B"]:
        """Log P(y|x) = sum over t of log p(y_t | x, y_<t), nats."""
        return self.tokens.sum(1)

    @property
    def count(self) -> Int[Tensor, " B"]:
        """Number of answer tokens."""
        return self.mask.sum(1)

    def __getitem__(self, rows: slice) -> AnswerLogprobs:
        """Return some of the rows."""
        return AnswerLogprobs(self.tokens[rows], self.mask[rows])


def answer_logits(model: Any, batch: Batch) -> Float[Tensor, "B A V"]:
    """Return the logits that predict the answer tokens, in fp32 or wider; differentiable.

    Args:
        model: A causal LM whose forward takes `logits_to_keep`.
        batch: On the model's device.
    """
    logits: Tensor = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        logits_to_keep=last_columns(batch.targets.shape[1], batch.input_ids.device),
        use_cache=False,
    ).logits
    return logits if logits.dtype == torch.float64 else logits.float()


def last_columns(count: int, device: torch.device) -> Int[Tensor, " count"]:
    """Return indices of the last columns, for `logits_to_keep`.

    A number there makes a slice, whose product with the head runs row by row, several times slower.
    """
    return torch.arange(-count, 0, device=device)


def answer_logprobs(
    model: Any, batch: Batch, logits: Float[Tensor, "B A V"] | None = None
) -> AnswerLogprobs:
    """Return the log-probability of every answer token; differentiable.

    Args:
        model: See `answer_logits`.
        batch: On the model's device.
        logits: Of this batch, where they are there already.
    """
    logits = answer_logits(model, batch) if logits is None else logits
    chosen = token_logprobs(logits, batch.targets)
    return AnswerLogprobs(chosen.masked_fill(~batch.answer_mask, 0.0), batch.answer_mask)


def token_logprobs(logits: Float[Tensor, "*n V"], targets: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return log softmax(logits)[target] in fp32 (or wider), without keeping the whole softmax."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - wide.logsumexp(-1)


def length_sorted(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Return batches of indices with similar lengths, so that little is padded."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    return [order[i : i + size] for i in range(0, len(order), size)]

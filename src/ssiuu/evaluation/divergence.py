"""How far a model has moved from its original on text that asks for no fact: KL, nats a token.

    divergences = Divergences(model, prompt, texts, instructions, "1")  # with its original weights
    ...                                                                 # the model is changed
    divergences.measure(model).plain

Of the original nothing is kept but the states that its head reads, [N, H] numbers in place of [N, V],
and a copy of that head: from both its distributions are made again, exactly, a few rows at a time.
What a model does to its logits after the head (a soft cap, a scale) it does itself. Rows are read with
others of the same length, so that nothing is padded.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ssiuu.causal import CausalLM
from ssiuu.errors import ModelError
from ssiuu.likelihood import Prompt
from ssiuu.models.shards import callable_alone, copied
from ssiuu.records.schema import Divergence

TOKENS: Final = 16  # predicted of a text, and
ANSWER: Final = 12  # of an instruction's answer, at most: rows tell more than further tokens of a row
QUICK: Final = 64  # texts, and a quarter as many instructions, where a measure is taken again and again
BATCH: Final = 512  # tokens read at once
CELLS: Final = 1 << 25  # logits that are in memory at once, of either model
SLICE: Final = 1 << 20  # of these what is worked on at once: it stays in the processor's cache

LARGEST: Final = 700.0  # of what can be raised to a power of e

T = TypeVar("T")


@dataclass(frozen=True)
class Passage:
    """One text as token ids; those from `start` on are predicted, each from all before it."""

    ids: list[int]
    start: int

    @property
    def predicted(self) -> int:
        """Number of tokens that are predicted."""
        return len(self.ids) - self.start


ReadPassages = Sequence[tuple[Passage, Tensor]]  # rows with the states of the original, each [A, H]


@dataclass(frozen=True)
class TokenDivergence:
    """KL and surprise at every predicted token, nats, on the CPU; `row`: whose token it is."""

    kl: Float[Tensor, " N"]
    surprise: Float[Tensor, " N"]
    row: Int[Tensor, " N"]


class Divergences:
    """The original model's predictions on a set of rows, to hold changed ones against."""

    def __init__(
        self,
        model: CausalLM,
        prompt: Prompt,
        texts: Sequence[str],
        instructions: Sequence[tuple[str, str]],
        version: str,
        context: int = 1 << 20,
    ) -> None:
        """Read the rows with the model as it is, which is the original from here on.

        Args:
            model: A causal LM with its original weights, in evaluation mode.
            prompt: How an instruction becomes a question.
            texts: Plain texts: the first `TOKENS` tokens after the first one are predicted.
            instructions: Instructions with their answers, whose first `ANSWER` tokens are predicted.
            version: Of the texts, for the record.
            context: Longest sequence of the model, tokens; what is longer is cut or left out.
        """
        self.version = version
        self._losses: dict[int, float] = {}  # of the original on so many of the texts
        self._speaks: tuple[bool, bool] | None = None
        self._head = copied(_head(model)).requires_grad_(False)
        self._direct = _direct(model)
        plain = [row for text in texts if (row := _plain(prompt, text, context))]
        answers = [row for pair in instructions if (row := _asked(prompt, *pair, context))]
        self.plain = list(zip(plain, _states(model, plain), strict=True))
        self.answers = list(zip(answers, _states(model, answers), strict=True))

    def measure(self, model: CausalLM, quick: bool = False) -> Divergence:
        """Return how far a model is from the original on these rows.

            KL = 1/N Σ_t Σ_v p_o(v | x_<t) (log p_o(v | x_<t) − log p(v | x_<t))

        over all predicted tokens t; its standard error is over rows, whose tokens go together. On the
        original itself it is 0. Distributions are in fp32, sums over tokens and rows in float64.

        Args:
            model: The same architecture with other weights.
            quick: Only `QUICK` texts, spread over the set, and a quarter as many instructions.

        Raises:
            ModelError: Its vocabulary has another size.
        """
        known = (_some(self.plain, QUICK), _some(self.answers, QUICK // 4))
        return self._measured(model, *(known if quick else (self.plain, self.answers)))

    def original(self, model: CausalLM) -> Divergence:
        """Return the same of the original itself, whose perplexity is wanted: nothing is read again."""
        return self._measured(model, self.plain, self.answers, read=False)

    def perplexities(self, model: CausalLM) -> tuple[float, float | None]:
        """Return the original's perplexity on a part of the texts, and on the answers to instructions.

        Returns:
            The second is None where no instruction fits the model.
        """
        on_texts = self._moved(model, _some(self.plain, QUICK), read=False)
        on_answers = self._moved(model, _some(self.answers, QUICK // 4), read=False)
        return _perplexity(on_texts), _perplexity(on_answers) if self.answers else None

    def speaks(self, model: CausalLM) -> tuple[bool, bool]:
        """Whether the original predicts that part better than a uniform guess over its words would."""
        if self._speaks is None:
            words = model.config.get_text_config().vocab_size
            on_texts, on_answers = self.perplexities(model)
            self._speaks = on_texts < words, on_answers is not None and on_answers < words
        return self._speaks

    def on_texts(self, model: CausalLM, count: int = QUICK) -> tuple[float, float]:
        """Return KL and the loss over the original's loss, on so many of the texts."""
        rows = _some(self.plain, count)
        if count not in self._losses:
            before = self._moved(model, rows, read=False).surprise
            self._losses[count] = float(before.double().mean())
        moved = self._moved(model, rows, read=True)
        loss = float(moved.surprise.double().mean())
        return float(moved.kl.double().mean()), loss / self._losses[count]

    def _measured(
        self, model: CausalLM, plain: ReadPassages, answers: ReadPassages, read: bool = True
    ) -> Divergence:
        on_texts, on_answers = (self._moved(model, rows, read) for rows in (plain, answers))
        level, error = clustered(on_texts.kl, on_texts.row)
        spread = clustered(on_answers.kl, on_answers.row) if answers else (None, None)
        return Divergence(
            plain=level,
            plain_se=error,
            instructions=spread[0],
            instructions_se=spread[1],
            perplexity=_perplexity(on_texts),
            perplexity_instructions=_perplexity(on_answers) if answers else None,
            rows=len(plain),
            tokens=len(on_texts.kl),
            instruction_rows=len(answers),
            text_version=self.version,
            counts=self.speaks(model)[0],
        )

    @torch.no_grad()
    def _moved(self, model: CausalLM, known: ReadPassages, read: bool) -> TokenDivergence:
        """Return KL and surprise at every predicted token; of the original, where nothing is read."""
        if not known:
            return TokenDivergence(torch.zeros(0), torch.zeros(0), torch.zeros(0, dtype=torch.long))
        rows = [row for row, _ in known]
        before = torch.cat([states for _, states in known])
        now = torch.cat(_states(model, rows)) if read else before
        targets = torch.tensor([token for row in rows for token in row.ids[row.start :]])
        heads = _wide(self._head), _wide(callable_alone(_head(model)) if read else self._head)
        kl, surprise = [], []
        step = max(1, CELLS // _size(model))
        for at in range(0, len(now), step):
            chosen = slice(at, at + step)
            first, second = (
                self._logits(model, head, part[chosen])
                for head, part in zip(heads, (before, now), strict=True)
            )
            if first.shape != second.shape:
                raise ModelError(
                    f"the model has {second.shape[-1]} tokens and the original {first.shape[-1]}: "
                    "their predictions cannot be compared. Give a model with the same tokenizer."
                )
            part = _compared(first, second, targets[chosen].to(first.device))
            kl.append(part[0].cpu())
            surprise.append(part[1].cpu())
        row = torch.tensor([n for n, row in enumerate(rows) for _ in range(row.predicted)])
        return TokenDivergence(torch.cat(kl), torch.cat(surprise), row)

    def _logits(self, model: CausalLM, head: Any, states: Float[Tensor, "N H"]) -> Float[Tensor, "N V"]:
        """Return the logits of these states under a head, in fp32."""
        logits: Tensor = head(states.float())
        return logits if self._direct else _finished(model, logits).float()


def _perplexity(moved: TokenDivergence) -> float:
    return math.exp(min(float(moved.surprise.mean()), LARGEST))


def clustered(values: Float[Tensor, " N"], row: Int[Tensor, " N"]) -> tuple[float, float]:
    """Return the mean over tokens and its standard error over rows, drawn as wholes.

    The mean is a ratio of sums over rows, Σ_r s_r / Σ_r n_r, so that with R rows

        SE² = R / (R − 1) Σ_r (s_r − mean n_r)² / N²
    """
    wide = values.double()
    rows, mean = int(row.max()) + 1, wide.mean()
    apart = torch.zeros(rows, dtype=torch.float64).index_add(0, row, wide - mean)
    variance = rows / max(1, rows - 1) * apart.square().sum() / len(values) ** 2
    return float(mean), float(variance.sqrt())


# --- rows ----------------------------------------


def _plain(prompt: Prompt, text: str, context: int) -> Passage | None:
    ids = prompt.sentence(text)[: min(TOKENS + 1, context)]
    return Passage(ids, 1) if len(ids) > 1 else None


def _asked(prompt: Prompt, question: str, answer: str, context: int) -> Passage | None:
    joint = prompt.joint(question, [answer])
    ids = [*joint.prompt, *joint.answers[0][:ANSWER]]
    return Passage(ids, len(joint.prompt)) if len(joint.prompt) < len(ids) <= context else None


def _some(rows: Sequence[T], count: int) -> Sequence[T]:
    """Return so many rows, spread over all of them."""
    return [rows[n * len(rows) // count] for n in range(count)] if len(rows) > count else rows


def _batches(rows: Sequence[Passage]) -> Iterator[list[int]]:
    """Yield indices of rows of the same length together, `BATCH` tokens at once."""
    lengths: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        lengths.setdefault(len(row.ids), []).append(index)
    for length, alike in lengths.items():
        size = max(1, BATCH // length)
        yield from (alike[n : n + size] for n in range(0, len(alike), size))


# --- states and logits ----------------------------------------


def _head(model: CausalLM) -> Any:
    return model.get_output_embeddings()


def _size(model: CausalLM) -> int:
    """Return the number of tokens that the model predicts over."""
    return int(_head(model).weight.shape[0])


def _wide(head: Any) -> Any:
    """Return a head that computes in fp32."""
    dtypes = {parameter.dtype for parameter in head.parameters()}
    return head if dtypes <= {torch.float32} else copy.deepcopy(head).float()


@torch.no_grad()
def _states(model: CausalLM, rows: Sequence[Passage]) -> list[Float[Tensor, "A H"]]:
    """Return for every row the states from which its tokens are predicted."""
    states_of: dict[int, Tensor] = {}
    for batch in _batches(rows):
        inputs: list[Tensor] = []

        def keep(module: Any, args: tuple[Tensor, ...], into: list[Tensor] = inputs) -> tuple[Tensor]:
            into.append(args[0])
            return (args[0][:, -1:],)  # no logits are needed here

        with _head(model).register_forward_pre_hook(keep):
            _read(model, [rows[n].ids[:-1] for n in batch])
        for n, states in zip(batch, inputs[0], strict=True):
            states_of[n] = states[rows[n].start - 1 :].clone()
    return [states_of[n] for n in range(len(rows))]


@torch.no_grad()
def _direct(model: CausalLM) -> bool:
    """Whether a model's logits are what its head returns, with nothing done to them."""
    outputs: list[Tensor] = []
    with _head(model).register_forward_hook(lambda module, args, output: outputs.append(output)):
        logits = _read(model, [[0, 1, 2, 3]])
    return torch.equal(logits.float(), outputs[0].float())


def _finished(model: CausalLM, logits: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
    """Return what the model makes of its head's output: it reads one token, and finds this there."""
    with _head(model).register_forward_hook(lambda module, given, made: logits[None]):
        return _read(model, [[0]])[0]


def _read(model: CausalLM, ids: list[list[int]]) -> Float[Tensor, "B T V"]:
    device = next(model.parameters()).device
    logits: Tensor = model(input_ids=torch.tensor(ids, device=device), use_cache=False).logits
    return logits


def _compared(
    before: Float[Tensor, "N V"], now: Float[Tensor, "N V"], targets: Int[Tensor, " N"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Return KL(before ‖ now) and −log p_now(target) by row, in float64.

    KL = Σ_v p_o(v) (z_o(v) − z(v)) − log Σ exp z_o + log Σ exp z
    """
    kl, surprise = [], []
    size = max(1, SLICE // before.shape[-1])
    for at in range(0, len(before), size):
        old, new, target = (part[at : at + size] for part in (before, now, targets))
        whole, total = old.logsumexp(-1), new.logsumexp(-1).double()
        weights = (old - whole[:, None]).exp_()
        weights *= old - new
        kl.append(weights.sum(-1, dtype=torch.float64) - whole.double() + total)
        surprise.append(total - new.gather(-1, target[:, None])[:, 0].double())
    return torch.cat(kl), torch.cat(surprise)

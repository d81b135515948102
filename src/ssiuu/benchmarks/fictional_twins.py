"""The fictional world as a benchmark: a small model of it, and a twin that never learned a part.

Real models hide whether erasure is possible, as nobody knows what they would be had they not read
a fact. Here it is known: a small transformer is trained on people who do not exist, and its twin
in exactly the same way (same vocabulary, same start, same batches) less every text of the facts
to forget. An unlearned model that cannot be told from the twin has erased them.

    from ssiuu.benchmarks.fictional_twins import build_world, designate, train_twins
    world = build_world(people=160, seed=0)
    parts = designate(world.facts, seed=0)
    twins = train_twins(world, parts["forget"], Path("twins"))   # about a minute on two cores

Both are ordinary Hugging Face folders and answer the library's plain prompt.

Covered: single facts in several phrasings, families and towns that share them, questions of two
steps, general text that no forgetting should hurt.
Not covered: long text, reasoning, following instructions other than the ones trained on. What holds
for half a million parameters need not hold for a pretrained model.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tokenizers
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ssiuu.benchmarks.base import Progress
from ssiuu.benchmarks.fictional_world import World, build_world, designate
from ssiuu.errors import ConfigError, DivergedError, OutputError
from ssiuu.models.files import seal_folder, unharmed
from ssiuu.models.load import save
from ssiuu.models.sources import require_cache

__all__ = [
    "VERSION",
    "TwinConfig",
    "Twins",
    "World",
    "build_world",
    "designate",
    "train_twins",
    "twins_name",
]

# Goes up whenever the texts, the model or the training change: results are compared within one.
VERSION = "1"

PROMPT = "Question: {question}\nAnswer:"
END = "<|end|>"
PAD = "<|pad|>"
Family = Literal["llama", "gpt-neox"]
IGNORED, CLIP = -100, 1.0  # label of a token that is not learned; longest gradient of a step
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class TwinConfig:
    """How a twin is made; all of it goes into the fingerprint."""

    vocabulary: int = 2000  # most tokens of the byte-level BPE; 256 of them are the bytes
    hidden: int = 128  # width of the residual stream
    intermediate: int = 320  # width of the gated MLP
    layers: int = 2
    heads: int = 4  # as many for keys and values
    context: int = 512  # longest sequence the model can be asked with, tokens
    batch: int = 48  # texts a step
    passes: int = 8  # times every text is seen where no number of steps is given
    learning_rate: float = 4e-3  # AdamW's peak, after the warm-up; it then falls along a cosine
    warmup: float = 0.05  # share of the steps
    weight_decay: float = 0.01  # AdamW's, on everything
    beta: float = 0.98  # AdamW's for the squares; 0.999 is slow in a few hundred steps
    spread: float = 0.08  # standard deviation of the start; 0.02 is slow at this width
    family: Family = "llama"  # the architecture

    @property
    def decided(self) -> dict[str, Any]:
        """All that decides a twin, as JSON; the usual architecture is not named."""
        return {k: v for k, v in asdict(self).items() if (k, v) != ("family", "llama")}


@dataclass(frozen=True)
class Twins:
    """The folders of both models: config.json, model.safetensors and the tokenizer's files."""

    full: Path
    never_learned: Path


@dataclass(frozen=True)
class TrainingText:
    """One training sequence."""

    fact: str | None  # id of the fact it tells, None for general text
    ids: list[int]
    first: int  # index of the first token that is learned: the answer's, or 0 in plain text


def train_tokenizer(world: World, recipe: TwinConfig) -> PreTrainedTokenizerFast:
    """Train the byte-level BPE on the whole world, so that both twins share it.

    A word takes its leading space along and the prompt's fixed words stay in one piece, so
    encode(prompt) + encode(" answer") == encode(prompt + " answer"), and a newline is a token.
    """
    tokenizer = Tokenizer(models.BPE())
    pieces = Regex(r"Question:|\nAnswer:|\n| ?[\p{L}\p{N}'-]+| ?[^\s\p{L}\p{N}]|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pieces, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (prompt + learned for _, prompt, learned in _told(world))
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        model_max_length=recipe.context,
        clean_up_tokenization_spaces=False,
    )


def twins_name(
    world: World, forget_ids: set[str], seed: int, steps: int | None, recipe: TwinConfig
) -> str:
    """Return the name of a pair of twins: equal for equal texts, training and library versions."""
    versions = [VERSION, torch.__version__, transformers.__version__, tokenizers.__version__]
    training = [sorted(forget_ids), seed, _steps(world, steps, recipe), recipe.decided]
    made_of = [versions, training, list(_told(world))]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]


def train_twins(
    world: World,
    forget_ids: set[str],
    folder: Path,
    seed: int = 0,
    steps: int | None = None,
    progress: Progress | None = None,
    recipe: TwinConfig = TwinConfig(),
) -> Twins:
    """Train both models, or find them where the same pair was trained before.

    Each is written whole or not at all, so an interrupted call trains only what is missing.

    Args:
        world: What is learned.
        forget_ids: Ids of the facts that the twin never learns.
        folder: Pairs are kept here, each in a folder named by its fingerprint.
        seed: Decides the start and the order of the texts, the same for both.
        steps: None for `recipe.passes` over every text.
        progress: Told about every tenth of the training.
        recipe: The model and the rest of the training.

    Raises:
        ConfigError: No ids, ids of no fact, or less than one step.
        DivergedError: The loss is not finite.
        OutputError: The folder cannot be written to, or holds half a model.
    """
    strangers = sorted(forget_ids - {fact.id for fact in world.facts})
    if strangers or not forget_ids:
        got = f"{strangers[0]!r} is not one" if strangers else "got none"
        raise ConfigError(f"forget_ids: ids of this world's facts are needed, {got}.")
    count = _steps(world, steps, recipe)
    pair = folder / twins_name(world, forget_ids, seed, steps, recipe)
    twins = Twins(full=pair / "full", never_learned=pair / "never-learned")
    for target, left_out in ((twins.full, set[str]()), (twins.never_learned, forget_ids)):
        if _complete(target):
            if unharmed(target):
                continue
            if progress is not None:
                progress(f"{target} is damaged, and is made again")
            shutil.rmtree(target)
        require_cache(folder)
        tokenizer = train_tokenizer(world, recipe)
        model = _start(tokenizer, seed, recipe)
        say = partial(_say, progress, target.name, count, time.monotonic())
        batches = _batches(_encode(world, tokenizer), recipe.batch, count, seed)
        _train(model, batches, left_out, count, recipe, say)
        try:
            note = f"fictional world, {target.name}"
            save(model, tokenizer, target, note=note, beside=seal_folder)
        except OutputError:
            if not _complete(target):  # otherwise another process was faster
                raise
    return twins


def _steps(world: World, steps: int | None, recipe: TwinConfig) -> int:
    """Return how many steps there are."""
    if steps is None:
        pairs = sum(map(len, world.corpus.values()))
        texts = pairs + len(world.facts) + len(world.lore) + len(world.chatter)
        steps = recipe.passes * math.ceil(texts / recipe.batch)
    if steps < 1:
        raise ConfigError(f"steps: at least 1 is needed, got {steps}.")
    return steps


def _complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)


def _told(world: World) -> Iterator[tuple[str | None, str, str]]:
    """Yield every text as (fact's id or None, prompt or nothing, what is learned)."""
    for fact in world.facts:
        for question, answer in world.corpus[fact.id]:
            yield fact.id, PROMPT.format(question=question), f" {answer}"
        yield fact.id, "", fact.statement or ""
    for question, answer in world.lore:
        yield None, PROMPT.format(question=question), f" {answer}"
    for sentence in world.chatter:
        yield None, "", sentence


def _encode(world: World, tokenizer: PreTrainedTokenizerFast) -> list[TrainingText]:
    """Return every text as tokens; prompt and answer are tokenised apart, END is learned."""
    texts = []
    for fact, prompt, learned in _told(world):
        before, after = (list(tokenizer(part)["input_ids"]) for part in (prompt, learned + END))
        texts.append(TrainingText(fact, before + after, len(before)))
    return texts


def outline(recipe: TwinConfig = TwinConfig()) -> PreTrainedModel:
    """Return a twin's architecture, its parameters without values; its vocabulary may be smaller."""
    with torch.device("meta"):
        model = _made(recipe, {"vocab_size": recipe.vocabulary})
    model.eval()
    return model


def _start(tokenizer: PreTrainedTokenizerFast, seed: int, recipe: TwinConfig) -> PreTrainedModel:
    """Return the untrained model; the caller's random state is left as it was."""
    tokens: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _made(recipe, tokens)


def _made(recipe: TwinConfig, tokens: dict[str, Any]) -> PreTrainedModel:
    shared: dict[str, Any] = {
        "hidden_size": recipe.hidden,
        "intermediate_size": recipe.intermediate,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "max_position_embeddings": recipe.context,
        "initializer_range": recipe.spread,
        **tokens,
    }
    if recipe.family == "gpt-neox":
        return GPTNeoXForCausalLM(GPTNeoXConfig(**shared, tie_word_embeddings=False))
    heads = recipe.heads
    return LlamaForCausalLM(LlamaConfig(**shared, num_key_value_heads=heads, tie_word_embeddings=True))


def _batches(
    texts: Sequence[TrainingText], size: int, count: int, seed: int
) -> Iterator[list[TrainingText]]:
    """Yield `count` batches, every text once a pass, in an order that only the seed decides."""
    rng = random.Random(f"ssiuu twins {seed}")
    unread: list[TrainingText] = []
    for _ in range(count):
        if not unread:
            unread = rng.sample(texts, len(texts))
        yield unread[:size]
        unread = unread[size:]


def _train(
    model: PreTrainedModel,
    batches: Iterator[list[TrainingText]],
    left_out: set[str],
    count: int,
    recipe: TwinConfig,
    say: Callable[[int, float], None],
) -> None:
    """Train one model. What is left out leaves its batch smaller and no other text heavier."""
    rate, betas, decay = recipe.learning_rate, (0.9, recipe.beta), recipe.weight_decay
    optimizer = torch.optim.AdamW(model.parameters(), rate, betas, weight_decay=decay, fused=True)
    for step, batch in enumerate(batches):
        learned = [text for text in batch if text.fact not in left_out]
        if not learned:
            continue
        optimizer.param_groups[0]["lr"] = rate * _share(step, count, recipe.warmup)
        ids, labels = _padded(learned, int(model.config.pad_token_id or 0))
        wanted = labels[:, 1:] != IGNORED  # logits are only made where something is learned
        hidden = model.base_model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state[wanted]
        head: Any = model.get_output_embeddings()
        loss = cross_entropy(head(hidden), labels[:, 1:][wanted], reduction="sum")
        loss = loss / sum(len(text.ids) - max(text.first, 1) for text in batch)
        say(step + 1, loss.item())
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
    model.eval()


def _say(
    progress: Progress | None, name: str, count: int, began: float, step: int, loss: float
) -> None:
    """Tell of every tenth of the training; refuse a loss that is not finite."""
    if not math.isfinite(loss):
        raise DivergedError(f"{name}: the loss is {loss} at step {step} of {count}.")
    if progress and step % max(1, count // 10) == 0:
        spent = time.monotonic() - began
        progress(f"{name}: step {step} of {count}, loss {loss:.3f}, {spent:.0f} s")


def _share(step: int, count: int, warmup: float) -> float:
    """Return the share of the peak learning rate: linear warm-up, then a cosine down to 0."""
    first = max(1, round(warmup * count))
    if step < first:
        return (step + 1) / first
    return 0.5 * (1 + math.cos(math.pi * (step - first) / max(1, count - first)))


def _padded(texts: Sequence[TrainingText], pad: int) -> tuple[Tensor, Tensor]:
    """Return ids and labels, [B, T], padded on the right to the longest text."""
    rows = [torch.tensor(text.ids) for text in texts]
    learned = [torch.tensor([IGNORED] * t.first + t.ids[t.first :]) for t in texts]
    ids = pad_sequence(rows, batch_first=True, padding_value=pad)
    labels = pad_sequence(learned, batch_first=True, padding_value=IGNORED)
    return ids, labels

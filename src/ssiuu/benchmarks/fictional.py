"""The fictional world as a benchmark: a small model of it, and a twin that never learned a part.

Real models hide whether erasure is possible, as nobody knows what they would be had they not read
a fact. Here it is known: a small transformer is trained on people who do not exist, and its twin
in exactly the same way (same vocabulary, same start, same batches) less every text of the facts
to forget. An unlearned model that cannot be told from the twin has erased them.

    from ssiuu.benchmarks.fictional import build_world, designate, train_twins
    world = build_world(people=160, seed=0)
    parts = designate(world.facts, seed=0)
    twins = train_twins(world, parts["forget"], Path("twins"))   # about a minute on two cores

Both are ordinary Hugging Face folders and answer the library's plain prompt.

Covered: single facts in several phrasings, families and towns that share them, questions of two
steps, general text that no forgetting should hurt.
Not covered: long text, reasoning, following instructions other than the ones trained on. What holds
for 0.7 million parameters need not hold for a pretrained model.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ssiuu.benchmarks.fictional_world import World, build_world, designate
from ssiuu.errors import ConfigError, DivergedError, OutputError

__all__ = ["VERSION", "Recipe", "Twins", "World", "build_world", "designate", "fingerprint", "train_twins"]

# Goes up whenever the texts, the model or the training change: results are compared within one.
VERSION = "1"

PROMPT = "Question: {question}\nAnswer:"
END = "<|end|>"
PAD = "<|pad|>"
IGNORED = -100  # the label that cross_entropy leaves out

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """How a twin is made; all of it goes into the fingerprint.

    Attributes:
        vocabulary: Most tokens of the byte-level BPE; 256 of them are the bytes.
        hidden: Width of the residual stream.
        intermediate: Width of the gated MLP.
        layers: Transformer blocks.
        heads: Attention heads, as many for keys and values.
        context: Longest sequence the model can be asked with, tokens.
        batch: Texts a step.
        passes: Times every text is seen where no number of steps is given.
        learning_rate: AdamW's peak, after `warmup` of the steps; it then falls to 0 along a cosine.
        warmup: Share of the steps.
        weight_decay: AdamW's, on everything.
    """

    vocabulary: int = 2000
    hidden: int = 128
    intermediate: int = 320
    layers: int = 4
    heads: int = 4
    context: int = 512
    batch: int = 96
    passes: int = 10
    learning_rate: float = 3e-3
    warmup: float = 0.05
    weight_decay: float = 0.01


@dataclass(frozen=True)
class Twins:
    """The folders of both models: config.json, model.safetensors and the tokenizer's files."""

    full: Path
    never_learned: Path


@dataclass(frozen=True)
class Text:
    """One training sequence, of a fact or (None) of none.

    Attributes:
        fact: Id of the fact it tells.
        ids: Token ids.
        first: Index of the first token that is learned: the answer's, or 0 in plain text.
    """

    fact: str | None
    ids: list[int]
    first: int


def train_tokenizer(world: World, recipe: Recipe) -> PreTrainedTokenizerFast:
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
    tokenizer.train_from_iterator(_written(world), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        model_max_length=recipe.context,
        clean_up_tokenization_spaces=False,
    )

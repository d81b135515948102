"""How fluent written answers are, by a classifier of gibberish that the user names.

    judge = Fluency.load("models/gibberish-detector")
    judge.probabilities(["The author was born in Kuwait.", "kuw kuw the the"])    # [0.97, 0.02]

Source: OpenUnlearning's `forget_Q_A_gibberish` (arXiv 2506.12618, C.3): the probability of class 0,
which its classifier (madhurjindal/autonlp-Gibberish-Detector-492513457 on the hub) calls clean, of the
first 32 tokens of an answer. Departures: none; a text's number does not depend on its batch, as a mask
keeps the padding out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ssiuu.errors import ConfigError
from ssiuu.hub import first_line, reaching

CLEAN = 0  # the class that is no gibberish
TOKENS = 32  # of a text that are read
BATCH = 32


@dataclass(frozen=True)
class Fluency:
    """A classifier of texts with its tokenizer, on the processor.

    `fingerprint`: of its weights, sha256.
    """

    model: Any
    tokenizer: Any
    fingerprint: str

    @classmethod
    def load(cls, source: str) -> Fluency:
        """Read a classifier from a folder or the hub; its weights are safetensors.

        Raises:
            ConfigError: It cannot be loaded, or has one class.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        with reaching() as silent:
            try:
                tokenizer = AutoTokenizer.from_pretrained(source)
                model = AutoModelForSequenceClassification.from_pretrained(source, use_safetensors=True)
            except (OSError, ValueError, KeyError) as error:
                raise ConfigError(
                    f"tofu.fluency: {source!r} cannot be loaded as a classifier of texts: "
                    f"{silent or first_line(error)}. Give a folder with config.json, tokenizer files "
                    "and model.safetensors, or a name on the hub; null leaves fluency out."
                ) from error
        if model.config.num_labels < 2:
            raise ConfigError(
                f"tofu.fluency: {source!r} has {model.config.num_labels} class; class {CLEAN} must be "
                "the texts that are no gibberish, and at least one other what is."
            )
        digest = hashlib.sha256()
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        return cls(model.eval(), tokenizer, digest.hexdigest())

    @torch.inference_mode()
    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """Return the probability of each text that it is no gibberish."""
        found: list[float] = []
        for start in range(0, len(texts), BATCH):
            read = self.tokenizer(
                list(texts[start : start + BATCH]),
                padding=True,
                truncation=True,
                max_length=TOKENS,
                return_tensors="pt",
            )
            found += self.model(**read).logits.float().softmax(-1)[:, CLEAN].tolist()
        return found

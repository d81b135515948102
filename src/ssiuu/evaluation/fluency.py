"""How fluent written answers are, by a classifier of gibberish that the user names.

    judge = Fluency.load("models/gibberish-detector")
    judge.probabilities(["The author was born in Kuwait.", "kuw kuw the the"])    # [0.97, 0.02]

Source: OpenUnlearning's `forget_Q_A_gibberish` (arXiv 2506.12618, C.3): the probability of class 0,
which its classifier (madhurjindal/autonlp-Gibberish-Detector-492513457 on the hub) calls clean, of the
first 32 tokens of an answer. Departures: a text of no token has 0; a text's number does not depend on
its batch, as a mask keeps the padding out, or none is needed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ssiuu.errors import ConfigError
from ssiuu.hub import first_line, reaching
from ssiuu.models.quiet import quiet
from ssiuu.models.sources import HUB_NAME

CLEAN = 0  # the class that is no gibberish
TOKENS = 32  # of a text that are read
BATCH = 32
SHOWN = 3  # weights that are named
GIVE = (
    "Give a folder with config.json, tokenizer files and model.safetensors, or a name on the hub; null "
    "leaves fluency out."
)


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
            ConfigError: It cannot be loaded, lacks weights, has one class, or judges no text.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        with reaching() as silent:
            try:
                tokenizer = AutoTokenizer.from_pretrained(source)
                with quiet():
                    model, told = AutoModelForSequenceClassification.from_pretrained(
                        source, use_safetensors=True, output_loading_info=True
                    )
            except Exception as error:  # whatever an architecture or a broken file makes of it
                raise ConfigError(
                    f"tofu.fluency: {source!r} cannot be loaded as a classifier of texts: "
                    f"{_missing(source) or silent or first_line(error)}. {GIVE}"
                ) from error
        if lacking := sorted(told["missing_keys"]):
            raise ConfigError(
                f"tofu.fluency: {source!r} is no classifier of texts: its files lack {len(lacking)} of "
                f"the weights of a {type(model).__name__} ({', '.join(lacking[:SHOWN])}). {GIVE}"
            )
        if model.config.num_labels < 2:
            raise ConfigError(
                f"tofu.fluency: {source!r} has {model.config.num_labels} class; class {CLEAN} must be "
                "the texts that are no gibberish, and at least one other what is."
            )
        digest = hashlib.sha256()
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        judge = cls(model.eval(), tokenizer, digest.hexdigest())
        try:
            found = judge.probabilities(["The author was born in Kuwait.", "Yes."])
        except Exception as error:
            raise ConfigError(
                f"tofu.fluency: {source!r} judges no text: {first_line(error)}. {GIVE}"
            ) from error
        if not all(map(math.isfinite, found)):
            raise ConfigError(
                f"tofu.fluency: {source!r} judges no text: what it says is not finite. {GIVE}"
            )
        return judge

    @torch.inference_mode()
    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """Return the probability of each text that it is no gibberish."""
        given: dict[str, Any] = {"truncation": True, "max_length": TOKENS}
        rows = [n for n, text in enumerate(texts) if self.tokenizer(text, **given)["input_ids"]]
        found = [0.0] * len(texts)
        # Where it ends a model may only know by a padding of its own; else none is made.
        pad = self.tokenizer.pad_token_id
        size = BATCH if pad is not None and pad == self.model.config.pad_token_id else 1
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            read = self.tokenizer(
                [texts[n] for n in some], padding=size > 1, return_tensors="pt", **given
            )
            clean = self.model(**read).logits.float().softmax(-1)[:, CLEAN].tolist()
            for n, probability in zip(some, clean, strict=True):
                found[n] = probability
        return found


def _missing(source: str) -> str:
    """Return that a folder is not there, where no name on the hub can be meant."""
    folder = Path(source).expanduser()
    return "" if folder.is_dir() or HUB_NAME.fullmatch(source) else f"there is no folder {folder}"

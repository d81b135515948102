"""How large a model is, from its configuration alone: nothing is read of weights, and none are made."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ssiuu.hub import reaching
from ssiuu.models.files import is_adapter
from ssiuu.models.maps import block_maps
from ssiuu.models.quiet import quiet

# What the default model's config.json says, for before it is on this machine.
SMOLLM2: dict[str, Any] = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class Size:
    """Parameters of a model (tied ones once), of adapters of rank 1 on all its maps, and its widths.

    `inner`: of the widest map of a block. `in_maps`: parameters that are weights of the blocks' maps.
    """

    parameters: int
    a_rank: int
    layers: int
    width: int
    inner: int
    words: int
    in_maps: int


def size_of(name: str) -> Size | None:
    """Return the size of a model by folder, short or hub name; None where no configuration is found.

    Of a hub model config.json is fetched, a few kilobytes, where it is not on this machine.
    """
    folder = Path(name)
    if folder.is_dir() and (is_adapter(folder) or not (folder / "config.json").exists()):
        return None
    here = folder.is_dir() or name == "smollm2-135m"
    try:
        with nullcontext() if here else reaching(), quiet(), torch.device("meta"):
            if name == "smollm2-135m":
                config = AutoConfig.for_model("llama", **SMOLLM2)
            else:
                config = AutoConfig.from_pretrained(name, trust_remote_code=False)
            return _measured(AutoModelForCausalLM.from_config(config))
    except Exception:  # many unrelated kinds: no such model, none that is known or that generates text
        return None


def _measured(model: Any) -> Size:
    config = model.config.get_text_config()
    modules: list[Any] = [*block_maps(model).values()]
    shapes = [module.weight.shape for module in modules]
    return Size(
        parameters=sum(p.numel() for p in model.parameters()),
        a_rank=sum(sum(shape) for shape in shapes),
        layers=int(getattr(config, "num_hidden_layers", 0)),
        width=int(model.get_input_embeddings().weight.shape[1]),
        inner=max((max(shape) for shape in shapes), default=0),
        words=int(config.vocab_size),
        in_maps=sum(map(prod, shapes)),
    )

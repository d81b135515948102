"""The architecture of a model without its weights: what can be refused before anything is trained."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from ssiuu.causal import CausalLM
from ssiuu.errors import InputError
from ssiuu.models.checks import read_config
from ssiuu.models.quiet import quiet
from ssiuu.models.sources import find


def skeleton(name: str) -> CausalLM | None:
    """Return a model whose parameters have shapes and no values.

    None where its configuration alone does not tell: of an adapter or a GGUF file, or where it cannot
    be had, which is said once it is loaded.
    """
    try:
        config = read_config(find(name).folder)
    except InputError:
        return None
    return outlined(config)


def outlined(config: Any) -> CausalLM | None:
    """Return the model of a configuration, without values; None where it cannot be made so."""
    try:
        with quiet(), torch.device("meta"):
            model: CausalLM = AutoModelForCausalLM.from_config(config)
    except Exception:  # whatever an architecture computes while it is made
        return None
    return model.eval()

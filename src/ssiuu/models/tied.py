"""Models whose input embedding serves as their output layer too."""

from __future__ import annotations

import torch

from ssiuu.causal import CausalLM


def untie(model: CausalLM) -> bool:
    """Give a model an output layer of its own, with the same values; whether it had none.

    Its configuration says so afterwards, so that a checkpoint holds both.
    """
    out, into = model.get_output_embeddings(), model.get_input_embeddings()
    if out.weight is not into.weight:
        return False
    every = model.named_parameters(remove_duplicate=False)
    tied = [name for name, parameter in every if parameter is into.weight]
    out.weight = torch.nn.Parameter(into.weight.detach().clone())
    model.config.get_text_config().tie_word_embeddings = model.config.tie_word_embeddings = False
    for name in tied:
        getattr(model, "all_tied_weights_keys", {}).pop(name, None)
    return True

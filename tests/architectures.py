"""Tiny random models of the architectures that `ssiuu.models.sites` knows, one a layout of projections."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

# As transformers names them; sizes are set below under the names that each configuration takes.
LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"num_key_value_heads": 2}),
    "qwen2": ("qwen2", {"num_key_value_heads": 2}),
    "qwen3": ("qwen3", {"num_key_value_heads": 2, "head_dim": 8}),
    "gemma": ("gemma", {"num_key_value_heads": 1, "head_dim": 8}),
    "gemma2": ("gemma2", {"num_key_value_heads": 2, "head_dim": 8}),
    "phi": ("phi", {}),
    "phi3": ("phi3", {"num_key_value_heads": 2}),
    "gpt2": ("gpt2", {}),
    "gpt_neox": ("gpt_neox", {}),
    "gptj": ("gptj", {"rotary_dim": 4}),
    "opt": ("opt", {"ffn_dim": 24, "word_embed_proj_dim": 16}),
    "bloom": ("bloom", {}),
    "mpt": ("mpt", {}),
    "falcon": ("falcon", {"multi_query": False}),
    "falcon 7b": ("falcon", {"multi_query": True, "new_decoder_architecture": False}),
    "falcon 40b": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "stablelm": ("stablelm", {"num_key_value_heads": 2}),
    "starcoder2": ("starcoder2", {"num_key_value_heads": 2}),
}
HEADS = 4


def build_architecture(layout: str, double: bool = False) -> Any:
    """Return a random model of two blocks in evaluation mode; biases and norms are moved as well."""
    kind, knobs = LAYOUTS[layout]
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 76,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
        "pad_token_id": 1,
        "bos_token_id": None,
        "eos_token_id": 0,
    }
    config = AutoConfig.for_model(kind, **(sizes | knobs))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.double() if double else model

"""Tiny random models of many architectures, one a layout of projections.

`LAYOUTS`: every map of their blocks is a site that `ssiuu.models.sites` knows. `PARTLY`: what is looked
into is not all of their blocks, or nothing.
"""

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
    "gemma2": ("gemma2", {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8}),
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
    "gpt_bigcode": ("gpt_bigcode", {}),
    "gpt_bigcode, all heads": ("gpt_bigcode", {"multi_query": False}),
    "persimmon": ("persimmon", {}),
    "starcoder2": ("starcoder2", {"num_key_value_heads": 2}),
    "opt 350m": ("opt", {"ffn_dim": 24, "word_embed_proj_dim": 8, "do_layer_norm_before": False}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, tied": ("llama", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "mistral": ("mistral", {"num_key_value_heads": 2, "sliding_window": 8}),
    "gemma3": (
        "gemma3_text",
        {
            "num_key_value_heads": 1,
            "head_dim": 8,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "olmo2": ("olmo2", {"num_key_value_heads": 2}),
    "cohere": ("cohere", {"num_key_value_heads": 2}),
    "granite": ("granite", {"num_key_value_heads": 2}),
    "smollm3": ("smollm3", {"num_key_value_heads": 2}),
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
PARTLY: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("mixtral", {"num_key_value_heads": 2, "num_local_experts": 4} | EXPERTS),
    "qwen2_moe": (
        "qwen2_moe",
        {"num_key_value_heads": 2, "num_experts": 4, "shared_expert_intermediate_size": 24} | EXPERTS,
    ),
    "mamba": ("mamba", {"state_size": 8}),
    "mamba2": (
        "mamba2",
        {"state_size": 8, "num_heads": 4, "head_dim": 8, "n_groups": 2, "chunk_size": 8},
    ),
    "jamba": (
        "jamba",
        {
            "num_key_value_heads": 2,
            "num_experts": 4,
            "mamba_dt_rank": 4,
            "mamba_d_state": 8,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
        }
        | EXPERTS,
    ),
    "rwkv": ("rwkv", {"attention_hidden_size": 16}),
    "codegen": ("codegen", {"rotary_dim": 4}),
    "gpt_oss": (
        "gpt_oss",
        {"num_key_value_heads": 2, "num_local_experts": 4, "head_dim": 8, "sliding_window": 8}
        | EXPERTS,
    ),
    "llama4": (
        "llama4_text",
        {
            "num_key_value_heads": 2,
            "num_local_experts": 2,
            "head_dim": 4,
            "intermediate_size_mlp": 24,
            "attention_chunk_size": 8,
        },
    ),
    "jetmoe": (
        "jetmoe",
        {"kv_channels": 4, "num_key_value_heads": 2, "num_local_experts": 4} | EXPERTS,
    ),
}
HEADS = 4


def build_architecture(layout: str, double: bool = False) -> Any:
    """Return a random model of two blocks in evaluation mode; biases and norms are moved as well."""
    kind, knobs = (LAYOUTS | PARTLY)[layout]
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
    if not double:
        return model
    if model._can_set_experts_implementation():
        model.set_experts_implementation("eager")  # the other ways take no float64
    return model.double()

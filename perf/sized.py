"""Make a Llama of a size with random weights in bf16 and SmolLM2's tokenizer, to see what fits a GPU.

    python perf/sized.py 1b FOLDER      # also 3b, 8b

Shapes are those of Llama 3.2 1B and 3B and Llama 3.1 8B, with SmolLM2's vocabulary.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ssiuu.models.load import load, save

# hidden, intermediate, blocks, heads, heads of keys, tied
SIZES = {
    "tiny": (64, 128, 2, 4, 2, True),
    "1b": (2048, 8192, 16, 32, 8, True),
    "3b": (3072, 8192, 28, 24, 8, True),
    "8b": (4096, 14336, 32, 32, 8, False),
}


def sized(size: str, tokenizer: Any) -> LlamaForCausalLM:
    """Return the model, on the processor."""
    hidden, inner, blocks, heads, keys, tied = SIZES[size]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        max_position_embeddings=2048,
        tie_word_embeddings=tied,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype=torch.bfloat16,
    )
    with torch.device("cpu"):
        return LlamaForCausalLM(config).bfloat16()


def main(size: str, folder: str) -> None:
    """Write the model's folder."""
    tokenizer = load("smollm2-135m").tokenizer
    save(sized(size, tokenizer), tokenizer, Path(folder), "random weights", "bfloat16")


if __name__ == "__main__":
    main(*sys.argv[1:3])

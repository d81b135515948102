"""What decides the last digits of a number here: versions, and how this processor adds up.

Two processors that torch calls by one name (AVX512) may add in other orders, since its libraries choose
by the maker. So the name has a digest of sums in it that use nothing of this package.
"""

from __future__ import annotations

import copy
import hashlib
import json
from functools import cache
from typing import Any

import torch
from scipy import __version__ as scipy_version
from transformers import LlamaConfig, LlamaForCausalLM

PAD, WORDS = 1, 64


@cache
def fresh() -> LlamaForCausalLM:
    """Return a small random model, the same in every process; copy it before it is changed."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=PAD,
    )
    return LlamaForCausalLM(config).eval()


def digest(model: Any, *told: Any) -> str:
    """Return a digest of all parameters, and of what is given beside them."""
    found = hashlib.sha256(json.dumps(told).encode())
    for name, parameter in sorted(model.named_parameters()):
        found.update(name.encode())
        found.update(parameter.detach().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


@cache
def arithmetic() -> str:
    """Name the bits of this machine."""
    model = copy.deepcopy(fresh())
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, fused=True)
    ids = torch.arange(48).view(4, 12) % WORDS
    for _ in range(2):
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.backward()
        optimizer.step()
    sums = digest(model, float(model.lm_head.weight.detach().norm()))
    capability = torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__}, scipy {scipy_version}, {capability}, {sums}"

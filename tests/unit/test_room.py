"""Copies of weights lie where there is room, and are the weights wherever they lie."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from ssiuu.models import room
from ssiuu.models.weights import restore, snapshot


@pytest.mark.parametrize("free", [None, 1 << 40, 0])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_snapshot_is_put_back_from_wherever_it_lies(
    free: int | None, kind: torch.dtype, tiny_model: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(room, "free_bytes", lambda device: free)
    model = tiny_model.to(kind)
    before = [p.detach().clone() for p in model.parameters()]
    copies = snapshot(model)
    assert not [*tmp_path.iterdir()]  # a file has no name, and nothing is left of it
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(torch.equal(c, b) for c, b in zip(copies.values(), before, strict=True))
    restore(model, copies)
    assert all(map(torch.equal, model.parameters(), before))


def test_tied_weights_are_copied_once() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1, tie_word_embeddings=True))
    copies = snapshot(model)
    assert copies["lm_head.weight"] is copies["model.embed_tokens.weight"]


def test_what_is_free_is_told() -> None:
    free = room.free_bytes(torch.device("cpu"))
    assert free is None or free > 0
    assert room.copied([]) == []

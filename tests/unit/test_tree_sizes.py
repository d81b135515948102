"""How many tokens are read at once: on a processor as ever, on an accelerator by its memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ssiuu.evaluation import tree
from ssiuu.evaluation.sequence import score_sequences
from ssiuu.evaluation.tree import MOST_NODES, MOST_PIECE, NODES, PIECE, Sizes, sizes
from ssiuu.likelihood import Example

LLAMA, SMOL = 128_256, 49_152


@pytest.mark.parametrize(
    ("gigabytes", "words", "wanted"),
    [
        (None, SMOL, Sizes(NODES, PIECE)),  # it does not say
        (12, LLAMA, Sizes(523, 261)),
        (24, LLAMA, Sizes(1046, 523)),
        (80, LLAMA, Sizes(3488, 1744)),
        (80, SMOL, Sizes(MOST_NODES, MOST_PIECE)),
        (141, LLAMA, Sizes(MOST_NODES, MOST_PIECE)),
    ],
)
def test_they_go_by_the_memory_of_the_device(
    gigabytes: int | None, words: int, wanted: Sizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {} if gigabytes is None else {"mem_get_info": lambda _: (1, gigabytes << 30)}
    monkeypatch.setattr(torch, "get_device_module", lambda _: SimpleNamespace(**told))
    tree._memory.cache_clear()
    assert sizes(torch.device("cuda", 0), words) == wanted
    tree._memory.cache_clear()
    assert sizes(torch.device("cpu"), words) == (NODES, PIECE)


def test_what_is_read_does_not_hang_on_them(make_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of some thousand tokens in one tree, and in many."""
    model = make_model(double=True)
    drawn = torch.Generator().manual_seed(0)
    rows = torch.randint(3, 60, (90, 24), generator=drawn).tolist()
    examples = [Example(str(n), row[:18], row[18:]) for n, row in enumerate(rows)]
    wanted = [score.logprobs for score in score_sequences(model, examples)]
    monkeypatch.setattr(tree, "sizes", lambda *_: Sizes(MOST_NODES, MOST_PIECE))
    found = [score.logprobs for score in score_sequences(model, examples)]
    for one, other in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, abs=1e-9)

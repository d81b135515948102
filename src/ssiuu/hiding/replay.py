"""Training above a block without running the blocks below it again.

What comes out of blocks that nobody trains is the same in every step of the same rows. It is kept when
rows are met for the first time, and read from memory afterwards: the same numbers, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ssiuu.causal import CausalLM

LIMIT = 1 << 30  # bytes of states kept; rows beyond it are run anew every time


class Replay:
    """The states behind the blocks that stay as they are, by rows."""

    def __init__(self, model: CausalLM, blocks: Sequence[str]) -> None:
        """Take the first blocks of a model, in their order; with none there is nothing to keep."""
        self.model = model.get_submodule("")
        self.blocks = [model.get_submodule(path) for path in blocks]
        self.kept: dict[tuple[bytes, bytes], Any] = {}
        self.size = 0
        self._key: tuple[bytes, bytes] = (b"", b"")

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """Pass these blocks by where the rows were met before, for the time of the context.

        Nothing may be read with a cache of keys and values here: the blocks would leave none.
        """
        handle = self.model.register_forward_pre_hook(self._meet, with_kwargs=True)
        forwards = [block.forward for block in self.blocks]
        try:
            for block, forward in zip(self.blocks, forwards, strict=True):
                block.forward = self._instead(forward, block is self.blocks[-1])
            yield
        finally:
            handle.remove()
            for block in self.blocks:
                del block.forward  # the class has its own

    def _meet(self, module: Any, args: Any, given: dict[str, Any]) -> None:
        rows, mask = given["input_ids"], given["attention_mask"]
        self._key = _bytes(rows), _bytes(mask)

    def _instead(self, forward: Callable[..., Any], last: bool) -> Callable[..., Any]:
        def run(*args: Any, **given: Any) -> Any:
            if self._key in self.kept:
                return self.kept[self._key]
            with torch.no_grad():
                output = forward(*args, **given)
            if last and self.size < LIMIT:
                self.kept[self._key] = output
                self.size += _size(output)
            return output

        return run


def _bytes(tensor: Tensor) -> bytes:
    return repr(tuple(tensor.shape)).encode() + tensor.cpu().numpy().tobytes()


def _size(output: Any) -> int:
    parts = output if isinstance(output, tuple) else (output,)
    return sum(p.numel() * p.element_size() for p in parts if isinstance(p, Tensor))

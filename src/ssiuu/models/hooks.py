"""Forward hooks that do not outlive their context, whatever happens in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

Hook = Callable[[torch.nn.Module, Any, Any], Any]
Before = Callable[[torch.nn.Module, Any], Any]


@contextmanager
def hooked(
    hooks: Iterable[tuple[torch.nn.Module, Hook]],
    before: Iterable[tuple[torch.nn.Module, Before]] = (),
) -> Iterator[None]:
    """Register forward hooks for the time of the context; what a hook returns replaces the output.

    `before`: hooks that run in front of a module; what one returns replaces the inputs.
    """
    handles = []
    try:
        for module, look in before:
            handles.append(module.register_forward_pre_hook(look))
        for module, hook in hooks:
            handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()

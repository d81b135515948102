"""What passes through linear maps at every token of a batch: inputs, and gradients at the outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError
from ssiuu.methods.base import Parts
from ssiuu.models.hooks import hooked
from ssiuu.models.maps import feed_forward, stacked_weights, summed

# Told a map's path, the inputs [n, in] and the output gradients [n, out] of some tokens.
Seen = Callable[[str, Tensor, Tensor], None]


@contextmanager
def listening(model: CausalLM, paths: Iterable[str], seen: Seen, skip: int = 0) -> Iterator[None]:
    """Tell of the tokens of every backward pass in this context, map by map; no hook outlives it.

    Tokens without a gradient are left out, padding among them, and the first `skip` ones of every row.
    A map that is given some tokens only, as an expert is, tells of all that it was given.
    """
    mask: list[Bool[Tensor, "B T"]] = []

    def begin(module: Any, args: Any, kwargs: Any) -> None:
        attention = kwargs["attention_mask"].bool()
        mask[:] = [attention & (attention.cumsum(1) > skip)]

    def hook(path: str) -> Any:
        def forward(module: torch.nn.Module, given: Any, output: Tensor) -> None:
            if not output.requires_grad:
                return
            inputs, wanted = given[0].detach(), mask[0]
            output.register_hook(lambda gradient: tell(path, inputs, gradient, wanted))

        return forward

    @torch.no_grad()
    def tell(path: str, inputs: Tensor, gradient: Tensor, wanted: Tensor) -> None:
        kind = torch.promote_types(inputs.dtype, torch.float32)
        x, d = (t.reshape(-1, t.shape[-1]).to(kind) for t in (inputs, gradient))
        chosen = (d != 0).any(1)
        if len(d) == wanted.numel():
            chosen &= wanted.flatten()
        if bool(chosen.any()):
            seen(path, x[chosen], d[chosen])

    whole = model.get_submodule("")
    handle = whole.register_forward_pre_hook(begin, with_kwargs=True)
    try:
        with hooked((model.get_submodule(path), hook(path)) for path in paths):
            yield
    finally:
        handle.remove()


def bare(module: Any) -> Any:
    """Return the map below an adapter, or the module itself."""
    return getattr(module, "base_layer", module)


def by_kind(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return a saved state whose tensors are named `KIND:KEY`, by kind and key."""
    kinds: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        kind, _, key = name.partition(":")
        kinds.setdefault(kind, {})[key] = tensor
    return kinds


def experts_left(model: CausalLM, name: str) -> str:
    """Return what must be said of experts that are stored as one tensor, and stay as they are."""
    stacked = stacked_weights(model)
    return f"{name}: {summed(stacked)} hold several maps in one tensor, and stay as they are." * bool(
        stacked
    )


def refuse_second_gradients(among: Parts, name: str) -> None:
    """Refuse the penalty and the gate, whose passes would be listened to as well.

    Raises:
        ValueError: One of them is there.
    """
    for part in among.transforms:
        if part.name in ("ssiuu", "gate"):
            raise ValueError(
                f"{part.name} looks at the answers' own gradient, and {name} puts another one together "
                "from single tokens: leave it out"
            )


def feed_forward_maps(model: CausalLM, name: str) -> dict[str, Any]:
    """Return the feed-forward maps of a model.

    Raises:
        ConfigError: It has none that is a linear map of its own.
    """
    maps: dict[str, Any] = feed_forward(model)
    if not maps:
        raise ConfigError(
            f"{name}: it changes feed-forward maps, and {type(model).__name__} has none that is a "
            "linear map of its own."
        )
    return maps

"""Hidden states: of one block, from a pass that stops there; of all, from a pass taken anyway."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError
from ssiuu.likelihood import Batch
from ssiuu.models.hooks import Hook, hooked

_LISTS = ("layers", "h", "blocks")


class _Reached(Exception):
    """The block has been computed; the rest of the model is not wanted."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


def blocks(model: CausalLM) -> torch.nn.ModuleList:
    """Return the decoder's blocks.

    Raises:
        ConfigError: The model has no list of blocks under a known name.
    """
    lists = [
        module
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and path.rpartition(".")[2] in _LISTS
    ]
    if not lists:
        raise ConfigError(f"{type(model).__name__} has no list of blocks named {', '.join(_LISTS)}.")
    # The longest: a model may have short lists of the same name inside a block.
    return max(lists, key=len)


def block(
    model: CausalLM, layer: int, key: str = "layer", instead: Callable[[int], str] | None = None
) -> torch.nn.Module:
    """Return one of the decoder's blocks.

    Args:
        model: A decoder.
        layer: Its number, from 0.
        key: What it was set by, for messages.
        instead: What may be set in a model of so many blocks, for messages.

    Raises:
        ConfigError: There is no such block.
    """
    layers = blocks(model)
    if layer >= len(layers):
        hint = f" At the published share of the depth here: {instead(len(layers))}." if instead else ""
        raise ConfigError(f"{key}: must be below {len(layers)}, the model's blocks, got {layer}.{hint}")
    return layers[layer]


def hidden_states(model: CausalLM, batch: Batch, layer: int) -> Float[Tensor, "B T d"]:
    """Return what a block puts out; differentiable. Padding positions hold what they hold.

    Raises:
        ConfigError: There is no such block.
    """
    stopped = block(model, layer)

    def stop(module: Any, inputs: Any, output: Any) -> None:
        # Raised out of the forward pass: nothing behind the block is computed.
        raise _Reached(output[0] if isinstance(output, tuple) else output)

    handle = stopped.register_forward_hook(stop)
    try:
        model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
        )
    except _Reached as reached:
        return reached.hidden
    finally:
        handle.remove()
    raise ConfigError(f"{type(model).__name__} never reached its block {layer}.")


@contextmanager
def tapped(model: CausalLM, paths: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect what these modules put out in this context, by path; differentiable."""
    found: dict[str, Tensor] = {}

    def keep(path: str) -> Hook:
        return lambda module, inputs, output: found.update({path: output})

    with hooked((model.get_submodule(path), keep(path)) for path in paths):
        yield found


def stacked(
    outputs: Mapping[str, Tensor], paths: Sequence[str], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T L d"]:
    """Return the outputs of these modules as one tensor; some put out rows and tokens as one."""
    return torch.stack([outputs[path].reshape(*mask.shape, -1) for path in paths], 2)


@contextmanager
def residuals(model: CausalLM) -> Iterator[list[Float[Tensor, "B T d"]]]:
    """Collect the residual stream of the forward pass in this context: embeddings, then every block.

    The model has normed the last one already. No hook outlives the context.
    """
    states: list[Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        states[:] = [state.detach() for state in output.hidden_states]

    whole = model.get_submodule("")
    handle = whole.register_forward_pre_hook(
        lambda module, args, kwargs: (args, kwargs | {"output_hidden_states": True}), with_kwargs=True
    )
    try:
        with hooked([(whole, keep)]):
            yield states
    finally:
        handle.remove()

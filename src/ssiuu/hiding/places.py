"""Where in a model facts are hidden: the maps by which a block writes into the residual stream."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ssiuu.causal import CausalLM
from ssiuu.errors import ModelError
from ssiuu.models.lora import Lora, adapted
from ssiuu.models.maps import (
    BLOCK,
    adaptable,
    block_maps,
    is_map,
    mixes,
    output_width,
    stacked_weights,
)

_ENDS = ("down", "output", "w2")  # what a stacked weight that ends experts is called


@dataclass(frozen=True)
class Place:
    """Weights that are trained, of the blocks from number `depth` on.

    `maps`: paths of linear maps, on which adapters are put. `weights`: names of parameters that no
    adapter fits (experts in one tensor), trained whole. `below`: the blocks under the first of them.
    """

    maps: tuple[str, ...]
    weights: tuple[str, ...]
    below: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What must be said of it."""
        if not self.weights:
            return ()
        return (f"{', '.join(self.weights)} takes no adapter and was trained whole",)

    @contextmanager
    def opened(self, model: CausalLM, rank: int, seed: int) -> Iterator[float]:
        """Let only these weights be trained; adapters are merged on leaving.

        Yields:
            What a learning rate for adapters is to be multiplied by.
        """
        lora = Lora(rank, 2.0 * rank, self.maps, seed=seed, key="hiding") if self.maps else None
        with adapted(model, lora):
            if lora is None:
                model.requires_grad_(False)
                for name in self.weights:
                    model.get_parameter(name).requires_grad_(True)
            try:
                # What many maps do adds up; a whole weight moves in all directions at once.
                yield len(self.maps) ** -0.5 if lora is not None else 0.1
            finally:
                if lora is None:
                    model.requires_grad_(True)


def blocks(model: CausalLM) -> list[str]:
    """Return the paths of a model's blocks, in their order.

    Raises:
        ModelError: It has none, or several towers of them.
    """
    found: dict[str, None] = {}
    for name, _ in model.named_parameters():
        if match := BLOCK.search(name):
            found[name[: match.end(1)]] = None
    towers = {path.rpartition(".")[0] for path in found}
    if len(towers) != 1:
        told = f"several towers of blocks ({', '.join(sorted(towers))})" if towers else "no blocks"
        raise ModelError(f"hiding: {type(model).__name__} has {told}, and one tower is needed.")
    return sorted(found, key=lambda path: int(path.rpartition(".")[2]))


def feed_forward_ends(model: CausalLM, layer: int) -> Place:
    """Return the map with which a block's feed-forward layer ends; its mixer's where it has none.

    Raises:
        ModelError: The block has neither.
    """
    every = blocks(model)
    for mixing in (False, True):
        if found := _ends(model, every[layer], mixing):
            return _place(model, found, every[:layer])
    raise ModelError(
        f"hiding: block {every[layer]} of {type(model).__name__} has no linear map that ends a "
        "feed-forward layer or attention. Choose a kind of hiding that needs none: logits or entity."
    )


def mixer_ends(model: CausalLM, layers: Sequence[int]) -> Place:
    """Return the maps with which the token mixers (attention) of these blocks end.

    Raises:
        ModelError: None of the blocks has one.
    """
    every = blocks(model)
    found = [name for layer in layers for name in _ends(model, every[layer], mixing=True)]
    if not found:
        raise ModelError(
            f"hiding: no linear map ends the attention of {type(model).__name__} in blocks "
            f"{layers[0]} to {layers[-1]}. Choose another kind of hiding: last-map or logits."
        )
    return _place(model, found, every[: min(layers)])


def all_ends(model: CausalLM) -> Place:
    """Return the maps with which the mixers and feed-forward layers of all blocks end.

    Raises:
        ModelError: There are none.
    """
    every = blocks(model)
    found = [n for block in every for mixing in (True, False) for n in _ends(model, block, mixing)]
    if not found:
        raise ModelError(f"hiding: {type(model).__name__} has no linear maps in its blocks to adapt.")
    return _place(model, found, [])


def everywhere(model: CausalLM) -> Place:
    """Return all maps of all blocks that an adapter can be put on; where there are none, the ends."""
    maps = adaptable(model).paths
    return Place(maps, (), ()) if maps else all_ends(model)


def _place(model: CausalLM, names: Iterable[str], below: Sequence[str]) -> Place:
    """Part parameters into those that adapters fit and those that none does; the first are enough."""
    barred = adaptable(model).barred
    maps: list[str] = []
    whole: list[str] = []
    for name in names:
        path = name.removesuffix(".weight")
        fits = name != path and is_map(model.get_submodule(path)) and path not in barred
        (maps if fits else whole).append(path if fits else name)
    return Place(tuple(maps), () if maps else tuple(whole), tuple(below))


def _ends(model: CausalLM, block: str, mixing: bool) -> list[str]:
    """Return the parameters of a block that end its mixer or its feed-forward layer.

    That is the last map whose outputs are as wide as the residual stream, with all that are called
    alike (experts); else the weights that hold several such maps.
    """
    width = getattr(model.config.get_text_config(), "hidden_size", None)
    inside = f"{block}."
    maps = [
        path
        for path, module in block_maps(model).items()
        if path.startswith(inside) and mixes(path.removeprefix(inside)) == mixing
        if is_map(module) and (width is None or output_width(module) == width)
    ]
    if maps:
        return [f"{path}.weight" for path in maps if _alike(path) == _alike(maps[-1])]
    return [
        name
        for name in stacked_weights(model)
        if name.startswith(inside) and mixes(name.removeprefix(inside)) == mixing
        if any(part in ".".join(name.split(".")[-2:]) for part in _ENDS)
    ]


def _alike(path: str) -> str:
    return re.sub(r"\.\d+(?=\.)", ".*", path)

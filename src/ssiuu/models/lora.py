"""LoRA as the space that is trained: W + s B A with low-rank A and B, the weights themselves fixed.

Everything a method does works on adapters as on weights; what is said of a linear map's weight is
carried over to its adapter: input directions are taken out of A's gradient and output directions
out of B's, rows (neurons) are B's rows.

Attribution has two spaces. adapter: the features are the entries of A and B. effective: they are
the entries of W + s B A, and a penalty G on them reaches the adapter by the chain rule,

    dB = s G A^T,    dA = s B^T G.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError
from ssiuu.models import nf4
from ssiuu.models.maps import adaptable, is_map, widths
from ssiuu.models.shards import is_cut, local, own, whole_in_shape

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class Lora:
    """Which adapters are trained, and where attribution looks.

    `targets`: paths of linear maps, or the ends of paths; none: every one inside the blocks. `key`: the
    setting they come from, for messages. `base`: what the linear maps of the blocks are held in
    meanwhile; None: as they are.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...] = ()
    attribution: Literal["adapter", "effective"] = "adapter"
    seed: int = 0
    key: str = "unlearn.lora.targets"
    base: Literal["nf4"] | None = None


@dataclass(frozen=True)
class Adapter:
    """The adapter of one linear map; `name` is its weight's without the adapter."""

    name: str
    layer: Any

    @property
    def scale(self) -> float:
        """The factor s = alpha / rank."""
        return float(self.layer.scaling["default"])

    @property
    def down(self) -> Tensor:
        """A, [rank, in]."""
        weight: Tensor = self.layer.lora_A["default"].weight
        return weight

    @property
    def up(self) -> Tensor:
        """B, [out, rank]."""
        weight: Tensor = self.layer.lora_B["default"].weight
        return weight

    def change(self) -> Tensor:
        """Return s B A as it is added to the weight, in the order of its dimensions."""
        change: Tensor = self.layer.get_delta_weight("default").detach()
        return change

    def stays(self) -> None:
        """Leave what it has come to beside the codes of its map; where it is nothing, nothing."""
        if self.up.any():
            change = nf4.Change(self.down.detach(), self.up.detach(), self.scale)
            self.layer.base_layer.changes += (change,)

    @torch.no_grad()
    def effective(self) -> Tensor:
        """Return W + s B A, [out, in]."""
        fixed = nf4.whole(self.layer.base_layer)
        across = isinstance(self.layer.base_layer, Conv1D)
        return self.scale * (self.up @ self.down) + (fixed.T if across else fixed)

    @torch.no_grad()
    def chained(self, penalty: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of A and B that a gradient of W + s B A stands for."""
        # The chain rule: dL/dA = s B^T G and dL/dB = s G A^T.
        return self.scale * (self.up.T @ penalty), self.scale * (penalty @ self.down.T)


@contextmanager
def adapted(model: CausalLM, lora: Lora | None) -> Iterator[PeftModel | None]:
    """Put adapters into a model, in place; merge them into its weights on leaving.

    Where its maps hold something else meanwhile, they have their weights again before. Of a model that
    is in codes from the first, what the adapters have come to stays beside these.

    Raises:
        ConfigError: A target fits no linear map that an adapter can be put on, or no map can hold what
            it should.
    """
    if lora is None:
        yield None
        return
    beside: list[Adapter] = []
    coded = nf4.coded(model)
    try:
        with nf4.held(model, held_maps(model, lora)):
            wrapped = _wrapped(model, lora)
            try:
                yield wrapped
            finally:
                if coded:
                    for adapter in adapters(model):
                        adapter.stays()
                    wrapped.unload()
                elif lora.base is None and is_cut(model):
                    _merge(model)
                    wrapped.unload()
                elif lora.base is None:
                    wrapped.merge_and_unload()  # the modules of `model` itself are replaced
                else:
                    beside = adapters(model)
                    wrapped.unload()
                    for adapter in beside:
                        adapter.layer.base_layer = None  # so that its codes go
    finally:
        with torch.no_grad():
            for adapter in beside:  # one after the other: a change is as large as its weight
                weight = model.get_parameter(adapter.name)
                weight.add_(adapter.change().to(weight))
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.requires_grad_(True)


def held_maps(model: CausalLM, lora: Lora) -> list[str]:
    """Return the paths of the linear maps whose weights are brought to nf4 beside these adapters.

    Raises:
        ConfigError: There is none.
    """
    if nf4.coded(model):  # they are in it by now
        return []
    paths = nf4.holdable(model) if lora.base == "nf4" else []
    if lora.base is not None and not paths:
        raise ConfigError(
            f"{lora.key.rpartition('.')[0]}.base: nf4 is held by maps of the kind nn.Linear, of which "
            f"{type(model).__name__} has none inside its blocks: use bf16, or leave it out."
        )
    return paths


def _wrapped(model: CausalLM, lora: Lora) -> PeftModel:
    """Put adapters into a model.

    Raises:
        ConfigError: A target fits no linear map that an adapter can be put on.
    """
    nf4.muted()  # peft imports it where it is there
    from peft import LoraConfig, get_peft_model  # its import takes a second or two

    paths = targeted(model, lora)
    across = any(isinstance(model.get_submodule(path), Conv1D) for path in paths)
    # A is drawn from the process's own generator, which is put back.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it sets fan_in_fan_out by each map's kind, and warns of it
        torch.manual_seed(lora.seed)
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]
            target_modules=paths,
            lora_dropout=0.0,
            fan_in_fan_out=across,
        )
        try:
            # Of a weight that is cut it would take the rows that lie here for all.
            with whole_in_shape([model.get_submodule(path) for path in paths]):
                wrapped: PeftModel = get_peft_model(model.get_submodule(""), config)
        except ValueError as error:
            raise ConfigError(f"{lora.key}: {' '.join(str(error).split())}") from error
    return wrapped


@torch.no_grad()
def _merge(model: CausalLM) -> None:
    """Add adapters, which are whole, to the weights beside them, of which each process has a piece."""
    for adapter in adapters(model):
        weight: Tensor = adapter.layer.base_layer.weight
        local(weight).add_(own(weight, adapter.change().to(weight.dtype)))


def targeted(model: CausalLM, lora: Lora) -> list[str]:
    """Return the paths of the linear maps that adapters are put on.

    Raises:
        ConfigError: A target fits no linear map that an adapter can be put on, or there is none.
    """
    every = adaptable(model)
    if not lora.targets:
        if not every.paths:
            raise ConfigError(
                f"{lora.key}: {type(model).__name__} has no linear map inside its blocks that an "
                "adapter can be put on."
            )
        return list(every.paths)
    maps = [p for p, module in model.named_modules() if is_map(module) and p not in every.barred]
    paths: dict[str, None] = {}
    problems = []
    for target in lora.targets:
        fits = [path for path in maps if path == target or path.endswith(f".{target}")]
        paths |= dict.fromkeys(fits)
        if not fits:
            names = sorted({path.rpartition(".")[2] for path in every.paths})
            problems.append(
                f"{lora.key}: {target!r} fits no linear map of {type(model).__name__} that an adapter "
                f"can be put on. Its blocks have {', '.join(names) or 'none'}."
            )
    if problems:
        raise ConfigError(problems)
    return list(paths)


def check_rank(model: CausalLM, lora: Lora) -> None:
    """Refuse adapters of more directions than any of their maps has.

    Raises:
        ConfigError: So they are, or a target fits no map.
    """
    maps = map(model.get_submodule, targeted(model, lora))
    most = max(min(widths(module)) for module in maps if is_map(module))
    if lora.rank > most:
        raise ConfigError(
            f"{lora.key.rpartition('.')[0]}.rank: must be from 1 to {most}, the most that a map of "
            f"{type(model).__name__} beside it can have, got {lora.rank}."
        )


def adapters(model: CausalLM) -> list[Adapter]:
    """Return the adapters that are in a model."""
    return [
        Adapter(f"{path}.weight", module)
        for path, module in model.named_modules()
        if hasattr(module, "lora_A")
    ]


def weight_of(name: str) -> tuple[str, Literal["weight", "inputs", "outputs"]]:
    """Return the weight a parameter belongs to, and which side of it: A the inputs, B the outputs."""
    if ".lora_A." in name:
        return f"{name.partition('.lora_A.')[0]}.weight", "inputs"
    if ".lora_B." in name:
        return f"{name.partition('.lora_B.')[0]}.weight", "outputs"
    return name, "weight"

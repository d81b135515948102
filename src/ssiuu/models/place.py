"""Where a model lies and what its weights are held in: decided once, asked by everything that runs.

    placement = Placement.of(device="cuda:1", dtype="bf16")
    loaded = load("org/model", placement=placement)

Whatever is made for a model (batches, masks, directions, moments) is made where its parameters are, so
one decision at loading is a decision for the whole of a run.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from transformers import PreTrainedModel

from ssiuu.errors import ConfigError
from ssiuu.models import nf4
from ssiuu.models.room import Offload, choose
from ssiuu.models.shards import dividing

Dtype = Literal["auto", "fp32", "bf16", "nf4"]
Attention = Literal["auto", "eager", "sdpa"]

CPU: Final = torch.device("cpu")
VARIABLE: Final = "SSIUU_DEVICE"  # what device: auto means, where it is set
TYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}
CODES: Final = "nf4"  # of the maps of the blocks, beside which the rest is in bf16


@dataclass(frozen=True)
class Placement:
    """Where a model lies and how it is held there. Without arguments: on the processor, in fp32.

    `dtype`: of the weights in memory, whatever their files hold. `attention`: as transformers names it;
    None: the library's own choice. `checkpointing`: whether activations are computed again in the
    backward pass. `offload`: where copies of its weights lie; see `ssiuu.models.room`. `coded`: whether
    maps are in nf4 from the first, and never there in full; see `ssiuu.models.coded`.
    """

    device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    attention: str | None = None
    checkpointing: bool = False
    offload: Offload = "auto"
    coded: bool = False

    @classmethod
    def of(
        cls,
        device: str = "auto",
        dtype: Dtype = "auto",
        attention: Attention = "auto",
        checkpointing: bool = False,
        offload: Offload = "auto",
    ) -> Placement:
        """Return the placement of some settings on this machine.

        Args:
            device: auto, or as torch names it: cpu, cuda, cuda:1.
            dtype: Of the weights; auto is fp32, in which scores are taken (decision 0006); nf4: maps of
                the blocks in 4 bits, the rest in bf16.
            attention: The implementation.
            checkpointing: Whether activations are computed again.
            offload: Where copies of the weights lie.

        Raises:
            ConfigError: There is no such device here, or it cannot compute what is needed.
        """
        if dtype == CODES and not nf4.there():
            raise ConfigError(f"dtype: nf4 needs {nf4.REMEDY}, or use bf16.")
        return cls(
            device=resolve_device(device),
            dtype=TYPES["fp32" if dtype == "auto" else "bf16" if dtype == CODES else dtype],
            attention=None if attention == "auto" else attention,
            checkpointing=checkpointing,
            offload=offload,
            coded=dtype == CODES,
        )

    @property
    def options(self) -> dict[str, Any]:
        """What `from_pretrained` is told, the type of the weights among it."""
        told: dict[str, Any] = {"dtype": self.dtype}
        # What does not fit an accelerator in whole goes there in pieces, once it is cut.
        if self.device.type != "cpu" and not dividing():
            told["device_map"] = {"": self.device}  # each tensor goes there as it is read
        if self.attention is not None:
            told["attn_implementation"] = self.attention
        return told

    def put(self, model: PreTrainedModel) -> PreTrainedModel:
        """Put a model in place, as one that is loaded here would be; returns the same model.

        Raises:
            ConfigError: It is to be in codes, which are made of what a model's files hold.
        """
        if self.coded:
            raise ConfigError(
                "dtype: nf4 is read map by map from a model's files: give its folder or its name on "
                "the hub, or use bf16."
            )
        put: Any = model
        put = put.to(device=CPU if dividing() else self.device, dtype=self.dtype)
        if self.attention is not None:
            put.set_attn_implementation(self.attention)
        return self.finished(put)

    def finished(self, model: PreTrainedModel) -> PreTrainedModel:
        """Switch on, in a model that was loaded, what loading does not; returns the same model."""
        if self.checkpointing:
            if not model.supports_gradient_checkpointing:
                raise ConfigError(
                    f"gradient_checkpointing: {type(model).__name__} cannot compute its activations "
                    "again: leave it out."
                )
            # Through hooks too, which the other kind would call without a gradient.
            newer = getattr(model, "activation_checkpointing_enable", None)
            (newer or model.gradient_checkpointing_enable)({"use_reentrant": False})
        choose(model, self.offload)
        return model

    @property
    def key(self) -> list[str]:
        """What of it decides a result, for keys; nothing where weights are in fp32.

        The device is no part of it, as no processor is: what is computed in stands in `precision`.
        """
        return [] if self.dtype == torch.float32 else [f"dtype {self._type}"]

    @property
    def described(self) -> str:
        """The device and the type of the weights, for people: "cuda:0 (NVIDIA H100), fp32"."""
        kind = device_name(self.device)
        return f"{self.device}{f' ({kind})' if kind else ''}, weights in {self._type}"

    @property
    def _type(self) -> str:
        return CODES if self.coded else next(n for n, kind in TYPES.items() if kind == self.dtype)


PROCESSOR: Final = Placement()


def resolve_device(name: str) -> torch.device:
    """Return the device of a name; of "auto" the one that $SSIUU_DEVICE names, else the first
    accelerator that computes in double precision too, else the processor.

    Raises:
        ConfigError: torch knows no such device, or this machine has none.
    """
    where = "device"
    if name == "auto" and (chosen := os.environ.get(VARIABLE, "auto")) != "auto":
        name, where = chosen, VARIABLE
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return CPU if found is None or found.type == "mps" else _first(found)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"{where}: must be auto, cpu, cuda, cuda:N or another that torch has, got {name!r}."
        ) from error
    return device if device.type == "cpu" else _first(_there(device, where))


def _there(device: torch.device, where: str) -> torch.device:
    """Return a device that this machine has.

    Raises:
        ConfigError: It has none of the kind, fewer of them, or it is one that does not do.
    """
    if device.type == "mps":
        raise ConfigError(
            f"{where}: mps has no double precision, in which norms and directions are summed: use cpu."
        )
    module = getattr(torch, device.type, None)
    if module is None or not getattr(module, "is_available", lambda: False)():
        raise ConfigError(
            f"{where}: {str(device)!r} was asked for, and torch {torch.__version__} finds no such "
            "device on this machine: use auto or cpu, or install a build of torch that does."
        )
    count: int = module.device_count()
    if device.index is not None and device.index >= count:
        raise ConfigError(
            f"{where}: {str(device)!r} was asked for, and this machine has {count} of them, "
            f"{device.type}:0 to {device.type}:{count - 1}."
        )
    return device


def _first(device: torch.device) -> torch.device:
    """Return a device with its number; without one it is the current one of the process."""
    if device.index is not None:
        return device
    return torch.device(device.type, torch.get_device_module(device).current_device())


def device_name(device: torch.device) -> str:
    """Return what a device is called by who made it; empty for the processor, or where none says."""
    if device.type == "cpu":
        return ""
    named = getattr(torch.get_device_module(device), "get_device_name", None)
    return str(named(device)) if named is not None else ""

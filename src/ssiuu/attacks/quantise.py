"""Weight quantisation as an attack: small differences between two models round away.

Every weight is replaced by the value its code stands for, so it runs anywhere. What is quantised: every
linear map except the output embedding, experts in one tensor each for itself; embeddings, norms,
biases, routers and convolutions stay.

    int8   one scale an output channel:   w ~ s round(w / s),  s = max |w| / 127
    int4   one scale a group of inputs:   w ~ s round(w / s),  s = max |w| / 7
    nf4    one scale a group of inputs:   w ~ s c(w / s),      s = max |w|, c: nearest code

A group is 64 neighbouring inputs of one output channel; the last one may be shorter. As deployed,
through the bits of a file, or of the package that serves them:

    q8_0, q4_0, q6_k, q4_k   each map as in a GGUF file (`ssiuu.models.gguf`)
    bnb-nf4                  bitsandbytes' nf4 (`ssiuu.models.nf4`): `nf4` to fp32's last digit, of rows
                             that are whole groups
    bnb-nf4-double           the same, its scales in 8 bits

Source: int8 and int4, symmetric absmax as in Dettmers et al. 2022; nf4, Dettmers et al. 2023 (QLoRA),
Sec. 3 and App. E. Departures: scales stay in fp32 and are not quantised themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field, RootModel
from scipy.special import ndtri  # scipy.stats takes most of a second to import
from torch import Tensor
from torch.nn.functional import pad
from transformers.pytorch_utils import Conv1D

from ssiuu.attacks.base import Attack, Axis, Curve, Victim, different
from ssiuu.causal import CausalLM
from ssiuu.errors import ModelError
from ssiuu.models import gguf
from ssiuu.models import nf4 as package_nf4
from ssiuu.models.maps import is_map, stacked_weights, stored_across
from ssiuu.models.shards import edited, local
from ssiuu.records.schema import AttackRead, Reading

GROUP = 64
BITS = {"int8": 8, "int4": 4, "nf4": 4, "q8_0": 8, "q4_0": 4, "q6_k": 6, "q4_k": 4}
BITS |= {"bnb-nf4": 4, "bnb-nf4-double": 4}

Format = Literal["int8", "int4", "nf4", "q8_0", "q4_0", "q6_k", "q4_k", "bnb-nf4", "bnb-nf4-double"]


class Formats(RootModel[list[Format]]):
    """The formats, in the order they are read in."""

    model_config = ConfigDict(frozen=True)

    root: list[Format] = Field(default=[], description="formats that the weights are rounded to")


class Quantised(Attack[Formats]):
    """The model as it would be served on less memory."""

    name = "quantised"
    summary = "round every linear map to int8, int4 or nf4, or as GGUF or bitsandbytes do"
    Config, key = Formats, "quantise"
    axis = Axis("bits", "weights")
    strong = ("int8", "int4", "nf4")

    def problems(self) -> list[str]:
        """Refuse a format twice, and one whose package is not there."""
        packaged = [name for name in self.config.root if name.startswith("bnb-")]
        lacking = [] if not packaged or package_nf4.there() else packaged[:1]
        needs = f"needs {package_nf4.REMEDY}, or take nf4, which rounds alike without it"
        return [
            *different(self.key, self.config.root),
            *(f"attacks.{self.key}: {name} {needs}." for name in lacking),
        ]

    def curves(self) -> list[Curve]:
        """Return one curve over the formats."""
        return self.once(self.config.root)

    def reads(self, victim: Victim, curve: Curve, start: Mapping[str, Reading]) -> Iterator[AttackRead]:
        """Read the pool in every format."""
        for name in quantised(victim.model, [str(point) for point in curve.points]):
            yield AttackRead(step=BITS[name], facts=victim.read(), label=name)


def int8(weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
    """Return the weight rounded to 8 bits, one scale an output channel."""
    return _rounded(weight, 127)


def int4(weight: Float[Tensor, "out in"], group: int = GROUP) -> Float[Tensor, "out in"]:
    """Return the weight rounded to 4 bits, one scale for `group` neighbouring inputs."""
    return _grouped(weight, group, lambda values: _rounded(values, 7))


def nf4(weight: Float[Tensor, "out in"], group: int = GROUP) -> Float[Tensor, "out in"]:
    """Return the weight rounded to the 16 codes of 4-bit NormalFloat, by groups of inputs."""
    codes = torch.tensor(normal_float(), dtype=weight.dtype, device=weight.device)
    middles = (codes[1:] + codes[:-1]) / 2

    def nearest(values: Tensor) -> Tensor:
        scale = _scale(values, 1)
        # The nearest code is the one on whose side of the middles a value lies.
        return codes[torch.bucketize(values / scale, middles)] * scale

    return _grouped(weight, group, nearest)


FORMATS: dict[str, Callable[[Tensor], Tensor]] = {
    "int8": int8,
    "int4": int4,
    "nf4": nf4,
    "q8_0": partial(gguf.rounded, form="q8_0"),
    "q4_0": partial(gguf.rounded, form="q4_0"),
    "q6_k": partial(gguf.rounded, form="q6_k"),
    "q4_k": partial(gguf.rounded, form="q4_k"),
    "bnb-nf4": package_nf4.rounded,
    "bnb-nf4-double": partial(package_nf4.rounded, double=True),
}


@cache
def normal_float() -> tuple[float, ...]:
    """Return the 16 codes of NF4: quantiles of the normal distribution, scaled to [-1, 1].

    Eight codes at or above 0 and, from the other side, seven below; 0 is one of them.
    """
    # The outermost quantile: half way between 1 - 1/(2*15) and 1 - 1/(2*16).
    outermost = 1 - (1 / 30 + 1 / 32) / 2
    above, below = (
        [float(ndtri(outermost + (0.5 - outermost) * i / count)) for i in range(count)]
        for count in (8, 7)
    )
    codes = sorted([*above, 0.0, *(-code for code in below)])
    return tuple(code / codes[-1] for code in codes)


class _Part(NamedTuple):
    """A parameter that holds linear maps: one, or one of each expert; `across`: inputs come first."""

    parameter: Tensor
    several: bool
    across: bool

    def maps(self, whole: Tensor) -> list[Float[Tensor, "out in"]]:
        """Return the maps in all of the parameter, as views."""
        return [one.T if self.across else one for one in (whole if self.several else [whole])]


def _parts(model: CausalLM) -> list[_Part]:
    """Return what holds the linear maps of a model, except its output embedding.

    Raises:
        ModelError: It has none.
    """
    head = model.get_output_embeddings()
    parts = [
        _Part(module.weight, False, isinstance(module, Conv1D))
        for module in model.modules()
        if is_map(module) and module is not head
    ]
    parts += [
        _Part(model.get_parameter(name), True, stored_across(model, name))
        for name in stacked_weights(model)
    ]
    if not parts:
        raise ModelError(f"{type(model).__name__} has no linear maps to quantise.")
    return parts


def matrices(model: CausalLM) -> list[Float[Tensor, "out in"]]:
    """Return the weight of every linear map of a model except its output embedding.

    They are views: to write into one is to write into the model.

    Raises:
        ModelError: It has none.
    """
    return [weight for part in _parts(model) for weight in part.maps(part.parameter.detach())]


@torch.no_grad()
def quantised(model: CausalLM, formats: Sequence[str]) -> Iterator[str]:
    """Quantise the linear maps in place, format by format, and yield the format's name after each.

    Every format begins with the weights as they were; those of the last one stay.
    """
    parts = _parts(model)
    before = [local(part.parameter).clone() for part in parts]
    for name in formats:
        for part, kept in zip(parts, before, strict=True):
            local(part.parameter).copy_(kept)
            with edited(part.parameter) as whole:
                for weight in part.maps(whole):
                    weight.copy_(FORMATS[name](weight.clone(memory_format=torch.contiguous_format)))
        yield name


def _scale(values: Tensor, levels: int) -> Tensor:
    """Return max |w| / levels of each row; 1 for a row of zeros."""
    scale = values.abs().amax(-1, keepdim=True) / levels
    # Zeros are coded with a scale of 1: 0 / 0 is no code.
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _rounded(values: Tensor, levels: int) -> Tensor:
    scale = _scale(values, levels)
    return (values / scale).round() * scale


def _grouped(
    weight: Float[Tensor, "out in"], group: int, quantise: Callable[[Tensor], Tensor]
) -> Float[Tensor, "out in"]:
    out, width = weight.shape
    full = pad(weight, (0, -width % group))  # zeros do not change a group's largest value
    return quantise(full.view(out, -1, group)).view(out, -1)[:, :width]

"""AdamW in little memory: moments in 8 bits, and weights in bf16 that are rounded by chance.

    m <- b1 m + (1 - b1) G,   v <- b2 v + (1 - b2) G^2
    theta <- theta (1 - rate decay) - rate m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)

Each block of `BLOCK` entries of a moment is held as whole numbers c and the block's largest value, M:

    m = sign(c) (c / 127)^2 M,    v = (c / 255)^4 M

so that small entries, whose share of the rate is as large, keep digits: half a step between two codes
is at most 1/c of m, and 2/c of v. 2.03 bytes a parameter in place of 8.

What is between two codes, or two numbers of bf16, becomes one of them by chance, so that it is right
in the mean: a change of v by 1/1000, or of a weight by 1/1000 of its last digit, is never lost for
good. The chance is counted, not kept: its numbers come from the step and the parameter's place, so
that a run that is interrupted and one that is not end in the same bits.

Source: Dettmers et al. 2022, "8-bit optimizers via block-wise quantization"; Zamirai et al. 2020,
"Revisiting BFloat16 training", for the rounding. Departures: the codes are powers, not a table; they
are rounded by chance, and v's are never 0 where v is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 256  # entries that share a largest value
CHUNK = 1 << 18  # entries at a time on a CPU, a multiple of `BLOCK`: temporaries stay in its cache
WIDE = 1 << 24  # and on an accelerator
SIGNED, UNSIGNED = 127, 255
BETAS, EPS = (0.9, 0.999), 1e-8  # torch's own


class BlockAdamW(torch.optim.Optimizer):
    """See the module."""

    def __init__(
        self,
        parameters: Sequence[Tensor],
        lr: float,
        weight_decay: float = 0.0,
        eight_bit: bool = True,
    ) -> None:
        """Prepare the moments.

        Args:
            parameters: In fp32, or in bf16: those are rounded by chance.
            lr: The learning rate.
            weight_decay: Beside the gradient, as AdamW has it.
            eight_bit: Whether moments are held in 8 bits; else in fp32.
        """
        defaults = {"lr": lr, "weight_decay": weight_decay, "betas": BETAS, "eps": EPS}
        super().__init__(parameters, defaults)
        self.eight_bit = eight_bit

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take a step."""
        place = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                place += 1
                if parameter.grad is not None:
                    self._move(parameter, group["lr"], group["weight_decay"], place)
        return None

    def _move(self, parameter: Tensor, rate: float, decay: float, place: int) -> None:
        state = self.state[parameter]
        if not state:
            state |= self._begun(parameter)
        state["step"] += 1
        number = int(state["step"])
        chance = _generator(parameter.device, number, place)
        first, second = 1 - BETAS[0] ** number, 1 - BETAS[1] ** number
        weights, gradients = parameter.view(-1), parameter.grad.reshape(-1)  # type: ignore[union-attr]
        for at in _chunks(parameter):
            g, w = gradients[at].float(), weights[at]
            m, v = self._read(state, at)
            m.lerp_(g, 1 - BETAS[0])
            v.mul_(BETAS[1]).addcmul_(g, g, value=1 - BETAS[1])
            self._write(state, at, m, v, chance)
            moved = w.to(torch.promote_types(w.dtype, torch.float32)).mul(1 - rate * decay)
            moved.addcdiv_(m, (v / second).sqrt_().add_(EPS), value=-rate / first)
            w.copy_(rounded(moved, chance) if w.dtype == torch.bfloat16 else moved)

    def _begun(self, parameter: Tensor) -> dict[str, Tensor]:
        state, like = {"step": torch.zeros(())}, partial(torch.zeros_like, parameter)
        if not self.eight_bit:
            return state | {k: like(dtype=torch.float32) for k in ("exp_avg", "exp_avg_sq")}
        for name, kind in (("exp_avg", torch.int8), ("exp_avg_sq", torch.uint8)):
            blocks = -(-parameter.numel() // BLOCK)
            state[name] = like(dtype=kind)
            state[f"{name}_most"] = torch.zeros(blocks, device=parameter.device)
        return state

    def _read(self, state: dict[str, Tensor], at: slice) -> tuple[Tensor, Tensor]:
        m, v = (state[name].view(-1)[at] for name in ("exp_avg", "exp_avg_sq"))
        if not self.eight_bit:
            return m, v  # changed where they stand
        blocks = _blocks(at)
        return (
            signed(m, state["exp_avg_most"][blocks]),
            unsigned(v, state["exp_avg_sq_most"][blocks]),
        )

    def _write(
        self, state: dict[str, Tensor], at: slice, m: Tensor, v: Tensor, chance: torch.Generator
    ) -> None:
        if not self.eight_bit:
            return
        blocks = _blocks(at)
        for name, (codes, most) in {
            "exp_avg": coded(m, 2, SIGNED, chance),
            "exp_avg_sq": coded(v, 4, UNSIGNED, chance),
        }.items():
            state[name].view(-1)[at], state[f"{name}_most"][blocks] = codes, most


class RoundedSGD(torch.optim.Optimizer):
    """SGD, along the gradient, its signs or its direction, of weights in bf16, rounded by chance.

    Momentum, where there is any, is held in fp32.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        along: Literal["gradient", "signs", "direction"] = "gradient",
    ) -> None:
        """Prepare; `along`: what a step of length `lr` goes along."""
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.along = along

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take a step."""
        every = [p for group in self.param_groups for p in group["params"]]
        length = 1.0
        if self.along == "direction":
            gradients = [p.grad for p in every if p.grad is not None]
            norms = [torch.linalg.vector_norm(g, dtype=torch.float32) for g in gradients]
            length = float(torch.stack(norms).norm()) if norms else 0.0
        places = {id(p): place for place, p in enumerate(every, 1)}
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group, places[id(parameter)], length)
        return None

    def _move(self, parameter: Tensor, group: dict[str, Any], place: int, length: float) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            if group["momentum"]:
                state["momentum_buffer"] = torch.zeros_like(parameter, dtype=torch.float32)
        state["step"] += 1
        chance = _generator(parameter.device, int(state["step"]), place)
        weights, gradients = parameter.view(-1), parameter.grad.reshape(-1)  # type: ignore[union-attr]
        for at in _chunks(parameter):
            g, w = gradients[at].to(torch.float32, copy=True), weights[at]
            if self.along == "signs":
                g.sign_()
            elif length:
                g.div_(length)
            g.add_(w.float(), alpha=group["weight_decay"])
            if group["momentum"]:
                g = state["momentum_buffer"].view(-1)[at].mul_(group["momentum"]).add_(g)
            w.copy_(rounded(w.float().sub_(g, alpha=group["lr"]), chance))


def signed(codes: Tensor, most: Float[Tensor, " blocks"]) -> Float[Tensor, " n"]:
    """Return sign(c) (c / 127)^2 M."""
    share = codes.float().div_(SIGNED)
    return _by_block(share.mul_(share.abs()), most)


def unsigned(codes: Tensor, most: Float[Tensor, " blocks"]) -> Float[Tensor, " n"]:
    """Return (c / 255)^4 M."""
    return _by_block(codes.float().div_(UNSIGNED).square_().square_(), most)


def coded(
    values: Float[Tensor, " n"], power: int, top: int, chance: torch.Generator
) -> tuple[Tensor, Float[Tensor, " blocks"]]:
    """Return codes c and each block's largest |x|, with |x| = (c / top)^power M in the mean.

    Args:
        values: x; not below 0 where `power` is 4.
        power: 2 or 4.
        top: The largest code.
        chance: Decides between two codes.
    """
    size = values.numel()
    rows = torch.nn.functional.pad(values, (0, -size % BLOCK)).view(-1, BLOCK).abs()
    most = rows.amax(1)
    # The smallest normal number: a block of nothing is divided by it and stays nothing.
    share = rows.div_(most.clamp(min=torch.finfo(most.dtype).tiny).unsqueeze(1))
    root = share.sqrt() if power == 2 else share.sqrt().sqrt_()
    below = root.mul_(top).floor_().clamp_(max=top - 1)
    low, high = below.div(top).pow_(power), (below + 1).div_(top).pow_(power)
    drawn = torch.rand(share.shape, generator=chance, device=share.device)
    codes = below + (drawn < share.sub(low).div_(high.sub_(low)))
    if power == 4:  # a divisor of 0 would let a step run away
        codes.clamp_(min=1).mul_(share > 0)
        return codes.view(-1)[:size].to(torch.uint8), most
    return (codes.view(-1)[:size] * values.sign()).to(torch.int8), most


def rounded(values: Float[Tensor, " n"], chance: torch.Generator) -> Tensor:
    """Return fp32 numbers in bf16, up or down by chance, right in the mean; uses them up."""
    bits = values.contiguous().view(torch.int32)
    drawn = torch.randint(0, 1 << 16, bits.shape, generator=chance, device=bits.device)
    # bf16 is the upper half of fp32's bits; the lower half says how often what is added carries.
    return bits.add_(drawn.to(torch.int32)).bitwise_and_(-(1 << 16)).view(torch.float32).bfloat16()


def _by_block(shares: Tensor, most: Tensor) -> Tensor:
    size = shares.numel()
    if size % BLOCK == 0:
        return (shares.view(-1, BLOCK) * most.unsqueeze(1)).view(-1)
    return shares.mul_(most.repeat_interleave(BLOCK)[:size])


def _generator(device: torch.device, step: int, place: int) -> torch.Generator:
    # A processor's generator takes 32 bits of a seed; an odd factor keeps steps and places apart.
    return torch.Generator(device).manual_seed((step * 0x7F4A7C15 + place) % 2**32)


def _chunks(parameter: Tensor) -> Iterator[slice]:
    size, most = parameter.numel(), CHUNK if parameter.device.type == "cpu" else WIDE
    for start in range(0, size, most):
        yield slice(start, min(start + most, size))


def _blocks(at: slice) -> slice:
    return slice(at.start // BLOCK, -(-at.stop // BLOCK))

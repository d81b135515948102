"""RepSelect: one forget gradient with its leading directions divided out, taken again and again."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from ssiuu.attribution.neuron import batches
from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError
from ssiuu.likelihood import Example
from ssiuu.methods.base import Edit, Origin, Rows, Spent, Work
from ssiuu.methods.budget import PlainText
from ssiuu.methods.directions import Subspace, project_out
from ssiuu.methods.elicit import Elicitation, nll_gradients
from ssiuu.methods.spectrum import NOTHING
from ssiuu.methods.tokens import experts_left, feed_forward_maps
from ssiuu.models.maps import stream_width, widths

Collapse = Literal["soft", "hard", "quadratic", "ridge"]
POWER_STEPS = 2  # of the randomised SVD


def shares_left(
    singular: Float[Tensor, " r"], cut: Collapse, ridge: float = 0.0
) -> Float[Tensor, " r"]:
    """Return the share f_i of each direction that a collapse leaves, from its singular value s_i.

    soft: s_min / s_i;   quadratic: (s_min / s_i)^2;   hard: 0;   ridge: e / (s_i^2 + e)
    """
    if cut == "hard":
        return torch.zeros_like(singular)
    if cut == "ridge":
        epsilon = ridge * singular.max().square()
        return epsilon / (singular.square() + epsilon)
    left = singular.min() / singular
    return left if cut == "soft" else left.square()


@torch.no_grad()
def triplets(
    gradient: Float[Tensor, "out in"], rank: int | None, seed: int = 0
) -> tuple[Float[Tensor, "out r"], Float[Tensor, " r"], Float[Tensor, "in r"]]:
    """Return the leading U, s and V of a gradient, by a randomised SVD; all of them for rank None.

    Directions along which there is nothing are left out, so r may be smaller than asked.

    Source: Halko, Martinsson and Tropp 2011, "Finding structure with randomness", Alg. 4.4 and 5.1.
    """
    if rank is None or rank >= min(gradient.shape):
        u, s, vh = torch.linalg.svd(gradient, full_matrices=False)
    else:
        seeded = torch.Generator().manual_seed(seed)
        drawn = torch.randn(gradient.shape[1], rank, generator=seeded, dtype=torch.float64)
        basis = torch.linalg.qr(gradient @ drawn.to(gradient)).Q
        for _ in range(POWER_STEPS):
            basis = torch.linalg.qr(gradient.T @ basis).Q
            basis = torch.linalg.qr(gradient @ basis).Q
        u, s, vh = torch.linalg.svd(basis.T @ gradient, full_matrices=False)
        u = basis @ u
    # fp32 has about seven digits, a square root of whose share is what a moment has.
    there = s > NOTHING * s.max()
    return u[:, there], s[there], vh[there].T


def collapsed(
    gradient: Float[Tensor, "out in"],
    rank: int | None,
    cut: Collapse,
    ridge: float = 0.0,
    seed: int = 0,
    by: Float[Tensor, "out in"] | None = None,
) -> Float[Tensor, "out in"]:
    """Return a gradient without its leading directions, on both sides.

        G <- G - (G V)(I - f) V^T,   then   G <- G - U (I - f)(U^T G)

    Args:
        gradient: Of one map.
        rank: Directions taken of each side; a ridge takes all.
        cut: What is left of each; see `shares_left`.
        ridge: Of a ridge: e as a share of the largest s^2.
        seed: Of the randomised SVD.
        by: The gradient whose directions they are; None: this one's own.
    """
    kind = torch.promote_types(gradient.dtype, torch.float32)  # bf16 has no decompositions
    gradient = gradient.to(kind)
    source = gradient if by is None else by.to(kind)
    if not bool(source.any()):
        return gradient.clone()
    u, s, v = triplets(source, None if cut == "ridge" else rank, seed)
    left = shares_left(s, cut, ridge)
    return project_out(gradient.clone(), Subspace(v, u, inputs_left=left, outputs_left=left))


class RepSelect(Edit):
    """W <- W - eta G, again and again with the same G, while plain text stays as it was.

        1. Low-rank maps beside the feed-forward ones learn the forget rows better for an epoch (SGD).
        2. G = sum over one forget epoch of d(-NLL)/dW with those maps in the forward; then they go.
        3. G <- G - (G V)(I - f) V^T, and from the left with U; f_i = s_min / s_i of G's own SVD.
        4. W <- W - eta G until KL(before || now) on plain text exceeds its limit: the last one below.

    Source: RepSelect 2026 (arXiv 2606.17168 v2), the released one-shot form: rank 512 of 4096, eta 0.05
    and the elicitation's rate 0.01 (both searched 0.005 to 0.5), its low-rank maps 8 wide, KL 0.01.
    Departures: it ends at the forget score too, like every method here; directions along which G has
    nothing do not count, so that the least singular value is none of rounding; the ridge's e is a share
    of the largest s^2; NLL is of answer tokens; experts stored as one tensor stay as they are.
    """

    name: ClassVar[str] = "repselect"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "RepSelect 2026 (arXiv 2606.17168), one-shot."
    summary: ClassVar[str] = (
        "RepSelect: one forget gradient without its leading directions, taken while plain text stays"
    )
    reads: ClassVar[frozenset[Rows]] = frozenset({"texts"})
    adapts: ClassVar[bool] = False

    components: int | None = Field(
        default=None,
        ge=1,
        description="directions of each side that are collapsed (r); null: an eighth of the width",
    )
    cut: Collapse = Field(
        default="soft",
        description="what is left of a direction with singular value s: soft s_min/s, quadratic its "
        "square, hard nothing, ridge e/(s^2 + e) of all of them",
    )
    ridge: float = Field(
        default=1e-3, gt=0, le=1, description="of a ridge: e as a share of the largest s^2"
    )
    directions_from: Literal["forget", "retain"] = Field(
        default="forget", description="the rows whose gradient's directions are collapsed"
    )
    elicit_rank: int = Field(default=8, ge=1, description="rank of the eliciting low-rank maps")
    elicit_rate: float = Field(
        default=0.01, ge=0, le=10, description="rate of their epoch of SGD; 0 leaves them out"
    )
    step_size: float = Field(default=0.05, gt=0, le=1e4, description="what G is taken times (eta)")
    kl_limit: float | None = Field(
        default=0.01,
        gt=0,
        le=10,
        description="KL on plain text that may not be exceeded, nats a token; null: none of its own, "
        "where unlearn.stop.kl is the budget",
    )
    most: int = Field(default=200, ge=1, description="how often G is taken at most")

    @property
    def undivided(self) -> str:
        """Gradients of whole weights are taken, and changed in their principal directions."""
        return "it takes whole weights apart"

    def check(self, model: CausalLM) -> None:
        """Refuse a model without feed-forward maps, or with fewer directions."""
        sides = [min(widths(m)) for m in feed_forward_maps(model, self.name).values()]
        if self.components is not None and self.components > max(sides):
            raise ConfigError(
                f"repselect.components: must be at most {max(sides)}, which is all directions of the "
                f"maps here, got {self.components}."
            )

    def untouched(self, model: CausalLM, prepared: Any) -> str:
        """Say which experts are not trained."""
        return experts_left(model, self.name)

    def edit(self, model: CausalLM, work: Work) -> Iterator[str]:
        """Take the collapsed gradient once, twice, …, while the budget lasts."""
        if self.kl_limit is not None and not work.texts:
            raise ConfigError(f"{self.name}: no plain text for its budget fits the model's context.")
        if self.directions_from == "retain" and not work.retain:
            raise ConfigError(f"{self.name}.directions_from: retain: there are no retain rows.")
        maps = feed_forward_maps(model, self.name)
        texts = list(batches(model, work.texts, work.pad))
        plain = None if self.kl_limit is None else PlainText(model, texts)
        steps = self._steps(model, maps, work)
        weights = {path: model.get_parameter(f"{path}.weight") for path in steps}
        before = {path: weight.detach().clone() for path, weight in weights.items()}

        @torch.no_grad()
        def take(times: int) -> None:
            for path, weight in weights.items():  # from the start each time: nothing adds up
                torch.add(before[path], steps[path], alpha=-times * self.step_size, out=weight)

        for times in range(1, self.most + 1):
            work.check()
            take(times)
            if plain is None or self.kl_limit is None:
                yield f"The gradient was taken {times} times at {self.step_size:g}."
                continue
            cost = plain.divergence(model)
            if not cost <= self.kl_limit:  # what is no number is too much as well
                take(times - 1)
                yield Spent(
                    f"The gradient was taken {times - 1} times at {self.step_size:g}; once more would "
                    f"cost {cost:.2g} nats a token on plain text, above kl_limit {self.kl_limit:g}."
                )
                return
            yield (
                f"The gradient was taken {times} times at {self.step_size:g}, which costs {cost:.2g} "
                f"nats a token on plain text; kl_limit is {self.kl_limit:g}."
            )

    def _steps(
        self, model: CausalLM, maps: Mapping[str, torch.nn.Module], work: Work
    ) -> dict[str, Tensor]:
        """Return the collapsed gradient of every map's weight."""
        elicited = Elicitation(maps, self.elicit_rank, float(self.elicit_rank), work.seed)
        if self.elicit_rate:
            with elicited.active(model):
                for step in work.once(work.forget):
                    work.check()
                    gradients = nll_gradients(model, step, elicited.parameters, work.casting)
                    elicited.descend(gradients, self.elicit_rate)
        for parameter in elicited.parameters:
            parameter.requires_grad_(False)
        shared = work.retain if self.directions_from == "retain" else ()
        with elicited.active(model):
            forget = self._whole(model, maps, work.forget, work)
            retain = self._whole(model, maps, shared, work)
        rank = self.components or max(1, stream_width(model) // 8)
        return {
            path: collapsed(
                *(gradient, rank, self.cut, self.ridge, zlib.crc32(f"{work.seed}:{path}".encode())),
                by=retain.get(path),
            )
            for path, gradient in forget.items()
        }

    def _whole(
        self,
        model: CausalLM,
        maps: Mapping[str, torch.nn.Module],
        rows: Sequence[Example],
        work: Work,
    ) -> dict[str, Tensor]:
        """Return the sum over one epoch of d(-NLL)/dW by path, NLL a mean over a step's tokens."""
        weights: list[Any] = [module.weight for module in maps.values()]
        sums: dict[str, Tensor] = {}
        for step in work.once(rows):
            work.check()
            for path, gradient in zip(
                maps, nll_gradients(model, step, weights, work.casting), strict=True
            ):
                if gradient is not None:
                    sums[path] = sums[path].sub_(gradient) if path in sums else gradient.neg()
        return sums

"""A linear read-out: what the states of one model say when they are read as another one's.

    target = Target.of(model, rows)             # of the model before
    found = Readout.fit(model, rows, target)    # of the model after, with its weights in place
    with found.beside(model):
        ...                                     # it predicts by itself, and by the read-out beside it

From features x of a token (what some blocks put out, and the neurons of their feed-forward) a ridge
regression predicts the state that the model before has at the same token in front of its last norm, and
what is predicted is read by that norm and the head of the model before:

    A = argmin ||X A - T||² + λ/D tr(X^T X) ||A||²,    x centred, and each
    kind of features scaled to the same mean square

It is fitted on rows that hold none of the facts that are then asked. It is not blind to them all the
same: where the features of both models are alike, A takes up weights of the model before, and its head
is that model's. A model that never learned the facts is therefore lifted a little; how much was
measured, and the verdict's caution covers it (`docs/verdict.md`).

Source: the tuned lens (Belrose et al. 2023), here from one model into another, from several depths at
once and by ridge regression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ssiuu.attribution.hidden import blocks
from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError
from ssiuu.likelihood import last_columns
from ssiuu.models.hooks import hooked
from ssiuu.models.shards import full
from ssiuu.models.sites import final_norm, known_sites

DEPTHS = (0.25, 0.5, 0.75, 1.0)  # of the blocks whose states are features
RIDGE = 1e-2
TOKENS = 4096  # that a read-out is fitted on, at most
BLOCK = 512  # rows of a product with itself that are multiplied together: half of the pairs suffice
AT_ONCE = 512  # tokens that run together, padding with them: fewer leave the processor idle


@dataclass(frozen=True)
class Target:
    """What is read into: the states of the model before, its last norm and its head.

    `states`: in front of the norm, at every token of some rows, one after the other. `norm`: the norm's
    parameters by name.
    """

    states: Float[Tensor, "N d"]
    norm: dict[str, Tensor]
    weight: Float[Tensor, "V d"]
    bias: Float[Tensor, " V"] | None

    @classmethod
    @torch.no_grad()
    def of(cls, model: CausalLM, rows: Sequence[Sequence[int]]) -> Target:
        """Return those of the model as it is.

        Raises:
            ConfigError: Its last norm is not known.
        """
        last: list[Tensor] = []
        norm = _norm(model)

        def keep(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            last[:] = [inputs[0].float()]

        with hooked([(norm, keep)]):
            states = _read(model, rows, lambda: last[0])
        head = model.get_output_embeddings()
        bias = getattr(head, "bias", None)
        copied = None if bias is None else full(bias).clone()
        scales = {name: full(parameter).clone() for name, parameter in norm.named_parameters()}
        return cls(states, scales, full(head.weight).clone(), copied)


@dataclass(frozen=True)
class Readout:
    """A fitted read-out. `centre`, `scale`: of the features; `bias`: of the states."""

    weight: Float[Tensor, "D d"]
    centre: Float[Tensor, " D"]
    scale: Float[Tensor, " D"]
    bias: Float[Tensor, " d"]
    target: Target

    @classmethod
    def fit(
        cls,
        model: CausalLM,
        rows: Sequence[Sequence[int]],
        target: Target,
        ridge: float = RIDGE,
    ) -> Readout:
        """Fit on the tokens of rows.

        Args:
            model: Whose states are read.
            rows: Token ids.
            target: Of the other model, at the same tokens.
            ridge: λ.

        Raises:
            ConfigError: The model's blocks are not known.
        """
        features, widths = _features_of(model, rows)
        centre = features.mean(0)
        scale = _scale(features - centre, widths)
        x, bias = (features - centre) / scale, target.states.mean(0)
        weight = _solved(x, target.states - bias, ridge)
        return cls(weight, centre, scale, bias, target)

    @contextmanager
    def beside(self, model: CausalLM) -> Iterator[None]:
        """Let the model predict by itself and by the read-out in one pass, while the context lasts.

        Its logits have twice as many rows: its own, then those of the read-out.
        """
        tapped, target, read = _Tapped(model), self.target, list[Tensor]()
        nested = False

        def state(module: torch.nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
            nonlocal nested
            if nested:
                return None
            x = (tapped.features() - self.centre) / self.scale
            predicted = (x @ self.weight + self.bias).to(output)
            nested = True  # that norm is called once more, with the other model's parameters
            normed: Tensor = torch.func.functional_call(module, target.norm, (predicted,))
            nested = False
            return torch.cat([output, normed])

        def parted(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
            own, other = inputs[0].chunk(2)
            read[:] = [other]
            return own

        def logits(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            other = torch.nn.functional.linear(read.pop(), target.weight, target.bias)
            return torch.cat([output, other])

        head = model.get_output_embeddings()
        with tapped, hooked([(_norm(model), state), (head, logits)], [(head, parted)]):
            yield


def readable(model: CausalLM) -> str:
    """Return why a model cannot be read so; "" where it can."""
    try:
        _norm(model)
        _Tapped(model)
    except ConfigError as error:
        return str(error)
    return ""


def _norm(model: CausalLM) -> torch.nn.Module:
    norm = final_norm(model)
    if norm is None:
        raise ConfigError(f"{type(model).__name__}: the norm after its last block is not known.")
    return norm


class _Tapped(ExitStack):
    """Keeps, for the time of the context, the features of the last forward pass."""

    def __init__(self, model: CausalLM) -> None:
        super().__init__()
        listed = blocks(model)
        depths = sorted({max(1, round(share * len(listed))) - 1 for share in DEPTHS})
        down = {site.layer: site.path for site in known_sites(model) if site.module == "down"}
        modules = dict(torch.nn.Module.named_modules(model))  # type: ignore[arg-type]
        self.states = [listed[depth] for depth in depths]
        self.neurons = [modules[down[depth]] for depth in depths if depth in down]
        self.found: dict[torch.nn.Module, Tensor] = {}
        self.widths: list[int] = []

    def __enter__(self) -> _Tapped:
        super().__enter__()
        self.enter_context(hooked((block, self._state) for block in self.states))
        self.enter_context(hooked((path, self._neurons) for path in self.neurons))
        return self

    def features(self) -> Float[Tensor, "B T D"]:
        """Return all features of the last pass, in single precision."""
        rows = self.found[self.states[0]].shape[:2]
        # Experts see tokens without their rows, and so do the maps of some other models.
        every = [self.found[m].reshape(*rows, -1).float() for m in (*self.states, *self.neurons)]
        self.widths = [state.shape[-1] for state in every]
        return torch.cat(every, -1)

    def _state(self, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        self.found[module] = output[0] if isinstance(output, tuple) else output

    def _neurons(self, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        self.found[module] = inputs[0]


@torch.no_grad()
def _features_of(
    model: CausalLM, rows: Sequence[Sequence[int]]
) -> tuple[Float[Tensor, "N D"], list[int]]:
    with _Tapped(model) as tapped:
        found = _read(model, rows, tapped.features)
    return found, tapped.widths


def _read(
    model: CausalLM, rows: Sequence[Sequence[int]], kept: Callable[[], Float[Tensor, "B T D"]]
) -> Float[Tensor, "N D"]:
    """Return what is kept of every token of rows, one row after the other.

    Rows of like lengths run together, padded on the right, where nothing looks; up to the head only,
    as what they predict is read by nobody.
    """
    nowhere, found = last_columns(0, model.device), dict[int, Tensor]()
    for batch in _batches(rows):
        ids = [torch.tensor([*rows[i]], device=model.device) for i in batch]
        model(input_ids=pad_sequence(ids, batch_first=True), logits_to_keep=nowhere)
        every = kept()
        found |= {i: every[n, : len(rows[i])].clone() for n, i in enumerate(batch)}
    return torch.cat([found[i] for i in range(len(rows))])


def _batches(rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield the numbers of rows that run together: as many of like lengths as `AT_ONCE` tokens hold."""
    batch: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: len(rows[i])):
        if batch and len(rows[i]) * (len(batch) + 1) > AT_ONCE:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _scale(centred: Float[Tensor, "N D"], widths: Sequence[int]) -> Float[Tensor, " D"]:
    """Return the root mean square of every kind of features, for each of its columns."""
    sizes = [part.square().mean().sqrt().clamp(min=1e-6) for part in centred.split(list(widths), 1)]
    return torch.cat([size.expand(width) for size, width in zip(sizes, widths, strict=True)])


def _solved(x: Float[Tensor, "N D"], t: Float[Tensor, "N d"], ridge: float) -> Float[Tensor, "D d"]:
    """Solve the ridge regression in the smaller of its two forms."""
    x64, t64 = x.double(), t.double()
    wide = len(x) < x.shape[1]
    gram = _gram(x64 if wide else x64.T)
    penalty = ridge * gram.diagonal().sum() / x.shape[1]
    gram.diagonal().add_(penalty)
    wanted = t64 if wide else x64.T @ t64
    factor, failed = torch.linalg.cholesky_ex(gram)
    # Not finite: what is read is not, either, and nothing is made of it.
    inner = torch.linalg.solve(gram, wanted) if failed else torch.cholesky_solve(wanted, factor)
    return (x64.T @ inner if wide else inner).float()


def _gram(rows: Float[Tensor, "n k"]) -> Float[Tensor, "n n"]:
    """Return the product of every row with every other one, each pair of blocks once."""
    found = rows.new_empty(len(rows), len(rows))
    blocks = range(0, len(rows), BLOCK)
    for n, a in enumerate(blocks):
        for b in blocks[: n + 1]:
            part = rows[a : a + BLOCK] @ rows[b : b + BLOCK].T
            found[a : a + BLOCK, b : b + BLOCK] = part
            found[b : b + BLOCK, a : a + BLOCK] = part.T
    return found

"""Parameter attribution: several gradients of the same batch from one backward pass.

The gradient of a sum of per-example values is linear in what each example's value is weighted with:
if a module's output gradient for example x is d_x when the loss runs backward, it is c_x d_x for a
loss that weights x by c_x times as much. So one backward pass through the activations serves both
gradients, and only the gradients of the parameters themselves are formed twice:

    dL/dW = sum_x d_x^T a_x        dV/dW = sum_x c_x d_x^T a_x

This is exact for any batch. For L a function of every answer's log P and V = sum_x P_x, c_x is
P_x / (dL/dlogP_x).

`SecondGradient` adds V's gradient to a backward pass as it is. `SplitGradients` forms the gradients of
the first rows of a batch (forget) and of the others (retain) apart as well, so that both need one
forward pass and one backward pass through the activations together.

Covered: modules whose output is [batch, tokens, ...]. Not covered: rows and tokens in one dimension,
and parameters used outside their module's forward. Both are noticed in the forward pass (`heard`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ssiuu.causal import CausalLM

Names = dict[str, str]


class SecondGradient:
    """Collects the second gradient of a model's parameters while the first one runs backward."""

    def __init__(
        self,
        model: CausalLM,
        named: Mapping[str, Tensor],
        maps: Mapping[str, torch.nn.Module] | None = None,
    ) -> None:
        """Find the modules that own the parameters.

        Args:
            model: The model.
            named: The parameters wanted, by name; tied ones stand once.
            maps: Modules that act as one linear map whatever they are made of, by the name of the
                weight [out, in] that is wanted of them.
        """
        self.maps = {id(module) for module in (maps or {}).values()}
        self.names = list(named)
        self.owners = _owners(model, named)
        self.owners += [(module, {"weight": name}) for name, module in (maps or {}).items()]
        self.scale: Float[Tensor, " B"] | None = None
        self.gradients: dict[str, Tensor] = {}
        self.reduced: dict[str, Tensor] = {}  # of all processes, what lies here, from other passes
        self._called: set[str] = set()  # parameters whose module was called, in the last pass
        self._rows: set[int] = set()  # how many rows its modules put out

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Watch a forward pass; set `scale` (c_x) before its backward pass.

        No hook on a module outlives the context, whatever happens in it.
        """
        self._called.clear()
        self._rows.clear()
        handles = [
            module.register_forward_hook(self._forward_hook(names), with_kwargs=True)
            for module, names in self.owners
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def heard(self, rows: int) -> bool:
        """Whether the last pass, of so many rows, went through every module row by row."""
        wanted = {name for _, names in self.owners for name in names.values()}
        return self._called == wanted and self._rows == {rows}

    def add(self, gradients: Iterable[Tensor | None]) -> None:
        """Add second gradients computed elsewhere, in the order of the parameters; None for 0."""
        for name, gradient in zip(self.names, gradients, strict=True):
            if gradient is not None:
                _add(self.gradients, name, gradient)

    def _forward_hook(self, names: Names) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            self._called.update(names.values())
            self._rows.add(_rows(output))
            if isinstance(output, Tensor) and output.requires_grad:
                cast = _Autocast.now(output)
                output.register_hook(
                    lambda gradient: self._collect(module, names, args, kwargs, gradient, cast)
                )

        return hook

    @torch.no_grad()
    def _collect(
        self, module: Any, names: Names, args: Any, kwargs: Any, gradient: Tensor, cast: _Autocast
    ) -> None:
        if self.scale is None:
            return  # the second gradient comes from elsewhere
        scaled = _weighted(gradient, self.scale)
        if type(module) is torch.nn.Linear or id(module) in self.maps:
            if "weight" in names:
                _add_product(self.gradients, names["weight"], scaled, args[0])
            if "bias" in names:
                _add(self.gradients, names["bias"], _bias(scaled, module.bias))
        elif type(module) is torch.nn.Embedding:
            _add_rows(self.gradients, names["weight"], module, args[0], scaled)
        else:
            for name, value in _again(module, names, args, kwargs, [scaled], cast)[0].items():
                _add(self.gradients, name, value)


class SplitGradients:
    """Leaves the sum of both gradients in `.grad`, and shows the first one before it is added to.

    While `watching`, the weights of linear maps and embeddings take no part in autograd: hooks form
    their gradients, for the first rows and for the others. What is left, norms, autograd does for
    all rows, and the first rows' share is computed again.
    """

    def __init__(self, model: CausalLM, named: Mapping[str, Tensor]) -> None:
        """Find the modules that own the parameters; see `SecondGradient`."""
        self.named = dict(named)
        self.owners = _owners(model, named)
        self.scale: Float[Tensor, " F"] | None = None
        self.second: dict[str, Tensor] = {}
        self._clear()

    def _clear(self) -> None:
        self.second.clear()
        self.first: dict[str, Tensor] = {}
        self.waiting: Counter[str] = Counter()  # uses whose gradient has not come yet
        self.later: defaultdict[str, list[Callable[[], None]]] = defaultdict(list)
        self.complete = True

    @property
    def possible(self) -> bool:
        """Whether every module is of a kind whose gradient can be formed here."""
        return all(
            type(module) in (torch.nn.Linear, torch.nn.Embedding)
            or (all(p.dim() == 1 for p in module.parameters()) and not [*module.children()])
            for module, _ in self.owners
        )

    @contextmanager
    def watching(self, rows: int, batch: int, whole: Callable[[str, Tensor], None]) -> Iterator[None]:
        """Watch one forward pass and one backward pass; set `scale` (c_x) in between, or leave None.

        Args:
            rows: How many rows of the batch come first (F).
            batch: Rows of the batch.
            whole: Told a parameter's name and the first rows' gradient, to be changed in place;
                `second` then holds the second gradient of these rows, where `scale` was set.
        """
        self.rows, self.batch, self.whole, self.scale = rows, batch, whole, None
        self._clear()
        ours = [
            self.named[name]
            for module, names in self.owners
            if type(module) in (torch.nn.Linear, torch.nn.Embedding)
            for name in names.values()
        ]
        handles = [
            module.register_forward_hook(self._forward_hook(names), with_kwargs=True)
            for module, names in self.owners
        ]
        for parameter in ours:
            parameter.requires_grad_(False)
        try:
            yield
            # Not in `finally`: behind an error no gradient is whole.
            self._finish_small()
        finally:
            for parameter in ours:
                parameter.requires_grad_(True)
            for handle in handles:
                handle.remove()
            self._clear()

    @property
    def heard(self) -> bool:
        """Whether the forward pass went through every module, row by row."""
        return self.complete and self.waiting.keys() == self.named.keys()

    def _forward_hook(self, names: Names) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            if _rows(output) != self.batch:
                self.complete = False
                return
            if not output.requires_grad:
                output.requires_grad_(True)  # what comes before has nothing to train
            self.waiting.update(names.values())
            cast = _Autocast.now(output)
            factor = _multiplied(module, names, output)
            output.register_hook(
                lambda gradient: self._collect(module, names, args, kwargs, gradient, cast, factor)
            )

        return hook

    @torch.no_grad()
    def _collect(
        self,
        module: Any,
        names: Names,
        args: Any,
        kwargs: Any,
        gradient: Tensor,
        cast: _Autocast,
        factor: Tensor | None,
    ) -> None:
        first, others = gradient[: self.rows], gradient[self.rows :]
        scaled = None if self.scale is None else _weighted(first, self.scale)
        if type(module) not in (torch.nn.Linear, torch.nn.Embedding):
            # A norm's gradient is no product of what comes in and what comes back: where what its
            # weight was multiplied by is not at hand, the module runs again, on the first rows alone.
            # Without a scale there is one gradient to store, and `zip` ends after it.
            cut = [a[: self.rows] if isinstance(a, Tensor) else a for a in args]
            wanted = [first] if scaled is None else [first, scaled]
            if factor is None:
                parts = _again(module, names, cut, kwargs, wanted, cast)
            else:
                (name,), seen = names.values(), factor[: self.rows]
                parts = [{name: (c * seen).flatten(0, -2).sum(0)} for c in wanted]
            for store, part in zip((self.first, self.second), parts, strict=False):
                for name, value in part.items():
                    _add(store, name, value)
            return
        before, after = args[0][: self.rows], args[0][self.rows :]
        for local, name in names.items():
            self._add(module, local, name, self.first, first, before)
            if scaled is not None:
                self._add(module, local, name, self.second, scaled, before)
            # A tied weight has several uses. Its first rows' share is shaped once all of them have
            # come, and only then may the other rows be added: what they add is to be left as it is.
            self.later[name].append(partial(self._add, module, local, name, self.first, others, after))
            self.waiting[name] -= 1
            if not self.waiting[name]:
                self.whole(name, self.first[name])
                for add in self.later.pop(name):
                    add()
                # Shaped and summed in fp32; of weights in bf16 it is kept as they are.
                self.named[name].grad = self.first.pop(name).to(self.named[name].dtype)

    def _add(
        self, module: Any, local: str, name: str, store: dict[str, Tensor], rows: Tensor, inputs: Tensor
    ) -> None:
        if type(module) is torch.nn.Embedding:
            _add_rows(store, name, module, inputs, rows)
        elif local == "weight":
            _add_product(store, name, rows, inputs)
        else:
            _add(store, name, _bias(rows, module.bias))

    def _finish_small(self) -> None:
        """Put what `whole` makes of the norms' first gradients in their place."""
        for name, first in self.first.items():
            total, before = self.named[name].grad, first.clone()
            self.whole(name, first)
            if total is not None:
                total += first - before


def _owners(model: CausalLM, named: Mapping[str, Tensor]) -> list[tuple[torch.nn.Module, Names]]:
    """Return every module that owns some of the parameters, with their names by local name."""
    names = {id(parameter): name for name, parameter in named.items()}
    owners = []
    for module in model.modules():
        own = {
            local: names[id(p)] for local, p in module.named_parameters(recurse=False) if id(p) in names
        }
        if own:
            owners.append((module, own))
    return owners


def _weighted(gradient: Tensor, scale: Float[Tensor, " B"]) -> Tensor:
    shape = (-1,) + (1,) * (gradient.dim() - 1)
    return gradient * scale.view(shape).to(gradient.dtype)


@dataclass(frozen=True)
class _Autocast:
    """Whether a pass casts what it multiplies, and to what."""

    device: str
    enabled: bool
    dtype: torch.dtype

    @classmethod
    def now(cls, output: Tensor) -> _Autocast:
        """Return it for the pass that goes on, where this output lies."""
        device = output.device.type
        enabled = torch.is_autocast_enabled(device)
        return cls(device, enabled, torch.get_autocast_dtype(device))


def _rows(output: Any) -> int:
    """Return how many rows a module has put out; -1 where they are not the first dimension."""
    return output.shape[0] if isinstance(output, Tensor) and output.dim() > 2 else -1


def _again(
    module: Any, names: Names, args: Any, kwargs: Any, cotangents: Iterable[Tensor], cast: _Autocast
) -> list[dict[str, Tensor]]:
    """Run a module again and return its parameters' gradients for each output gradient."""
    with (
        torch.enable_grad(),
        torch.autocast(cast.device, cast.dtype, enabled=cast.enabled, cache_enabled=False),
    ):
        inputs = [a.detach() if isinstance(a, Tensor) else a for a in args]
        # Of the class: neither hooks nor what is patched onto this instance is to run again.
        again = type(module).forward(module, *inputs, **kwargs)
        wanted = [getattr(module, local) for local in names]
        gradients = [
            torch.autograd.grad(again, wanted, c.to(again.dtype), retain_graph=True) for c in cotangents
        ]
    return [dict(zip(names.values(), values, strict=True)) for values in gradients]


def _multiplied(module: Any, names: Names, output: Tensor) -> Tensor | None:
    """Return what a module has multiplied its only parameter by, element by element, in its last
    operation, as autograd has kept it; None where that was another one.
    """
    node: Any = output.grad_fn
    if len(names) != 1 or type(node).__name__ != "MulBackward0":
        return None
    parameter = getattr(module, *names)
    kept = node._saved_self, node._saved_other
    for one, other in (kept, kept[::-1]):
        if one is parameter and other is not None and other.shape == output.shape:
            same = parameter.dim() == 1 and parameter.dtype == other.dtype == output.dtype
            return other.detach() if same else None
    return None


def _bias(rows: Tensor, bias: Tensor) -> Tensor:
    return rows.reshape(-1, rows.shape[-1]).sum(0).to(bias.dtype)


def _add_product(store: dict[str, Tensor], name: str, rows: Tensor, inputs: Tensor) -> None:
    rows = rows.reshape(-1, rows.shape[-1])
    inputs = inputs.reshape(-1, inputs.shape[-1]).to(rows.dtype)
    total = store.get(name)
    if total is not None and rows.dtype == total.dtype:
        total.addmm_(rows.T, inputs)
    else:
        product = rows.T @ inputs
        _add(store, name, product if product.dtype == torch.float64 else product.float())


def _add_rows(store: dict[str, Tensor], name: str, module: Any, ids: Tensor, rows: Tensor) -> None:
    # As autograd has it: the padding row learns nothing.
    if module.padding_idx is not None:
        rows = rows * (ids != module.padding_idx).unsqueeze(-1)
    if name not in store:
        kind = torch.promote_types(module.weight.dtype, torch.float32)
        store[name] = torch.zeros_like(module.weight, dtype=kind)
    flat = rows.reshape(-1, rows.shape[-1]).to(store[name].dtype)
    store[name].index_add_(0, ids.reshape(-1), flat)


def _add(store: dict[str, Tensor], name: str, value: Tensor) -> None:
    if name in store:
        store[name] += value
    else:
        store[name] = value

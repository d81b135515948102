"""A second device made of the processor: it computes the same numbers and refuses what a real one does.

    import pretend
    pretend.install()
    torch.ones(3, device="pretend") + torch.ones(3)   # RuntimeError: ... same device

`PretendTensor` holds a tensor of the processor and says that it lies on `pretend:0`. Every operation on
one is carried out on what it holds, after it has been seen to that all tensors that take part lie there:
as on CUDA, only numbers (tensors without dimensions), copies between devices, and indices may come from
the processor. `.numpy()` and the address of the memory are refused too. What it is not: it is not
asynchronous, has no kernels of its own, and its memory is the processor's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import library
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

NAME = "pretend"
aten = torch.ops.aten

# Operations that take tensors of two devices, on CUDA as well.
COPIES = {aten.copy_.default, aten._to_copy.default, aten.to.device, aten._copy_from.default}
INDEXED = {
    aten.index.Tensor,
    aten.index_put_.default,
    aten.index_put.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
    aten._unsafe_index_put.default,
}


class PretendTensor(torch.Tensor):
    """A tensor that lies on the pretended device; `held` is the processor's."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> PretendTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device(NAME, 0),
            requires_grad=False,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return carry_out(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"PretendTensor({self.held!r})"

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def __matmul__(self, other: Any) -> Any:
        # A vector times a matrix would be given its shape in place, which a wrapper cannot follow.
        if self.dim() == 1 and other.dim() == 2:
            return (self.unsqueeze(0) @ other).squeeze(0)
        return super().__matmul__(other)

    def tolist(self) -> Any:
        return self.held.tolist()

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) in memo:
            return memo[id(self)]
        copied: Any = self.detach().clone()
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied

    __torch_function__ = torch._C._disabled_torch_function_impl


def carry_out(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Carry an operation out on what its tensors hold.

    Raises:
        RuntimeError: A tensor among them was left on the processor.
    """
    leaves, _ = pytree.tree_flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if func not in COPIES:
        strays = [
            t for t in _held_to(func, args, tensors) if not isinstance(t, PretendTensor) and t.dim() > 0
        ]
        if strays:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but got {tuple(strays[0].shape)} on cpu, "
                f"different from other tensors on {NAME}:0 ({func})"
            )
    device = kwargs.get("device")
    there = torch.device(device) if device is not None else None
    bare_args, bare_kwargs = pytree.tree_map(_bare, (args, kwargs))
    if func is aten._fused_sdp_choice.default:
        return 0  # plain products
    result = func(*bare_args, **bare_kwargs)
    if there is not None and there.type == "cpu":
        return result
    if func is aten._local_scalar_dense.default:
        return result
    known = {id(t.held): t for t in tensors if isinstance(t, PretendTensor)}

    def wrap(x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or isinstance(x, PretendTensor):
            return x
        return known[id(x)] if id(x) in known else PretendTensor(x)

    if func is aten.copy_.default and not isinstance(args[0], PretendTensor):
        return args[0]
    return pytree.tree_map(wrap, result)


def _held_to(func: Any, args: Any, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the tensors that must lie together: of an index what it is of, not the index."""
    if func in INDEXED:
        return [args[0], *([args[2]] if len(args) > 2 else [])]
    return tensors


def _bare(x: Any) -> Any:
    if isinstance(x, PretendTensor):
        return x.held
    if isinstance(x, torch.device) and x.type == NAME:
        return torch.device("cpu")
    return x


def _filled(target: Any, source: torch.Tensor, non_blocking: bool = False) -> Any:
    """copy_ where torch has Python switched off: in making a tensor of numbers or indices."""
    target.held.copy_(_bare(source))
    return target


class Module(_DummyBackendModule):
    """What torch asks of a device's module, beside what is there already."""

    def get_device_name(self, device: Any = None) -> str:
        return "a part of the processor"

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        return 1 << 35, 1 << 36

    def is_tf32_supported(self) -> bool:
        return True

    def synchronize(self, device: Any = None) -> None:
        """Nothing waits."""


LIBRARIES: list[library.Library] = []  # what is registered lives as long as these


def install() -> None:
    """Register the device, for the rest of this process and before its first backward pass."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=Module())
    every, aten_library = library.Library("_", "IMPL"), library.Library("aten", "IMPL")
    every.fallback(lambda op, *args, **kwargs: carry_out(op, args, kwargs), "PrivateUse1")
    aten_library.impl("copy_", _filled, "PrivateUse1")
    LIBRARIES.extend((every, aten_library))

"""A model in shards over several processes, and the few questions that are asked of all of them.

Training on several processes is torch's fully sharded data parallelism (FSDP2): every parameter is cut
along its first dimension, a process keeps a piece of it, of its gradient and of the optimiser's state,
and each block is whole only while it is passed through. What trains asks only

    local(t)                     what of a tensor lies here
    full(t)                      all of it, on every process
    all_sum(*numbers)            sums over the rows of all processes
    shard_sum(*numbers)          sums over the pieces of one tensor
    reduce_like(p, partial)      a gradient of these rows -> the piece of the gradient of all rows

and with one process all of them give back what they were given. Gradients are sums over the rows of all
processes, never means of means: who divides by how many rows or tokens there are counts all of them.

A model is in shards while a step of it stands (`Shards`), and whole on every process before and after;
or for as long as it lives (`divide`), where it does not fit in whole: all processes take every pass of
it together then, with the same rows unless they are a step's, and have one block in whole at a time.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import islice
from typing import Any, NamedTuple, TypeVar
from weakref import WeakSet

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._composable_state import _module_state_mapping
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_common import TrainingState
from torch.distributed.tensor import DTensor, Partial

from ssiuu.errors import ConfigError, SsiuuError

T = TypeVar("T")
U = TypeVar("U")
SHARD, REPLICATE = "shard", "replicate"
PATIENCE = timedelta(minutes=30)  # until a process that waits for another one gives up
LEAVING = timedelta(seconds=20)  # until it leaves without the others

_joined: list[bool] = []  # whether this process works with others
_apart: list[bool] = []  # while each does something of its own, in which none asks another
_pieces: WeakSet[Any] = WeakSet()  # models in shards: all pass through one together, or nobody does
_meshes: list[DeviceMesh] = []  # over which models are cut, once it is known what they lie on
_divided: list[bool] = []  # whether models are to stay in shards for as long as they live


def join() -> None:
    """Join the processes that a launcher started; a process that has joined stays so until `end`."""
    if _joined:
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
    _joined.append(True)


def arrange(
    device: str = "cpu", replicate: int = 1, shard: int | None = None, divided: bool = False
) -> None:
    """Say over which processes models are cut from here on.

    Args:
        device: The kind of device that models lie on: "cpu" or "cuda".
        replicate: Copies of a model, each cut over an equal part of the processes (over nodes).
        shard: Processes that a copy is cut over; None: as many as there are for one.
        divided: Whether models stay so for as long as they live; see `divide`.

    Raises:
        ConfigError: There are not so many processes.
    """
    size = world()
    each = shard or max(1, size // max(1, replicate))
    if replicate < 1 or replicate * each != size:
        raise ConfigError(
            f"mesh: replicate x shard must be {size}, as there are processes, got {replicate} x {each}."
        )
    _meshes.clear()
    _divided.clear()
    if size > 1:
        _divided.extend([True] * divided)
        names = (REPLICATE, SHARD)
        _meshes.append(init_device_mesh(device, (replicate, each), mesh_dim_names=names))
        # Copies of the whole are what torch makes of two dimensions; one is enough for one of them.
        if replicate == 1:
            _meshes[0] = _meshes[0][SHARD]


def end() -> None:
    """Leave the other processes, together."""
    if _joined:
        wait()
        _joined.clear()
        _meshes.clear()
        _divided.clear()
        _pieces.clear()
        dist.destroy_process_group()


def wait() -> None:
    """Wait for the other processes: one whose partner is gone in the middle of something may abort."""
    with suppress(RuntimeError):  # one of them has met something of its own, and is gone
        dist.all_reduce(torch.zeros(1), async_op=True).wait(LEAVING)


def world() -> int:
    """Return how many processes work together."""
    return dist.get_world_size() if _joined else 1


def rank() -> int:
    """Return which of them this is, from 0."""
    return dist.get_rank() if _joined else 0


# --- tensors ---------------------------------------------------------------------------------------


@torch.no_grad()
def local(t: Tensor) -> Tensor:
    """Return what of a tensor lies here, in the same storage; all of it with one process."""
    return t.to_local() if isinstance(t, DTensor) else t.detach()


@torch.no_grad()
def full(t: Tensor) -> Tensor:
    """Return all of a tensor; every process must ask."""
    return t.full_tensor() if isinstance(t, DTensor) else t.detach()


def rows_of(parameter: Tensor) -> slice:
    """Return which rows of a parameter lie here."""
    if not isinstance(parameter, DTensor):
        return slice(0, len(parameter))
    mesh, rows = parameter.device_mesh, parameter.shape[0]
    size = -(-rows // mesh.size(mesh.ndim - 1))
    start = min(mesh.get_local_rank(mesh.ndim - 1) * size, rows)
    return slice(start, min(start + size, rows))


class Place(NamedTuple):
    """Where in a parameter a piece of it lies: its first row, and what there is in all."""

    start: int
    rows: int
    entries: int

    @property
    def first(self) -> int:
        """The first entry, counted row by row."""
        return self.start * (self.entries // self.rows)


def places(named: Mapping[str, Tensor]) -> dict[str, Place]:
    """Return where the pieces lie that are here; none where parameters are whole."""
    return {
        name: Place(rows_of(p).start, p.shape[0], p.numel())
        for name, p in named.items()
        if isinstance(p, DTensor)
    }


@contextmanager
def edited(parameter: Tensor) -> Iterator[Tensor]:
    """Have all of a parameter to write into, on every process; every process must ask.

    It comes to lie as it did when the context ends. A whole parameter is written into itself.
    """
    whole = full(parameter)
    yield whole
    fill(parameter, whole)


@torch.no_grad()
def fill(parameter: Tensor, whole: Tensor) -> None:
    """Write a whole tensor into a parameter, of which each process takes its rows."""
    here = local(parameter)
    if isinstance(parameter, DTensor) or here.data_ptr() != whole.data_ptr():
        here.copy_(own(parameter, whole))


@torch.no_grad()
def picked(parameter: Tensor, rows: Tensor) -> Tensor:
    """Return some rows of a parameter, by number, of whatever shape; every process must ask."""
    if not isinstance(parameter, DTensor):
        return parameter.detach()[rows]
    mine, here = rows_of(parameter), local(parameter)
    found = here.new_zeros((*rows.shape, *here.shape[1:]))
    there = (rows >= mine.start) & (rows < mine.stop)
    found[there] = here[rows[there] - mine.start]
    return shard_total(found)  # one process has each of them, and all others 0


def firsts(t: Tensor) -> Tensor:
    """Return all of a tensor on the first process, beside its accelerator; every process must ask.

    Elsewhere there is nothing of it then: one tensor at a time is whole on an accelerator. A whole one
    is returned as it is.
    """
    if not isinstance(t, DTensor):
        return t.detach()
    whole = full(t)
    return whole.cpu() if rank() == 0 else whole.new_empty(0, device="cpu")


@torch.no_grad()
def copied(module: nn.Module) -> nn.Module:
    """Return a copy of a module, whole on every process; every process must ask."""
    cut = [p for p in module.parameters() if isinstance(p, DTensor)]
    # Shards cannot be copied: they are said to have been, and these to be their copies.
    said: dict[int, Any] = {id(p): nn.Parameter(full(p).clone(), p.requires_grad) for p in cut}
    return copy.deepcopy(module, said)


def callable_alone(module: nn.Module) -> nn.Module:
    """Return a module that may be called outside a pass of its model: of one that is cut, a copy."""
    return copied(module) if is_cut(module) else module


@contextmanager
def whole_in_shape(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Have weights of the whole's shape, which hold nothing, in modules that are cut."""
    cut: list[tuple[Any, str, Any]] = [
        (m, name, p) for m in modules for name, p in m._parameters.items() if isinstance(p, DTensor)
    ]
    for module, name, parameter in cut:
        empty = torch.empty(1, dtype=parameter.dtype, device=parameter.device)
        module._parameters[name] = nn.Parameter(empty.expand(parameter.shape))
    try:
        yield
    finally:
        for module, name, parameter in cut:
            trained = module._parameters[name].requires_grad  # as was said of it meanwhile
            module._parameters[name] = parameter.requires_grad_(trained)


def is_cut(model: Any) -> bool:
    """Whether each process has a piece of a model's parameters."""
    return any(isinstance(p, DTensor) for p in model.parameters())


class Piece(NamedTuple):
    """Some rows of a tensor: the first of them, and how many there are in all."""

    tensor: Tensor
    start: int
    rows: int


def piece(parameter: Tensor, part: Tensor) -> Piece | None:
    """Return what this process has to write of a tensor that is cut as a parameter is.

    Args:
        parameter: What says where pieces lie.
        part: What lies here: of the parameter's rows, or of its entries in a row, or a number for each
            of its rows.

    Returns:
        None where no row lies here, or only one that another copy of the model has too.
    """
    assert isinstance(parameter, DTensor)
    mesh, rows = parameter.device_mesh, rows_of(parameter)
    if rows.start == rows.stop or (mesh.ndim > 1 and mesh.get_local_rank(0)):
        return None
    width = len(part) // (rows.stop - rows.start)
    return Piece(part, rows.start * width, parameter.shape[0] * width)


def own(parameter: Tensor, whole: Tensor) -> Tensor:
    """Return the rows of a whole tensor that belong to what of a parameter lies here."""
    return whole[rows_of(parameter)] if isinstance(parameter, DTensor) else whole


@torch.no_grad()
def reduce_like(parameter: Tensor, partial: Tensor) -> Tensor:
    """Return what of a parameter's gradient lies here, given that of the rows of every process.

    Args:
        parameter: As it is trained.
        partial: Of the parameter's whole shape, summed over the rows of this process.
    """
    if not isinstance(parameter, DTensor):
        return partial
    mesh = parameter.device_mesh
    summed = DTensor.from_local(partial, mesh, [Partial()] * mesh.ndim, run_check=False)
    return summed.redistribute(mesh, parameter.placements).to_local()


def like(parameter: Tensor, part: Tensor) -> Tensor:
    """Return a copy of the piece that lies here of a tensor of a parameter's shape, as such a piece."""
    copy = part.clone().to(parameter.device)
    if not isinstance(parameter, DTensor):
        return copy
    return DTensor.from_local(
        copy,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


# --- numbers ---------------------------------------------------------------------------------------


def all_sum(*numbers: float) -> list[float]:
    """Return sums over all processes, each of which has rows of its own."""
    return _summed(numbers, None) if _joined else list(numbers)


def shard_sum(*numbers: float) -> list[float]:
    """Return sums over the processes that each have a piece of a tensor."""
    if not _meshes:
        return list(numbers)
    return _summed(numbers, _meshes[0].get_group(SHARD))


def _summed(numbers: Sequence[float], group: Any) -> list[float]:
    # Beside the accelerators' own sums, whose order is not disturbed so.
    total = torch.tensor([float(n) for n in numbers], dtype=torch.float64)
    dist.all_reduce(total, group=group)
    found: list[float] = total.tolist()
    return found


@torch.no_grad()
def shard_total(partial: Tensor) -> Tensor:
    """Return the sum of a tensor over the processes that each have a piece, in place."""
    if _meshes:
        dist.all_reduce(partial, group=_meshes[0].get_group(SHARD))
    return partial


@torch.no_grad()
def whole_norm(tensors: Iterable[Tensor]) -> float:
    """Return the L2 norm over all entries, the same to the last bit however the tensors lie."""
    found = list(tensors)
    if not any(isinstance(t, DTensor) for t in found):
        return float(torch.nn.utils.get_total_norm([t.detach() for t in found]))
    return float(
        torch.linalg.vector_norm(torch.stack([torch._foreach_norm([full(t)])[0] for t in found]))
    )


@torch.no_grad()
def norm(tensors: Iterable[Tensor]) -> float:
    """Return the L2 norm over all entries of tensors, wherever they lie; 0 of none."""
    return norm_of_pieces(local(t) for t in tensors)


@torch.no_grad()
def norm_of_pieces(pieces: Iterable[Tensor]) -> float:
    """Return the L2 norm over all entries of tensors of which each process has a piece; 0 of none."""
    found = list(pieces)
    if not _meshes:
        return float(torch.nn.utils.get_total_norm(found)) if found else 0.0
    square = sum(float(torch.linalg.vector_norm(t, dtype=torch.float64).square()) for t in found)
    return float(shard_sum(square)[0] ** 0.5)


# --- what is done once -----------------------------------------------------------------------------


def agreed(value: T) -> T:
    """Return what the first process says, on all: what decides how a run goes on must be one."""
    if not _joined:
        return value
    said = [value]
    dist.broadcast_object_list(said, src=0, device=torch.device("cpu"))
    return said[0]


@torch.no_grad()
def alike(logits: Tensor) -> Tensor:
    """Return what the first process read, on all, where all have read the same with a model in shards.

    What is read decides what is read next, and two accelerators may differ in a last bit.
    """
    if _pieces and _joined and not _apart:
        dist.broadcast(logits := logits.contiguous(), 0)
    return logits


def any_of(flag: bool) -> bool:
    """Whether it is so on some process."""
    return all_sum(float(flag))[0] > 0


def every(values: Sequence[T]) -> list[T]:
    """Return the values of all processes, in their order."""
    if not _joined:
        return list(values)
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, list(values))
    return [value for each in found for value in each]


def by_first(action: Callable[[], T]) -> T | None:
    """Let the first process alone do something once all are there, and all others wait for it.

    Returns:
        What it gave, on the first process; None elsewhere.

    Raises:
        SsiuuError: What the first process met, on all of them.
    """
    if not _joined or _apart:
        return action()
    all_sum(0.0)
    done: T | None = None
    met: Exception | None = None
    if rank() == 0:
        try:
            with _by_itself():
                done = action()
        except (SsiuuError, OSError) as error:
            met = error
    told = agreed(None if met is None else (type(met).__name__, str(met)))
    if met is not None:
        raise met
    if told is not None:
        raise SsiuuError(told[1])
    return done


def by_turns(action: Callable[[], T]) -> T:
    """Do something on every process, on those of one machine one after the other.

    Raises:
        SsiuuError: What one of them met, on all of them.
    """
    if not _joined or _apart:
        return action()
    mine = int(os.environ.get("LOCAL_RANK", rank()))
    done: list[T] = []
    for turn in range(max(every([mine])) + 1):
        met: SsiuuError | None = None
        if turn == mine:
            try:
                with _by_itself():
                    done.append(action())
            except SsiuuError as error:
                met = error
        if told := [error for error in every([met]) if error is not None]:
            raise told[0]
    return done[0]


def dealt(units: Iterable[U], work: Callable[[U], T]) -> list[T]:
    """Have every unit of a work done by one process; return what came of all of them, in order.

    Every process must ask, for the same units. None of them is cut, so that each comes to what it comes
    to with one process, to the last bit. While a model is in shards, and is not `gathered`, every
    process does all of them: a block can only be passed through by all at once.

    Args:
        units: What is dealt out one at a time, as rows are; made by every process.
        work: Reads and changes nothing; what it gives is free of an accelerator.

    Raises:
        SsiuuError: What one of the processes met, on all of them.
    """
    if _pieces:
        return [work(unit) for unit in units]
    return spread(units, work)


def in_turns(units: Iterable[U], work: Callable[[U], T]) -> Iterator[T]:
    """Do as `dealt` does, a round of all processes at a time: what came of no more is held."""
    left = iter(units)
    while turn := list(islice(left, world())):
        yield from dealt(turn, work)


def spread(units: Iterable[U], work: Callable[[U], T]) -> list[T]:
    """Do as `dealt` does, whether or not a model is in shards: the work passes through none."""
    if not _joined or _apart:
        return [work(unit) for unit in units]
    done: list[tuple[int, T]] = []
    met: SsiuuError | None = None
    try:
        with _by_itself():
            own = (pair for pair in enumerate(units) if pair[0] % world() == rank())
            done = [(number, work(unit)) for number, unit in own]
    except SsiuuError as error:
        met = error
    told = [error for error in every([met]) if error is not None]
    if told:
        raise told[0]
    return [result for _, result in sorted(every(done), key=lambda pair: pair[0])]


@contextmanager
def _by_itself() -> Iterator[None]:
    _apart.append(True)
    try:
        yield
    finally:
        _apart.pop()


# --- a model ---------------------------------------------------------------------------------------


class Shards:
    """Has a model in shards from here until it is made `whole`; with one process nothing is done.

    The parameters of before stay the same objects: they are empty in between, and hold what training
    has led to afterwards. Of a divided model only what was put into it since, adapters, is cut here
    and made whole again.
    """

    def __init__(self, model: Any, blocks: Iterable[nn.Module]) -> None:
        """Cut a model.

        Args:
            model: Whole, or divided; the same on every process.
            blocks: Its decoder's blocks, which are made whole one at a time.
        """
        self.root: Any = model.get_submodule("") if world() > 1 else None
        self.divided = isinstance(self.root, FSDPModule)
        if self.root is None:
            return
        if not _meshes:
            arrange(next(self.root.parameters()).device.type)
        parts = _uncut(self.root) if self.divided else [*blocks, self.root]
        modules = parts if self.divided else list(self.root.modules())
        self._before = [(m, type(m), _tables(m), dict(m._parameters)) for m in modules]
        # Explicitly, as else the root would stay whole between passes and miss what is changed there.
        for part in parts:
            fully_shard(part, mesh=_meshes[0], reshard_after_forward=True)
        for module in modules:
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                if _meshes[0].device_type == "cpu":
                    module.set_force_sum_reduction_for_comms(True)
        if parts:
            _begin(self.root)
        self._added = [
            (m, {key: set(table) - known.get(key, set()) for key, table in _dicts(m).items()})
            for m, _, known, _ in self._before
        ]
        for parameter in self._originals():
            parameter.data = parameter.data.new_empty(0)
        if not self.divided:
            _pieces.add(self.root)

    def _originals(self) -> list[Tensor]:
        found = [p for _, _, _, each in self._before for p in each.values() if p is not None]
        return list({id(p): p for p in found}.values())

    @torch.no_grad()
    def whole(self) -> None:
        """Put together again on every process what was cut here."""
        if self.root is None:
            return
        self.settle()
        known: dict[int, Tensor] = {}
        for module, _, _, parameters in self._before:
            for name, parameter in parameters.items():
                if parameter is not None and id(parameter) not in known:
                    known[id(parameter)] = parameter
                    now: Any = module._parameters[name]
                    parameter.data = full(now).contiguous()
                    parameter.grad = None
        for module, kind, _, parameters in self._before:
            module.__class__ = kind
            module._parameters.update(parameters)
        for module, added in self._added:
            for key, names in added.items():
                table = vars(module) if key == "" else vars(module).get(key, {})
                for name in names:
                    table.pop(name, None)
            _module_state_mapping.pop(module, None)  # or it could not be cut a second time
        if not self.divided:
            _pieces.discard(self.root)
        elif self._before:
            _begin(self.root)
        self.root = None

    def settle(self) -> None:
        """Take back what a pass that ended early has left whole."""
        if self.root is not None:
            self.root.reset_iter_state()

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Have all of the model on every process while it is only read, in whatever way.

        A divided one stays in shards: all processes take the same passes of it.
        """
        gathers = self.root is not None and not self.divided
        cut = [m for m in self.root.modules() if isinstance(m, FSDPModule)] if gathers else []
        for module in cut:
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()
        if cut:
            _pieces.discard(self.root)
        try:
            yield
        finally:
            if cut:
                _pieces.add(self.root)
            for module in cut:
                module.set_reshard_after_forward(True, recurse=False)
            self.settle()


def dividing() -> bool:
    """Whether models are to stay in shards for as long as they live."""
    return bool(_divided)


def divide(model: Any, blocks: Iterable[nn.Module]) -> None:
    """Cut a model for as long as it lives, where that was arranged; every process must ask."""
    if world() > 1 and dividing():
        cut = Shards(model, blocks)
        cut.root.register_forward_pre_hook(_ready, prepend=True)
        # Logits may be a view, into which nobody writes here.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")


def _ready(root: Any, inputs: Any) -> None:
    """Prepare a pass of a divided model, which is asked in more ways than a training is.

    What was frozen or freed since is so in its whole form too, which torch makes once; and a pass that
    was stopped on its way, where nothing is trained, is over.
    """
    state = root._get_fsdp_state()
    stopped = state._training_state is TrainingState.FORWARD
    if stopped and not getattr(root, "_ssiuu_trains", True):
        root.reset_iter_state()
    root._ssiuu_trains = torch.is_grad_enabled()
    for each in state._state_ctx.all_states:
        for group in each._fsdp_param_groups:
            for parameter in group.fsdp_params:
                if hasattr(parameter, "_unsharded_param"):
                    parameter._unsharded_param.requires_grad_(parameter.sharded_param.requires_grad)


def _begin(root: Any) -> None:
    """Let a model find its parts, now: one that is asked first would take itself for the whole."""
    parts = {m._get_fsdp_state() for m in root.modules() if isinstance(m, FSDPModule)}
    for state in parts:
        state._is_root = None
        state._state_ctx.all_states.clear()
    root._get_fsdp_state()._lazy_init()


def _uncut(root: nn.Module) -> list[nn.Module]:
    """Return the modules of a divided model whose parameters were put there since.

    Each is cut by itself: of a group the parts would have to be passed through one after the other.
    """
    return [
        m
        for m in root.modules()
        if any(p is not None and not isinstance(p, DTensor) for p in m._parameters.values())
    ]


def _dicts(module: nn.Module) -> dict[str, Any]:
    return {key: value for key, value in vars(module).items() if isinstance(value, dict)} | {
        "": vars(module)
    }


def _tables(module: nn.Module) -> dict[str, set[Any]]:
    """Return the keys of all that a module holds by key, its attributes included."""
    return {key: set(table) for key, table in _dicts(module).items()}

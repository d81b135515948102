"""The state of a training that was written by some processes, taken up by another number of them."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from distributed.cases import STEPS, apart, model_of, unlearned
from distributed.forked import Forked
from distributed.table import PENALTY, Case
from ssiuu.errors import DamagedError, OutputError
from ssiuu.models import shards
from ssiuu.training import loop, pieces
from ssiuu.training.loop import Loop
from ssiuu.training.state import read_state, remove_state

# Moments, what parts remember of entries, of rows, of earlier steps; adapters.
CASES: dict[str, Case] = {
    "ssiuu, micro-batches": {"spec": PENALTY, "micro": 1},
    "gu, tied": {"spec": "gd+gu(2)", "tied": True},
    "mask": {"spec": "masked"},
    "adapters": {"spec": {"name": "ssiuu-neuron-growth", "lambda": 2.0}, "lora": True},
}


def joined() -> None:
    if "WORLD_SIZE" in os.environ:
        shards.join()
        arranged()


def arranged(divided: bool = False) -> None:
    shards.arrange("cpu", divided=divided)
    shards._pieces.clear()  # a divided model of the case before


def name_of(case: str) -> str:
    return f"{list(CASES).index(case)}.state.safetensors"


def written(place: Path) -> int:
    """Train in every way to the end; what stays is the state before the last step, and what it led to."""
    joined()
    with patch.object(loop, "SAVE_EVERY", 0.0):
        for name, case in CASES.items():
            parameters, _ = unlearned(case, state=place / name_of(name))
            if shards.rank() == 0:
                save_file(dict(parameters), place / f"led to {name_of(name)}")
    shards.end()
    return 0


def continued(places: Sequence[Path], first: int = STEPS - 1) -> int:
    """Go on from states; each must lead where it led those that wrote it, from the step they were at."""
    joined()
    begun: list[int] = []
    resume = Loop.resume

    def resumed(self: Loop) -> bool:
        found = resume(self)
        begun.append(self.done)
        return found

    with patch.object(Loop, "resume", resumed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, place in enumerate(places):
            arranged(divided=bool(number))  # the second ones by a model that stays in shards
            for name, case in CASES.items():
                found = unlearned(case, state=place / name_of(name))
                wanted = load_file(place / f"led to {name_of(name)}")
                start = {path: p.detach() for path, p in model_of(case).named_parameters()}
                assert apart(found, (wanted, []), start) < 1e-9, (place, name)
    assert set(begun) == {first}, begun
    shards.end()
    return 0


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """States by 1 and by 2 processes."""
    places = {n: tmp_path_factory.mktemp(f"by {n}") for n in (1, 2)}
    begun = [Forked(place, n, partial(written, place)) for n, place in places.items()]
    for each in begun:
        assert each.done() == 0, each.told() + each.told(1)
    return places


def ran(place: Path, size: int, action: Any) -> None:
    begun = Forked(place, size, action)
    assert begun.done() == 0, begun.told() + begun.told(1)


@pytest.mark.parametrize("after", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_any_number_goes_on(states: dict[int, Path], tmp_path: Path, after: int) -> None:
    assert all(pieces.folder_of(states[2] / name_of(name)).is_dir() for name in CASES)
    assert not [*states[1].glob("pieces.*")]
    ran(tmp_path, after, partial(continued, [*states.values()]))


@pytest.fixture
def harmed(states: dict[int, Path], tmp_path: Path) -> tuple[Path, list[Path]]:
    """A copy of the states of two processes, and a file of pieces of each."""
    place = Path(shutil.copytree(states[2], tmp_path / "harmed"))
    return place, [max(pieces.folder_of(place / name_of(name)).iterdir()) for name in CASES]


@pytest.mark.parametrize("bit", [0, -1])
def test_a_bit_that_turned_in_a_piece_is_found(harmed: tuple[Path, list[Path]], bit: int) -> None:
    place, files = harmed
    for path in files:
        content = bytearray(path.read_bytes())
        content[bit] ^= 1
        path.write_bytes(content)
        with pytest.raises(DamagedError):
            pieces.read(place / path.parent.name.removeprefix("pieces."))
    if bit:
        ran(place, 2, partial(continued, [place], first=0))


def test_a_piece_that_is_cut_short_or_gone_is_found(harmed: tuple[Path, list[Path]]) -> None:
    place, (first, second, third, *_) = harmed
    first.write_bytes(first.read_bytes()[:-1])
    second.unlink()
    third.write_bytes(min(third.parent.iterdir()).read_bytes())  # whole, and another one's
    for path in (first, second, third):
        with pytest.raises(DamagedError):
            pieces.read(place / path.parent.name.removeprefix("pieces."))


def interrupted(place: Path) -> int:
    """Save twice; the second time all pieces are there, and the state that they belong to is not."""
    joined()
    write, path = pieces.write_tensors, place / "x.state.safetensors"
    saved: list[int] = []

    def failing(*given: Any) -> None:
        saved.append(1)
        if len(saved) > 1:
            raise OutputError("the disk is full")
        write(*given)

    with (
        patch.object(loop, "SAVE_EVERY", 0.0),
        patch.object(pieces, "write_tensors", failing),
        pytest.raises(OutputError, match="the disk is full"),
    ):
        unlearned(CASES["mask"], state=path)
    before = pieces.read(path)
    assert before is not None and len([*pieces.folder_of(path).iterdir()]) == 2 * shards.world()
    assert [len(file["places"]) > 10 for file in before.files] == [True] * shards.world()
    shards.all_sum(0.0)
    with patch.object(loop, "SAVE_EVERY", 0.0):
        unlearned(CASES["mask"], state=path)  # it goes on, and a save that succeeds tidies up
    assert len([*pieces.folder_of(path).iterdir()]) == shards.world()
    shards.end()
    return 0


def test_a_save_that_fails_leaves_the_state_before(tmp_path: Path) -> None:
    ran(tmp_path, 2, partial(interrupted, tmp_path))
    remove_state(tmp_path / "x.state.safetensors")
    assert {path.name for path in tmp_path.iterdir()} <= {"told 0", "told 1"}


def test_rows_of_what_is_cut(tmp_path: Path) -> None:
    """By hand: four of ten rows are there, as if the process with the others had not been heard."""
    cut = {"a": shards.Piece(torch.arange(4.0), 0, 10), "b": shards.Piece(torch.ones(1, 2), 0, 1)}
    with patch.object(pieces, "world", lambda: 1):
        pieces.write(tmp_path / "x", {"c": torch.zeros(2)}, cut, {"progress": "{}"})
    with pytest.warns(UserWarning, match="cut short or damaged") as told:
        stored = pieces.read(tmp_path / "x")
        assert stored is not None and sorted(stored.names) == ["a", "b", "c"]
        assert stored._read("a", slice(1, 4)).tolist() == [1.0, 2.0, 3.0]
        with pytest.raises(DamagedError):
            stored._read("a", slice(1, 5))
        (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes()[:-1])
        assert read_state(tmp_path / "x") is None
    assert len(told) == 1

"""Records, headers and states that are damaged: read as they were, or refused in a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from damage import Damage, as_json, as_tensors, raw
from hypothesis import strategies as st

from fuzzed import fuzz, typed
from sample_record import sample_record
from sample_runs import only, write_run
from ssiuu.models.weights import read_tensors, write_tensors
from ssiuu.records.digest import seal, unseal
from ssiuu.records.files import load_run
from ssiuu.records.schema import RunRecord
from ssiuu.training.state import load_state

HEADER, STATE = "run.json", "state.safetensors"
KEYS = ["key", "progress", "log", "number", "step", "memory"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    whole = only(sample_record(), "gd")
    return write_run(whole, tmp_path_factory.mktemp("records") / "run")


def names(run: Path) -> list[str]:
    return sorted(path.relative_to(run).as_posix() for path in run.rglob("*.json"))


@fuzz(st.tuples(st.floats(0, 0.999), raw("it")), examples=15)
def test_records_whose_bytes_changed(sample: tuple[float, Damage], run: Path) -> None:
    """Nothing that was changed is taken as true: it is as it was, or named."""
    every = names(run)
    path = run / every[int(sample[0] * len(every))]
    content = path.read_bytes()
    changed = sample[1].act(content)
    path.write_bytes(changed)
    try:
        assert typed(lambda: load_run(run)) is None or changed == content
    finally:
        path.write_bytes(content)


@fuzz(st.tuples(st.floats(0, 0.999), as_json("it"), st.booleans()), examples=12)
def test_records_that_were_edited(sample: tuple[float, Damage, bool], run: Path) -> None:
    """What an editor made of a record, with a digest of it or without any, has the schema or is refused."""
    every = names(run)
    path = run / every[int(sample[0] * len(every))]
    content = path.read_bytes()
    edited = sample[1].act(unseal(content))
    path.write_bytes(seal(edited) if sample[2] and edited.startswith(b"{") else edited)
    try:
        found = typed(lambda: load_run(run))
        assert found is None or isinstance(found, RunRecord)
    finally:
        path.write_bytes(content)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("state")
    tensors = {"parameter:a": torch.arange(6.0).view(2, 3), "optimiser:step:a": torch.tensor(3.0)}
    progress = {"key": "k", "log": [{"step": 1}], "number": 3, "memory": {"row": 0}}
    write_tensors(tensors, folder / STATE, {"progress": json.dumps(progress)})
    return folder


def meaning(path: Path) -> Any:
    """Return what a safetensors file says: its header may be spelled in several ways."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    try:
        header = json.dumps(json.loads(content[8 : 8 + size]))  # False is no 0
        return header, content[8 + size :]
    except ValueError:
        return content


@fuzz(st.lists(as_tensors(STATE), min_size=1, max_size=2), examples=40)
@pytest.mark.filterwarnings("ignore:.*cut short or damaged")
def test_states(sample: list[Damage], state: Path) -> None:
    """A state that was changed is not taken up, and nothing of it comes into the model."""
    damaged = state / "damaged"
    shutil.rmtree(damaged, ignore_errors=True)
    damaged.mkdir()
    shutil.copy(state / STATE, damaged / STATE)
    for damage in sample:
        damage.inflict(damaged)
    parameter = torch.nn.Parameter(torch.zeros(2, 3))
    step = Mock(
        named={"a": parameter}, optimizers={"optimiser": torch.optim.SGD([parameter])}, bounds={}
    )
    found = typed(lambda: load_state(damaged / STATE, step, "k"))
    same = meaning(damaged / STATE) == meaning(state / STATE)
    assert same == (found is not None) and same == bool(parameter.any())
    if not same:
        read = typed(lambda: read_tensors(damaged / STATE))
        assert read is None or not read.sealed

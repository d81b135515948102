"""One bit that turned, anywhere in a file that is read as true, is found and named."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sample_record import sample_record
from sample_runs import only, write_run
from ssiuu.benchmarks.tuned import kept
from ssiuu.errors import ConfigError, DamagedError, InputError
from ssiuu.likelihood.template import check_template
from ssiuu.models.files import seal_folder, unharmed
from ssiuu.models.weights import (
    complete,
    load_weights,
    read_tensors,
    save,
    save_weights,
    write_tensors,
)
from ssiuu.records.files import field_of, load_run, read_record, standing, whole, write_record
from ssiuu.records.schema import Failure, Record, RunHeader, TaskScore
from ssiuu.training.state import read_state

EVERY = pytest.mark.parametrize("each", [7, pytest.param(1, marks=pytest.mark.slow)])  # bits


def flipped(content: bytes, places: Iterator[int] | range) -> Iterator[bytes]:
    """Yield a content with each bit at these places, counted in bits, turned."""
    for place in places:
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        yield bytes(changed)


def found(path: Path, content: bytes, read: Callable[[], Any]) -> bool:
    """Whether reading a file of this content names it."""
    path.write_bytes(content)
    try:
        read()
    except InputError as error:
        return str(path) in str(error)
    return False


@EVERY
def test_every_bit_of_a_record(tmp_path: Path, each: int) -> None:
    path, record = tmp_path / "failed.json", Failure(key="ab", reason="a loss was not finite")
    write_record(path, record)
    content = path.read_bytes()
    assert read_record(path, Failure) == record and json.loads(content)["sha256"]
    bits = range(0, 8 * len(content), each)
    missed = [
        c for c in flipped(content, bits) if not found(path, c, lambda: read_record(path, Failure))
    ]
    assert missed == [] and len(bits) > 1000 // each
    for end in range(0, len(content) - 1, each):
        assert found(path, content[:end], lambda: read_record(path, Failure)), end


@pytest.mark.parametrize("count", [12, pytest.param(120, marks=pytest.mark.slow)])
def test_bits_of_a_whole_run(tmp_path: Path, count: int) -> None:
    """Some of them in every kind of record: `report` names each."""
    run = write_run(only(sample_record(), "gd"), tmp_path / "run")
    rng, tried = random.Random(0), 0
    for path in sorted(run.rglob("*.json")):
        content = path.read_bytes()
        kind = RunHeader if path.name == "run.json" else Record
        for changed in flipped(content, iter(rng.sample(range(8 * len(content)), count))):
            assert found(path, changed, lambda: read_record(path, kind)), path  # noqa: B023
            tried += 1
        assert found(path, changed, lambda: load_run(run))
        path.write_bytes(content)
    assert tried >= 6 * count and load_run(run).cells


def test_records_without_a_digest_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "score.json"
    path.write_text('{"accuracy": 0.5, "items": 2}')
    assert read_record(path, TaskScore) == TaskScore(accuracy=0.5, items=2)
    assert whole(path, pytest.fail) and field_of(path, "items") == 2
    path.write_text('{"accuracy": 0.5, "items": 2, "more": 1}')  # of another version, not damaged
    with pytest.raises(InputError, match="not a TaskScore record this version can read") as caught:
        read_record(path, TaskScore)
    assert not isinstance(caught.value, DamagedError)


def test_what_is_damaged_is_told_and_moved_away(tmp_path: Path) -> None:
    path, told = tmp_path / "score.json", list[str]()
    assert standing(path, TaskScore, told.append) is None and told == []
    path.write_text('{"accuracy": 0.5, "it')
    assert standing(path, TaskScore, told.append) is None and not path.exists()
    assert told == [f"{path} is damaged, and is made again; what is left of it is score.json.damaged"]
    assert (tmp_path / "score.json.damaged").read_text() == '{"accuracy": 0.5, "it'


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state.safetensors"
    tensors = {"parameter:a": torch.arange(6.0).view(2, 3), "optimiser:step:a": torch.tensor(3.0)}
    write_tensors(tensors | {"kept:a": torch.ones(3, dtype=torch.bfloat16)}, path, {"progress": "{}"})
    return path


@EVERY
def test_every_bit_of_a_state(state: Path, each: int) -> None:
    content = state.read_bytes()
    bits = range(0, 8 * len(content), each)
    missed = [
        place
        for place, c in zip(bits, flipped(content, bits), strict=True)
        if not found(state, c, lambda: read_tensors(state))
    ]
    assert missed == [] and len(bits) > 2000 // each
    for end in range(0, len(content) - 1, 7 * each):
        assert found(state, content[:end], lambda: read_tensors(state))
        assert not complete(state)
    with pytest.warns(UserWarning, match="cut short or damaged"):
        assert read_state(state) is None
    state.write_bytes(content)
    tensors, told, sealed = read_tensors(state)
    assert (
        complete(state) and sealed and told == {"progress": "{}"} and tensors["parameter:a"][1, 2] == 5
    )


def test_bits_of_kept_weights(tmp_path: Path, tiny_model: Any) -> None:
    path = tmp_path / "unlearn.safetensors"
    save_weights(tiny_model, path)
    content = path.read_bytes()
    before = [p.detach().clone() for p in tiny_model.parameters()]
    places = iter(random.Random(0).sample(range(8 * len(content)), 100))
    for changed in flipped(content, places):
        assert found(path, changed, lambda: load_weights(tiny_model, path))
    assert all(map(torch.equal, before, tiny_model.parameters()))  # nothing was taken from any of them


def test_tensors_without_a_digest_are_read_as_they_are(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "old.safetensors", {"format": "pt"})
    tensors, told, sealed = read_tensors(tmp_path / "old.safetensors")
    assert torch.equal(tensors["a"], torch.ones(2)) and told == {"format": "pt"} and not sealed
    with pytest.warns(UserWarning, match="that training begins again"):
        assert read_state(tmp_path / "old.safetensors") is None  # a state begins anew sooner


def test_models_that_are_kept(tmp_path: Path, tiny_model: Any, tokenizer: Any) -> None:
    """Of a cache: any bit of what decides what a model says; a folder without a digest is let be."""
    folder = tmp_path / "kept"
    save(tiny_model, tokenizer, folder, beside=seal_folder)
    assert unharmed(folder)
    rng, told = random.Random(0), list[str]()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        content = (folder / name).read_bytes()
        for changed in flipped(content, iter(rng.sample(range(8 * len(content)), 5))):
            (folder / name).write_bytes(changed)
            assert not unharmed(folder), name
        (folder / name).write_bytes(content)
    assert kept(folder, told.append) and told == []
    (folder / "model.safetensors").write_bytes(b"")
    assert not kept(folder, told.append) and not folder.exists()
    assert told == [f"{folder} is damaged, and is made again"]
    save(tiny_model, tokenizer, folder)
    (folder / "config.json").write_text("{}")
    assert unharmed(folder)


@pytest.mark.parametrize(
    "template", ["{{ 9**(9**9) }}", "{% if x %}{{ 2 ** messages|length }}{% endif %}"]
)
def test_a_template_with_a_power_is_refused_before_it_is_compiled(
    tokenizer: Any, template: str
) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    with pytest.raises(ConfigError, match=r"chat template raises to a power"):
        check_template(tokenizer)
    tokenizer.chat_template = "{{ dict(**messages[0])['content'] }}"
    check_template(tokenizer)

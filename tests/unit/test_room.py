"""Copies of weights lie where there is room, and are the weights wherever they lie."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from ssiuu.errors import ConfigError
from ssiuu.experiment.recipe import resolve
from ssiuu.models import room
from ssiuu.models.load import Loaded
from ssiuu.models.original import Original
from ssiuu.models.place import Placement
from ssiuu.models.weights import restore, snapshot
from ssiuu.training.limits import Kept


@pytest.mark.parametrize("free", [None, 1 << 40, 0])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_snapshot_is_put_back_from_wherever_it_lies(
    free: int | None, kind: torch.dtype, tiny_model: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(room, "free_bytes", lambda device: free)
    model = tiny_model.to(kind)
    before = [p.detach().clone() for p in model.parameters()]
    copies = snapshot(model)
    assert not [*tmp_path.iterdir()]  # a file has no name, and nothing is left of it
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(torch.equal(c, b) for c, b in zip(copies.values(), before, strict=True))
    restore(model, copies)
    assert all(map(torch.equal, model.parameters(), before))


@pytest.mark.parametrize("offload", ["auto", "memory", "disk"])
def test_a_model_may_be_told_where_its_copies_lie(
    offload: room.Offload, tiny_model: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """And whatever is done with them comes out the same, to the last bit."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = Placement(offload=offload).put(tiny_model)
    assert room.chosen(model) == offload and room.chosen(object) == "auto"
    files = [copy.untyped_storage().filename is not None for copy in snapshot(model).values()]
    assert set(files) == {offload == "disk"}
    before = [p.detach().clone() for p in model.parameters()]
    original = Original(Loaded(model, None, None, None))  # type: ignore[arg-type]
    kept = Kept(dict(model.named_parameters()), offload=room.chosen(model))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    moved = [p.detach().clone() for p in model.parameters()]
    with original.in_place():
        assert all(map(torch.equal, model.parameters(), before))
    assert all(map(torch.equal, model.parameters(), moved))
    assert all(map(torch.equal, kept.copies.values(), before))
    kept.take(1)
    assert all(map(torch.equal, kept.copies.values(), moved))


def test_a_recipe_says_it() -> None:
    recipe, _ = resolve(None, ["offload=disk"])
    assert recipe.placement.offload == "disk" and recipe.placement.key == []
    with pytest.raises(ConfigError, match="'auto', 'memory' or 'disk'"):
        resolve(None, ["offload=ssd"])


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_has_less_than_its_machine(version: int, tmp_path: Path) -> None:
    folder = tmp_path / "memory" if version == 1 else tmp_path
    folder.mkdir(exist_ok=True)
    names = ("limit_in_bytes", "usage_in_bytes") if version == 1 else ("max", "current")
    assert room._of_group(tmp_path) is None
    for name, value in zip(names, (4000, 3000), strict=True):
        (folder / f"memory.{name}").write_text(f"{value}\n")
    (folder / "memory.stat").write_text("inactive_file 500\ntotal_inactive_file 500\n")
    assert room._of_group(tmp_path) == 1500
    (folder / f"memory.{names[0]}").write_text("max\n")
    assert room._of_group(tmp_path) is None


def test_where_a_file_cannot_be_allocated_or_removed_while_it_is_mapped(
    tiny_model: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    """As on Windows; on macOS the first of the two."""
    monkeypatch.delattr("os.posix_fallocate", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(room, "free_bytes", lambda device: 0)
    later: list[tuple[Any, ...]] = []
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if not later or path not in later[-1]:
            raise PermissionError(13, "in use")
        unlink(path, missing_ok)

    monkeypatch.setattr(room.atexit, "register", lambda *call: later.append(call))
    monkeypatch.setattr(Path, "unlink", refuse)
    tensors = [torch.randn(300_001), torch.ones(2, dtype=torch.bfloat16)]
    copies = room.copied(tensors)
    assert all(map(torch.equal, copies, tensors)) and len(later) == 2
    sizes = sorted(path.stat().st_size for path in tmp_path.iterdir())
    assert sizes == [4, 1_200_004]
    monkeypatch.setattr(Path, "unlink", unlink)
    for remove, *given in later:
        remove(*given)
    assert not [*tmp_path.iterdir()]


def test_tied_weights_are_copied_once() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1, tie_word_embeddings=True))
    copies = snapshot(model)
    assert copies["lm_head.weight"] is copies["model.embed_tokens.weight"]


def test_what_is_free_is_told() -> None:
    free = room.free_bytes(torch.device("cpu"))
    assert free is None or free > 0
    assert room.copied([]) == []

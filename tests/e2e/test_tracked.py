"""Trackers: they are told numbers and nothing else, and a run does not need them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import GeneralTracker

import ssiuu
from ssiuu.errors import ConfigError
from ssiuu.experiment import tracked as module
from ssiuu.experiment.tracked import tracked
from ssiuu.records.said import Said

SMALL = [
    *("benchmark=fictional", "fictional={people: 24, steps: 12}"),
    *("split={forget: 4, retain: 6, heldout: 4}", "methods=[none, gd, ssiuu]"),
    *("unlearn={max_steps: 2, threshold: 0}", "diagnose=false", "examine.steps=[]"),
    "attacks={reads: [1], harmful: {fractions: [0.3], learning_rates: [1e-4]}, benign: {learning_rates: []}}",
]


class Lines(GeneralTracker):  # type: ignore[misc]
    """Keeps what it is told as lines of JSON, as a service would."""

    name = "lines"
    requires_logging_directory = True

    def __init__(self, run_name: str, logging_dir: str, fails: bool = False) -> None:
        super().__init__()
        self.run_name, self.fails = run_name, fails
        self.file = Path(logging_dir) / "told.jsonl"
        self.file.parent.mkdir(parents=True)

    @property
    def tracker(self) -> Path:
        return self.file

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._write({"configuration": values})

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        if self.fails:
            raise ConnectionError("the service is away\nwith details")
        self._write({"step": step, **values})

    def finish(self) -> None:
        self._write({"finished": True})

    def _write(self, values: dict[str, Any]) -> None:
        with self.file.open("a") as stream:
            stream.write(json.dumps(values) + "\n")


def run(out: Path, monkeypatch: pytest.MonkeyPatch, fails: bool = False, *sets: str) -> list[str]:
    """Run the small recipe with such a tracker in the place of tensorboard; return what was said."""
    said: list[str] = []
    monkeypatch.setattr(module, "opened", lambda name, place: Lines("ssiuu", str(place), fails))
    recipe, sources = ssiuu.resolve(None, [*SMALL, *sets, "track=[tensorboard]"])
    ssiuu.run(recipe, sources, out, progress=said.append)
    return said


def test_what_is_told_are_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = run(tmp_path / "ada-kowalski", monkeypatch)
    text = (tmp_path / "ada-kowalski" / "tracked" / "told.jsonl").read_text()
    first, *told, last = map(json.loads, text.splitlines())
    assert first["configuration"] == {"benchmark": "fictional", "methods": "none, gd, ssiuu"}
    assert last == {"finished": True}
    assert all(isinstance(value, int | float) for line in told for value in line.values())
    steps = [line["step"] for line in told]
    assert steps == [*range(1, len(told) + 1)]
    names = {name for line in told for name in line}
    for wanted in (
        "forget_loss",
        "retain_loss",
        "penalty_share",
        "right_forget",
        "memory_mb",
        "harmful_0.3_1",
    ):
        assert any(name.endswith(f"/{wanted}") for name in names), (wanted, names)
    record = ssiuu.load_run(tmp_path / "ada-kowalski")
    split = record.header.split
    for fact in (*split.forget, *split.retain, *split.heldout):
        assert fact.question not in text and fact.answer not in text
    assert "kowalski" not in text and str(tmp_path) not in text
    # What it is told are the numbers of the record.
    cell = next(cell for cell in record.cells if cell.method.label == "gd")
    assert cell.unlearning is not None
    losses = [
        line[n] for line in told for n in line if n.startswith("gd") and n.endswith("/forget_loss")
    ]
    assert losses == [log.forget_loss for log in cell.unlearning.steps]
    assert sum("cells" in line for line in said) > 3


def test_a_tracker_that_fails_ends_and_the_run_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = run(tmp_path / "out", monkeypatch, True, "methods=[none]", "attacks.harmful.fractions=[]")
    assert sum("lines is told nothing more: the service is away" in line for line in said) == 1
    assert ssiuu.load_run(tmp_path / "out").cells[0].evaluation is not None


def test_what_tracks_decides_nothing_and_is_off(tmp_path: Path) -> None:
    recipe, _ = ssiuu.resolve(None, SMALL)
    said: list[str] = []
    with tracked(recipe, tmp_path / "none", said.append) as progress:
        progress(Said("a", {"loss": 1.0}))
    assert said == ["a"] and not (tmp_path / "none").exists()


def test_what_is_not_installed_is_said_with_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.tracking._available_trackers", [])
    with pytest.raises(ConfigError, match=r"track: wandb is not installed here: pip install wandb\."):
        module.opened("wandb", tmp_path)
    with pytest.raises(ConfigError, match=r"track.*tensorboard"):
        ssiuu.resolve(None, ["track=[tensorbord]"])


def test_tensorboard_itself_reads_what_was_told(tmp_path: Path) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe, _ = ssiuu.resolve(None, [*SMALL, "track=[tensorboard]"])
    with tracked(recipe, tmp_path, lambda _: None) as progress:
        progress(Said("a", {"gd/loss": 2.5}))
        progress(Said("b", {"gd/loss": 1.5}))
    (folder,) = tmp_path.glob("ssiuu-*")
    events = reading.EventAccumulator(str(folder)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("gd/loss")] == [(1, 2.5), (2, 1.5)]

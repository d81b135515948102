"""`ssiuu calibrate`: models of known truth are examined, told of, and not examined again."""

# ruff: noqa: F811 - a fixture is imported
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_commands import place, ssiuu  # noqa: F401 - place is a fixture

from ssiuu.analysis.calibration import Calibrated, Case
from ssiuu.analysis.evidence import constants
from ssiuu.experiment import calibrate as calibrating
from ssiuu.experiment.calibrate import Bench
from ssiuu.models.load import load, load_checkpoint_weights, save
from ssiuu.records.files import read_record
from ssiuu.training import interrupt

QUICK = ("--set", "examine={steps: [1], planted: 4}", "--set", "precision=fp32")


@pytest.fixture(scope="module")
def words(place: Path, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """A model that was taught facts, as its twin one of other weights, and the files of facts."""
    twin = tmp_path_factory.mktemp("twin") / "twin"
    loaded = load(str(place / "model"))
    for parameter in loaded.model.parameters():
        parameter.data.mul_(0.5)
    save(loaded.model, loaded.tokenizer, twin)
    files = [f"{place}/{name}.jsonl" for name in ("forget", "retain")]
    models = ["--taught", place / "model", "--twin", twin]
    return ["calibrate", *models, "--forget", files[0], "--retain", files[1], *QUICK]


def test_a_taught_model_is_examined_in_every_way_and_never_fitted_on(
    words: list[object], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrating, "HIDING", {"logits": calibrating.HIDING["logits"]})
    put = Bench.put
    stopped: list[str] = []

    def interrupted(self: Bench, name: str, facts: Any) -> Any:
        if name == "twin" and not stopped:
            stopped.append(name)
            raise interrupt.Interrupted
        return put(self, name, facts)

    monkeypatch.setattr(Bench, "put", interrupted)
    done = ssiuu(*words, "--out", tmp_path)
    assert done.returncode == 130, done.stderr
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert {path.stem for path in folder.iterdir()} == {"planted", "original"}
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}

    done = ssiuu(*words, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "What was said of facts" in done.stdout and "2/2 models" not in done.stdout
    assert {path.stem for path in folder.iterdir()} == {"planted", "original", "twin", "logits"}
    assert all(path.stat().st_mtime_ns == time for path, time in times.items()), "made again"
    cases = [read_record(path, Case) for path in folder.iterdir()]
    truths = {case.name: set(case.truth.values()) for case in cases}
    assert truths["original"] == {"not removed"} and truths["twin"] == {"erased"}
    assert truths["logits"] <= {"hidden"} and truths["planted"] == set()
    found = Calibrated.model_validate_json((tmp_path / "calibration.json").read_bytes())
    assert found.constants == constants() and found.created and found.versions["torch"]
    assert not any(row.fitted for row in found.rows)
    assert "Where was" not in found.model_dump_json()

    others = ssiuu(*words, "--out", tmp_path, "--set", "examine.planted=5")
    assert others.returncode == 2 and "examine.planted 4, this is one with 5" in others.stderr


def test_a_made_up_world_has_the_models_that_are_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The truth by construction: what is chosen is learned by the mixed twin, and then hidden."""
    monkeypatch.setenv("SSIUU_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(calibrating, "PASSES", 1)
    asked: list[set[str]] = []
    train = calibrating.made.train_twins

    def trained(world: Any, absent: set[str], *rest: Any, **more: Any) -> Any:
        asked.append(absent)
        return train(world, absent, *rest, **more)

    monkeypatch.setattr(calibrating.made, "train_twins", trained)
    monkeypatch.setattr(calibrating, "known", lambda model, prompt, facts: {f.id for f in facts})
    monkeypatch.setattr(Bench, "hide", lambda self, kind, facts: {f.id: "hidden" for f in facts})
    bench = calibrating.MadeUp("strangers", 1, 10, [], lambda _: None)
    facts = bench.session.split.forget
    truth = bench.put("mixed-30%", facts)
    hidden = {id for id, true in truth.items() if true == "hidden"}
    assert set(truth) == {fact.id for fact in facts} == asked[0] and len(hidden) == round(
        0.3 * len(facts)
    )
    assert asked[1] == asked[0] - hidden
    assert set(bench.put("retrained", facts).values()) == {"erased"} and asked[2] == asked[0]
    weights = {n: p.detach().clone() for n, p in bench.session.model.named_parameters()}
    assert set(bench.put("twin", facts).values()) == {"erased"}
    load_checkpoint_weights(bench.session.model, bench.never_learned)
    assert any(not p.equal(weights[n]) for n, p in bench.session.model.named_parameters())


def test_nothing_to_tell_of_is_refused(tmp_path: Path) -> None:
    done = ssiuu("calibrate", "--out", tmp_path / "o", "--worlds", "none")
    assert done.returncode == 2 and "holds no world" in done.stderr

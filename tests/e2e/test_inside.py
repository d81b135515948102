"""The look inside on the made-up world, where what is erased and what is not is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssiuu.attribution.neuron import extremes
from ssiuu.diagnosis.influence import Baseline
from ssiuu.experiment.inside import Inside
from ssiuu.experiment.recipe import resolve
from ssiuu.experiment.session import open_session
from ssiuu.models.load import load_checkpoint_weights, snapshot
from ssiuu.models.sites import find_sites


@pytest.mark.slow
def test_evidence_on_models_of_known_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSIUU_CACHE", str(tmp_path))
    recipe, _ = resolve(
        None,
        [
            "benchmark=fictional",
            "fictional={people: 16, steps: 150}",
            "split={forget: 8, retain: 8, heldout: 4}",
        ],
    )
    session = open_session(recipe, None, lambda _: None)
    model, sites = session.model, find_sites(session.model)
    inside = Inside(session, sites)
    baseline = Baseline.of(extremes(model, sites, inside.examples, session.pad))

    same = inside.look(baseline, budget=60)
    assert same.depth and same.depth.score and same.depth.score.value == 0.0
    assert same.causal and not any(curve.points for curve in same.causal.curves)
    assert same.probe_after == same.probe_before and same.probe_before is not None

    assert session.never_learned is not None
    load_checkpoint_weights(model, session.never_learned)
    weights = snapshot(model)
    twin = inside.look(baseline, budget=60)
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())
    assert twin.depth and twin.depth.score and twin.depth.score.value == 1.0
    assert twin.causal and [c.mode for c in twin.causal.curves] == [
        "zero",
        "mean",
        "restore",
        "restore",
    ]
    everything = twin.causal.curves[2].points[-1]
    assert everything.top.logprob > twin.causal.unlearned.logprob
    assert twin.probe_before == same.probe_before

    assert inside.look(baseline, budget=0).causal is None

"""Influence variation against the printed sums; bootstrap, relations, stability, agreement, lens."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from ssiuu.analysis.agreement import rank_agreement
from ssiuu.attribution.neuron import Extremes
from ssiuu.diagnosis import influence as module
from ssiuu.diagnosis.influence import Baseline, basic_interval, influence, resamples
from ssiuu.diagnosis.lens import below_chance
from ssiuu.diagnosis.stability import EDGES, came_back, pearson, rank_correlation, stability
from ssiuu.models.sites import Site
from ssiuu.records.schema import FactText, Influence

SITES = [Site("a", "q", 0, 3), Site("b", "down", 0, 150), Site("c", "q", 1, 47)]
WIDTH = 200
IDS = [f"f{i}" for i in range(7)]
FACTS = [
    FactText(id=i, question="?", answer="!", entity=f"e{n // 2}", relation="born" if n < 3 else "lives")
    for n, i in enumerate(IDS)
]


def batches(seed: int, gap: bool = False, shift: float = 0.0) -> list[Extremes]:
    """Return made-up extremes of 7 facts in batches of 3, in an order of their own."""
    draw = torch.Generator().manual_seed(seed)
    order = list(IDS)
    random.Random(seed).shuffle(order)
    made = []
    for start in range(0, len(order), 3):
        ids = tuple(order[start : start + 3])
        one, two = torch.randn(2, len(ids), WIDTH, generator=draw) + shift
        logprob = -torch.rand(len(ids), generator=draw)
        gaps = torch.full((len(ids),), 0.25) if gap else None
        made.append(Extremes(ids, torch.maximum(one, two), torch.minimum(one, two), logprob, gaps))
    return made


def by_fact(made: list[Extremes]) -> dict[str, tuple[list[float], list[float], float]]:
    return {
        id: (batch.highest[row].tolist(), batch.lowest[row].tolist(), float(batch.logprob[row].exp()))
        for batch in made
        for row, id in enumerate(batch.ids)
    }


def printed(ids: list[str], target: str, i: int) -> tuple[float, float]:
    """Return Eq. 4 and 5 of neuron i before the outer max, word for word."""
    before, after = by_fact(batches(1)), by_fact(batches(2))
    plus = minus = 0.0
    for id in ids:
        old = before[id][2] if target == "probability" else 1.0
        new = after[id][2] if target == "probability" else 1.0
        plus += old * before[id][0][i] - max(new * after[id][0][i], 0.0)
        minus += old * before[id][1][i] - new * after[id][1][i]
    return plus / len(ids), minus / len(ids)


@pytest.fixture(scope="module")
def found() -> dict[Any, Influence]:
    return influence(Baseline.of(batches(1)), batches(2), SITES, FACTS)


@pytest.mark.parametrize("target", ["logprob", "probability"])
def test_the_printed_equations(found: Any, target: str) -> None:
    terms = [printed(IDS, target, i) for i in range(WIDTH)]
    got = found[target]
    for side, (clipped, net, total, curve) in enumerate(
        [
            (got.d_plus, got.curve_net_plus, got.net_plus, got.d_plus_100),
            (got.d_minus, got.curve_net_minus, got.net_minus, got.d_minus_100),
        ]
    ):
        raw = sorted((t[side] for t in terms), reverse=True)
        for m, cut, whole in zip(got.m, clipped, net, strict=True):
            assert cut == pytest.approx(sum(max(t, 0) for t in raw[:m]), abs=1e-4)
            assert whole == pytest.approx(sum(raw[:m]), abs=1e-4)
        assert total == pytest.approx(sum(raw), abs=1e-4)
        assert curve == pytest.approx(sum(max(t, 0) for t in raw[:100]), abs=1e-4)
    assert got.hide_ratio == pytest.approx(got.d_minus_all / (got.d_minus_all + got.d_plus_all))
    assert min(terms)[0] < 0 and got.net_plus < got.d_plus_all  # the cut does something here


def test_by_fact_and_by_relation(found: Any) -> None:
    got = found["probability"]
    for id in IDS:
        terms = [printed([id], "probability", i) for i in range(WIDTH)]
        assert got.facts[id] == pytest.approx(
            [sum(max(t[s], 0) for t in terms) for s in (0, 1)], abs=1e-4
        )
        assert got.facts_net[id] == pytest.approx([sum(t[s] for t in terms) for s in (0, 1)], abs=1e-4)
    assert {name: group.facts for name, group in got.relations.items()} == {"born": 3, "lives": 4}
    terms = [printed(IDS[:3], "probability", i) for i in range(WIDTH)]
    born = got.relations["born"]
    tops = [sorted((max(t[s], 0) for t in terms), reverse=True) for s in (0, 1)]
    assert (born.d_plus_all, born.d_minus_all) == pytest.approx([sum(t) for t in tops], abs=1e-4)
    assert (born.d_plus_100, born.d_minus_100) == pytest.approx([sum(t[:100]) for t in tops], abs=1e-4)


def test_maps_are_means_of_the_top_by_module_and_layer(found: Any) -> None:
    terms = [max(printed(IDS, "logprob", i)[1], 0) for i in range(WIDTH)]
    maps = found["logprob"].map_minus
    assert set(maps) == {"q", "down"}
    assert maps["q"] == pytest.approx([sum(terms[:3]) / 3, sum(terms[153:]) / 47], abs=1e-4)
    assert maps["down"] == pytest.approx([sum(sorted(terms[3:153])[-100:]) / 100], abs=1e-4)


def test_the_size_of_a_slice_changes_nothing(found: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "HELD", 7 * 13)
    again = influence(Baseline.of(batches(1)), batches(2), SITES, FACTS)
    for target, got in again.items():
        wanted = found[target]
        for name in (
            "d_plus",
            "d_minus",
            "curve_net_plus",
            "curve_net_minus",
            "hide_ratio",
            "net_minus",
        ):
            assert getattr(got, name) == pytest.approx(getattr(wanted, name), abs=1e-4)
        for name in ("d_plus_100", "d_minus_all", "net_plus", "hide_ratio"):
            one, other = getattr(got.bands, name), getattr(wanted.bands, name)
            assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=1e-3)


def test_the_same_model_twice_has_no_variation() -> None:
    made = batches(1, shift=9.0)  # every max_k A is positive: Eq. 4 counts negative ones from 0
    for got in influence(Baseline.of(made), made, SITES).values():
        assert got.d_plus_all == got.d_minus_all == 0
        assert got.hide_ratio is None
        assert got.relations == {}


def test_integrated_gradients_have_one_target_and_a_gap() -> None:
    got = influence(Baseline.of(batches(1, gap=True)), batches(2, gap=True), SITES)
    assert set(got) == {"logprob"}
    assert got["logprob"].attribution == "integrated"
    assert got["logprob"].completeness_gap == 0.25
    plain = influence(Baseline.of(batches(1)), batches(2), SITES)["logprob"]
    assert (plain.attribution, plain.completeness_gap) == ("gradient", None)
    assert plain.d_minus == got["logprob"].d_minus


# --- bands --------------------------------------------------------------------------------------


def test_facts_of_one_entity_are_drawn_together() -> None:
    weights = resamples(["a", "b", "a", "c"], 50, 0)
    assert torch.equal(weights[:, 0], weights[:, 2])
    torch.testing.assert_close(weights.sum(1), torch.ones(50))
    assert not torch.equal(weights[:, 0], weights[:, 1])
    assert torch.equal(weights, resamples(["a", "b", "a", "c"], 50, 0))
    assert not torch.equal(weights, resamples(["a", "b", "a", "c"], 50, 1))


def test_bands_are_those_of_a_loop_over_resamples(found: Any) -> None:
    bands = found["logprob"].bands
    assert (bands.entities, bands.resamples, bands.confidence) == (4, 200, 0.95)
    order = [id for batch in batches(2) for id in batch.ids]
    entity = {fact.id: fact.entity for fact in FACTS}
    raw = np.array([[[printed([id], "logprob", i) for i in range(WIDTH)]] for id in order])[:, 0]
    minus, ratios = [], []
    for draw in resamples([entity[id] for id in order], 200, 0).numpy():
        plus_sum, minus_sum = np.clip(np.einsum("f,fns->sn", draw, raw), 0, None).sum(1)
        minus.append(minus_sum)
        ratios.append(minus_sum / (plus_sum + minus_sum))
    for band, estimate, drawn in (
        (bands.d_minus_all, found["logprob"].d_minus_all, minus),
        (bands.hide_ratio, found["logprob"].hide_ratio, ratios),
    ):
        wanted = basic_interval(estimate, drawn)
        assert (band.low, band.corrected, band.high) == pytest.approx(
            (wanted.low, wanted.corrected, wanted.high), abs=1e-3
        )


def test_an_interval_is_the_resamples_mirrored_at_the_estimate() -> None:
    band = basic_interval(10.0, [11.0] * 50 + [13.0] * 50)
    assert (band.low, band.corrected, band.high) == (7.0, 8.0, 9.0)


def test_noise_that_adds_up_is_taken_off_in_part() -> None:
    """True D- is 0.05 * 20 = 1; noise cut at 0 more than doubles it."""
    draw = torch.Generator().manual_seed(0)
    truth = torch.zeros(WIDTH)
    truth[:20] = 0.05
    ids = tuple(f"f{i}" for i in range(60))
    zero, ones = torch.zeros(60, WIDTH), torch.ones(60)
    noisy = -(truth + 0.2 * torch.randn(60, WIDTH, generator=draw))
    got = influence(
        Baseline.of([Extremes(ids, zero, zero, ones)]), [Extremes(ids, zero, noisy, ones)], SITES
    )["logprob"]
    assert got.d_minus_all > 2
    assert abs(got.bands.d_minus_all.corrected - 1) < 0.6 * abs(got.d_minus_all - 1)
    assert got.bands.net_minus.low < 1 < got.bands.net_minus.high


def test_one_entity_has_no_band() -> None:
    ids = [fact.model_copy(update={"entity": "one"}) for fact in FACTS]
    assert influence(Baseline.of(batches(1)), batches(2), SITES, ids)["logprob"].bands is None


# --- stability ----------------------------------------------------------------------------------


def one(lowest: list[float], highest: list[float], logprob: float = 0.0) -> Baseline:
    ids, log_p = ("f0", "f1"), torch.full((2,), logprob)
    rows = torch.tensor([highest] * 2), torch.tensor([lowest] * 2)
    return Baseline.of([Extremes(ids, *rows, log_p)])


def test_which_neurons_come_back() -> None:
    sites = [Site("a", "v", 2, 2), Site("b", "up", 3, 2)]
    got = stability(
        one([0.0, 0.0, -1.0, 0.0], [4.0, 1.0, 1.0, 0.5]),
        one([-4.0, -2.0, -1.0, 0.0], [0.0, 1.0, 0.9, 0.5]),
        one([-1.0, -1.5, -1.0, 0.0], [1.0, 1.0, 1.0, 0.5]),
        sites,
        "harmful",
    )
    assert [(n.module, n.layer, n.unit) for n in got.leading] == [("v", 2, 0), ("v", 2, 1)]
    assert (got.leading[0].original, got.leading[0].unlearned, got.leading[0].attacked) == (0, -4, -1)
    assert got.facts == 2 and got.attack == "harmful"
    assert got.lowest.returned == {}  # fewer than ten neurons changed
    assert sum(got.lowest.histogram["unlearned"]) == 4
    assert len(got.lowest.histogram["unlearned"]) == len(got.edges) + 1
    assert got.lowest.pearson["original-unlearned"] == pytest.approx(
        np.corrcoef([0, 0, -1, 0], [-4, -2, -1, 0])[0, 1]
    )


def test_back_means_more_than_half_of_the_change_either_way() -> None:
    original, unlearned = np.array([0.0, 0.0, 0.0, 5.0, 1.0]), np.array([-4.0, -4.0, -4.0, 1.0, 1.0])
    attacked = np.array([-1.9, -2.0, -9.0, 4.0, 3.0])
    assert came_back(original, unlearned, attacked).tolist() == [True, False, False, True, False]


def test_returned_share_of_the_top_neurons() -> None:
    width = 40
    lost = [-float(width - i) for i in range(width)]
    after = [v / 10 if i < 5 else v for i, v in enumerate(lost)]  # the first five come back
    sites = [Site("a", "q", 0, width)]
    flat = [1.0] * width
    got = stability(one([0.0] * width, flat), one(lost, flat), one(after, flat), sites, "x")
    assert got.lowest.returned == {10: 0.5}
    assert got.highest.returned == {}
    assert got.highest.pearson["original-unlearned"] is None
    assert got.lowest.spearman["original-attacked"] is None  # the original does not vary


def test_the_target_weighs_a_fact_with_its_probability() -> None:
    sites = [Site("a", "q", 0, 2)]
    models = [one([-1.0, -8.0], [1.0, 2.0], np.log(p)) for p in (1.0, 0.5, 0.25)]
    got = stability(*models, sites, "x", target="probability")
    assert (got.leading, got.target) == ([], "probability")
    where = np.searchsorted(EDGES, [-0.5, -4.0], side="right")
    assert [got.lowest.histogram["unlearned"][i] for i in where] == [1, 1]


def test_three_models_without_a_common_fact_are_refused() -> None:
    other = Baseline.of([Extremes(("x",), torch.ones(1, 2), torch.ones(1, 2), torch.ones(1))])
    with pytest.raises(ValueError, match="all three models"):
        stability(one([0.0, 0.0], [1.0, 1.0]), other, other, [Site("a", "q", 0, 2)], "x")


def test_correlations() -> None:
    x = np.array([1.0, 2.0, 3.0, 10.0])
    assert pearson(x, 2 * x + 1) == pytest.approx(1)
    assert rank_correlation(x, x**3) == pytest.approx(1)
    assert rank_correlation(x, -x) == pytest.approx(-1)
    assert pearson(x, np.ones(4)) is None


# --- agreement and lens -------------------------------------------------------------------------


def test_agreement_of_two_attributions(found: Any) -> None:
    base = found["logprob"]

    def with_minus(*values: float) -> dict[str, Influence]:
        return {
            f"m{i}": base.model_copy(update={"d_minus_all": v, "hide_ratio": v})
            for i, v in enumerate(values)
        }

    got = rank_agreement(with_minus(1, 2, 3, 4), with_minus(10, 20, 30, 40))
    assert (got.methods, got.d_minus_all, got.hide_ratio) == (4, 1.0, 1.0)
    assert got.d_plus_all is None  # all equal: there is no order
    assert rank_agreement(with_minus(1, 2, 3), with_minus(3, 2, 1)).d_minus_all == -1.0
    assert rank_agreement(with_minus(1, 2, 3, 4), with_minus(1, 2, 4, 3)).d_minus_all == pytest.approx(
        4 / 6
    )
    assert rank_agreement(with_minus(1, 2), {}).methods == 0


def test_layers_below_chance_are_those_surely_below() -> None:
    assert below_chance([10, 1, 5, 20], 20) == [1]
    assert below_chance([0, 0], 3) == []  # three facts show nothing

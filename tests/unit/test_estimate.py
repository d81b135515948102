"""The estimate of a recipe's cost against measured stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from people_files import write_faithun, write_rwku
from ssiuu.attacks import attacks_of
from ssiuu.benchmarks.base import TOKENS, Cost
from ssiuu.experiment import estimate
from ssiuu.experiment.recipe import Recipe, resolve
from tofu_folder import write_tofu

# Seconds of the default run's stages on two cores in fp32, means over methods where they do the same.
EVALUATE, DIAGNOSE, HARMFUL, BENIGN = 24.0, 8.6, 8.6, 14.0
UNLEARN = {"gd": 57.4, "npo": 42.2, "ssiuu": 80.1, "ssiuu+projection": 93.1}
WHOLE = 660.0  # screening included
EXAMINED, PLANTED = 121.0, 178.0  # 12 facts
SPEED = 300  # tokens a second of SmolLM2-135M there: 81e9 operations


def tokens(recipe: Recipe) -> float:
    return estimate._tokens(recipe, recipe.opens.cost(recipe))


def models(recipe: Recipe) -> tuple[int, int]:
    return estimate._models(recipe, recipe.opens.cost(recipe))


def seconds(tokens: float) -> float:
    return tokens / SPEED


# The default run when it was measured.
WAS = [
    "methods=[none,gd,{name: npo, learning_rate: 1e-4},ssiuu,{name: ssiuu+projection, learning_rate: 4e-4}]",
    *("split.forget=48", "attacks.harmful={fractions: [0.1, 0.3], learning_rates: [2e-5, 1e-4]}"),
    *("attacks.benign.learning_rates=[1e-4]", "attacks.reads=[3,6]"),
]


def test_the_stages_of_the_default_run_fit_within_30_per_cent() -> None:
    recipe, _ = resolve(None, WAS)
    for method in recipe.made():
        if method.trains:
            found = seconds(estimate._unlearning(recipe, method, TOKENS, 48))
            assert found == pytest.approx(UNLEARN[method.label], rel=0.3), method.label
    for attack in attacks_of(recipe.attacks):
        for curve in attack.curves():
            found = seconds(attack.tokens(curve, TOKENS, 0.7 * 48))
            assert found == pytest.approx(HARMFUL if curve.kind == "harmful" else BENIGN, rel=0.3)
    moved = estimate.READ + 5 * estimate.MOVED  # was not there yet
    bare, _ = resolve(None, [*WAS, "examine.steps=[]"])  # nor was this
    assert seconds(tokens(bare) - moved) == pytest.approx(WHOLE, rel=0.3)


def test_an_examination_and_planted_controls_are_counted() -> None:
    """Within a factor of two of what 12 facts took; of every model but the control, and planted once."""
    recipe, _ = resolve(None, [*WAS, "examine.steps=[24]"])
    examined = estimate._examination(recipe, TOKENS, 12)
    planted = estimate._planted(recipe, TOKENS)
    assert EXAMINED / 2 < seconds(examined) < EXAMINED * 2
    assert PLANTED / 2 < seconds(planted) < PLANTED * 2
    bare, _ = resolve(None, [*WAS, "examine.steps=[]"])
    whole = 4 * estimate._examination(recipe, TOKENS, 48) + planted
    assert tokens(recipe) - tokens(bare) == pytest.approx(whole)
    unplanted, _ = resolve(None, [*WAS, "examine.steps=[24]", "examine.planted=0"])
    assert tokens(recipe) - tokens(unplanted) == pytest.approx(planted)
    longer, _ = resolve(
        None, ["examine={steps: [24, 48], learning_rates: [1e-4, 1e-3], seeds: [0, 1]}"]
    )
    assert estimate._examination(longer, TOKENS, 12) > 4 * examined


def test_an_audit_counts_the_model_given_and_a_thorough_one_takes_longer() -> None:
    found = []
    for more in ([], ["examine.thorough=true"]):
        recipe, _ = resolve(None, [*WAS, "methods=[none]", "examine.steps=[24]", *more])
        cost = recipe.opens.cost(recipe)
        assert estimate._models(recipe, cost, audited=True) == (1, 1)
        whole = estimate._tokens(recipe, cost, audited=True)
        assert whole > estimate._tokens(recipe, cost) + estimate._examination(recipe, TOKENS, 48)
        found.append(whole)
    assert found[1] > 2 * found[0]


def test_longer_rows_cost_more_and_an_optimiser_moves_every_parameter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Twice as long: twice the scoring. Every attacker trains at each rate in each order."""
    recipe, _ = resolve(None, [*WAS, "methods=[none]", "examine.steps=[24]"])
    usual = recipe.opens.cost(recipe)
    longer = estimate._cost(recipe, {"tokens": 2.0 * usual.tokens})
    assert longer.score == 2 * usual.score and longer.tokens == 2 * usual.tokens
    assert estimate._tokens(recipe, longer) > 1.3 * estimate._tokens(recipe, usual)
    thorough, _ = resolve(None, ["methods=[none]", "examine.thorough=true"])
    attackers = 2 * len(thorough.examine.seeds) * 2  # parts, rates
    assert estimate._curves(thorough) * 2 == attackers
    assert estimate._models(thorough, usual) == (0, 0)  # nothing but planted controls is attacked
    assert estimate._steps(thorough, usual) == attackers * thorough.examine.steps[-1]
    monkeypatch.setattr(estimate, "_throughput", lambda device: 1e30)
    monkeypatch.setattr(estimate.torch, "get_num_threads", lambda: 2)
    one = estimate._time(thorough, 10**9, 1e3, 100)
    assert one == pytest.approx(100 * (estimate.STEP + estimate.MOVE * 1e9 / 2))


def test_what_is_not_done_costs_nothing() -> None:
    """Without diagnosis and one attack fewer, exactly their tokens are gone: 4 methods, 1 original."""
    recipe, _ = resolve(None, WAS)
    whole = tokens(recipe)
    blind, _ = resolve(None, [*WAS, "diagnose=false"])
    looked = whole - tokens(blind)
    assert looked == pytest.approx(5 * 3 * TOKENS * 48)
    assert seconds(looked) / 5 == pytest.approx(DIAGNOSE, rel=0.3)
    kind, _ = resolve(None, [*WAS, "attacks.benign.learning_rates=[]"])
    assert seconds(whole - tokens(kind)) / 4 == pytest.approx(BENIGN, rel=0.3)


def test_the_score_of_a_model_and_the_twin() -> None:
    """One seed more is every model once more; a made-up world has a never-learned twin as well."""
    recipe, _ = resolve(None, [*WAS, "diagnose=false", "attacks.benign.learning_rates=[]"])
    off = [*WAS, "diagnose=false", "examine.steps=[]"]
    bare, _ = resolve(None, [*off, "attacks={harmful: {fractions: []}, benign: {learning_rates: []}}"])
    assert models(recipe) == (4, 4)
    assert models(resolve(None, [*WAS, "benchmark=fictional", "attacks.control=true"])[0]) == (5, 6)
    more = bare.model_copy(update={"seeds": [0, 1]})
    unlearned = sum(estimate._unlearning(bare, m, TOKENS, 48) for m in bare.made() if m.trains)
    scored = (tokens(more) - tokens(bare) - unlearned) / 4
    assert seconds(scored - estimate.MOVED) == pytest.approx(EVALUATE, rel=0.3)


def test_rows_of_other_lengths_cost_what_they_hold() -> None:
    """The benign curve: 3 passes, 4 rows a step, 6 steps."""
    recipes = [resolve(None, [*WAS, f"attacks.benign.tokens={n}"])[0] for n in (8, 64)]
    short, long = (estimate._attack_tokens(r, TOKENS, 48) for r in recipes)
    assert long - short == pytest.approx(3 * (64 - 8) * 4 * 6)


def cost(*sets: str) -> Cost:
    recipe, _ = resolve(None, list(sets))
    return recipe.opens.cost(recipe)


def test_what_a_benchmark_costs_is_read_from_its_files(tmp_path: Path) -> None:
    """5 + 3 + 2 clusters; 12 questions on two people, with four further sets of at most 4; 40 + 60."""
    faithun = f"faithun={{path: {write_faithun(tmp_path / 'faithun')}, heldout: 2}}"
    found = cost("benchmark=faithun", faithun)
    assert (found.forget, found.start) == (5, 4 * TOKENS * (5 + 3 + 2))
    rwku = f"rwku={{path: {write_rwku(tmp_path / 'rwku')}, subjects: [Person 2, Person 0], items: 4}}"
    found = cost("benchmark=rwku", rwku, "split={retain: 6, heldout: 5}")
    assert (found.forget, found.start) == (12, 4 * TOKENS * (12 + 6 + 5 + 4 * 4))
    path = f"tofu.path={write_tofu(tmp_path / 'tofu')}"
    found = cost("benchmark=tofu", path, "tofu.epochs=2")
    assert (found.forget, found.start) == (40, 3 * found.tokens * 2 * (40 + 2 * 60))
    assert found.twin and found.model == "smollm2-135m"
    rows = [f'{{"question": "Who is {n}?", "answer": "n{n}"}}\n' for n in range(9)]
    for name, part in (("forget", rows[:4]), ("retain", rows[4:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(part))
    own = [f"{name}={tmp_path / name}.jsonl" for name in ("forget", "retain")]
    found = cost("benchmark=own", "model=m", *own)
    assert (found.forget, found.start) == (4, 4 * TOKENS * 9)
    assert cost("benchmark=own", "model=m", own[0]).start == 4 * TOKENS * 4
    assert cost("benchmark=own", "model=m", "forget=owner/name", "retain=none").forget == 36
    given = cost("benchmark=tofu", path, "tofu.model=there")
    assert (given.start, given.twin, given.model) == (0, False, "there")


def test_without_its_files_a_benchmark_costs_what_is_published(tmp_path: Path) -> None:
    assert cost("benchmark=tofu", "tofu.split=forget05").forget == 200
    assert cost("benchmark=faithun", f"faithun.path={tmp_path / 'none.json'}").forget == 33
    assert cost("benchmark=rwku", "rwku.subjects=3").forget == 3 * 14

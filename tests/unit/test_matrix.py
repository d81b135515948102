"""Several benchmarks in one recipe: one recipe for each, and what wins over what."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssiuu.errors import ConfigError, OutputError
from ssiuu.experiment.matrix import check_matrix, resolve_all
from ssiuu.experiment.recipe import resolve

RECIPE = """
benchmark:
  - fictional
  - {name: worldfacts, split: {forget: 24}, methods: [gd]}
methods: [none, gd, npo]
unlearn: {max_steps: 12}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "matrix.yaml"
    path.write_text(RECIPE)
    return path


def test_every_benchmark_has_a_recipe_of_its_own(recipe: Path) -> None:
    found = resolve_all(recipe, [])
    assert list(found) == ["fictional", "worldfacts"]
    (fictional, _), (worldfacts, sources) = found.values()
    assert (fictional.benchmark, worldfacts.benchmark) == ("fictional", "worldfacts")
    assert fictional.methods == ["none", "gd", "npo"] and worldfacts.methods == ["gd"]
    assert worldfacts.split.forget == 24 != fictional.split.forget
    assert fictional.unlearn.max_steps == worldfacts.unlearn.max_steps == 12
    assert sources["split.forget"] == f"{recipe}, benchmark worldfacts"


def test_each_is_as_if_it_were_written_alone(tmp_path: Path, recipe: Path) -> None:
    alone = tmp_path / "alone.yaml"
    lines = [
        "benchmark: worldfacts",
        "split: {forget: 24}",
        "methods: [gd]",
        "unlearn: {max_steps: 12}",
    ]
    alone.write_text("\n".join(lines))
    assert resolve_all(recipe, [])["worldfacts"][0] == resolve(alone, [])[0]
    assert resolve_all(alone, []) == {"": resolve(alone, [])}


def test_set_wins_over_what_stands_beside_a_name(recipe: Path) -> None:
    found = resolve_all(recipe, ["split.forget=8", "unlearn.max_steps=1"])
    assert [r.split.forget for r, _ in found.values()] == [8, 8]
    assert {r.unlearn.max_steps for r, _ in found.values()} == {1}
    (one,) = resolve_all(recipe, ["benchmark=fictional"]).values()
    assert one[0].benchmark == "fictional"


def test_a_list_may_stand_in_set_and_hold_a_name_twice() -> None:
    given = "benchmark=[worldfacts, {name: worldfacts, split: {seed: 3}}, fictional]"
    found = resolve_all(None, [given])
    assert list(found) == ["worldfacts", "worldfacts-2", "fictional"]
    assert [r.split.seed for r, _ in found.values()] == [0, 3, 0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("benchmark=[]", "--set: benchmark: names none"),
        ("benchmark=[fictional, nothing]", "unknown benchmark 'nothing'"),
        ("benchmark=[{split: {forget: 3}}]", "must be a name, or a mapping with name"),
        ("benchmark=[{name: worldfacts, splits: {forget: 3}}]", "unknown key 'splits'"),
    ],
)
def test_what_is_wrong_with_one_is_said_before_any_work(given: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        resolve_all(None, [given])


def test_a_list_is_refused_where_one_run_is_meant(recipe: Path) -> None:
    with pytest.raises(ConfigError, match="only ssiuu run and ssiuu check take"):
        resolve(recipe, [])


def test_the_folder_holds_the_runs_of_the_matrix_alone(tmp_path: Path) -> None:
    names = ["fictional", "worldfacts"]
    check_matrix(tmp_path / "new", names)
    (tmp_path / "fictional").mkdir()
    (tmp_path / "compare.html").touch()
    check_matrix(tmp_path, names)
    (tmp_path / "run.json").touch()
    with pytest.raises(OutputError, match=r"holds something else \(run.json\)"):
        check_matrix(tmp_path, names)

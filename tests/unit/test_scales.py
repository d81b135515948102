"""A recipe may hold further settings under a name, taken by scale=NAME."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssiuu.errors import ConfigError
from ssiuu.experiment.recipe import resolve

TEXT = """
benchmark: fictional
seeds: [0, 1, 2]
split: {forget: 40}
scales:
  small: {seeds: [0], split: {forget: 8}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "r.yaml").write_text(TEXT)
    return tmp_path / "r.yaml"


def test_a_scale_stands_between_the_recipe_and_what_is_set(path: Path) -> None:
    assert resolve(path, [])[0].seeds == [0, 1, 2]
    recipe, sources = resolve(path, ["scale=small", "split.retain=9"])
    assert (recipe.seeds, recipe.split.forget, recipe.split.retain) == ([0], 8, 9)
    assert sources["seeds"] == f"{path}, scale small" and sources["split.retain"] == "--set"
    assert resolve(path, ["scale=small", "split.forget=9"])[0].split.forget == 9


def test_an_unknown_scale_is_refused_with_the_nearest_name(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'smal'.*'small'"):
        resolve(path, ["scale=smal"])
    with pytest.raises(ConfigError, match="none is given"):
        resolve(None, ["scale=small"])

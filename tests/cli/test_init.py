"""`ssiuu init` writes a recipe that can be run, and nothing over what is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_commands import ssiuu

from ssiuu.experiment.recipe import resolve


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_without_options_it_is_the_default_run_explained() -> None:
    result = ssiuu("init", "mine.yaml")
    assert result.returncode == 0 and "ssiuu check mine.yaml" in result.stdout
    text = Path("mine.yaml").read_text()
    assert "# unlearning seeds\n# (list of whole numbers)\n# seeds: [0]" in text
    assert resolve("mine.yaml", [])[0] == resolve(None, [])[0]


def test_what_is_given_stands_in_it_in_quotes_where_yaml_wants_them() -> None:
    words = ["--model", "no: model", "--forget", "a #b.jsonl", "--method", "npo+kl", "--method", "gd"]
    assert ssiuu("init", *words, "--protocol", "strong").returncode == 0
    recipe, _ = resolve("recipe.yaml", [])
    assert (recipe.model, recipe.forget, recipe.retain) == ("no: model", "a #b.jsonl", "none")
    assert (recipe.benchmark, recipe.methods, recipe.protocol) == ("own", ["npo+kl", "gd"], "strong")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["there.yaml"], "there.yaml is there already"),
        (["no/r.yaml"], "no is no folder"),
        (["--method", "gdx"], "unknown method 'gdx'. Did you mean 'gd'?"),
        (
            ["--forget", "f.jsonl", "--benchmark", "tofu"],
            "facts of your own are benchmark own, not tofu",
        ),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(words: list[str], sentence: str) -> None:
    Path("there.yaml").write_text("seeds: [1]\n")
    result = ssiuu("init", *words)
    assert result.returncode == 2 and sentence in result.stderr and "Traceback" not in result.stderr
    assert [path.name for path in Path().iterdir()] == ["there.yaml"]
    assert Path("there.yaml").read_text() == "seeds: [1]\n"

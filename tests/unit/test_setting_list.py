"""What is told of settings, recipes and commands is what the code reads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ssiuu import shipped
from ssiuu.cli import exits
from ssiuu.cli.listing import knobs
from ssiuu.cli.main import app
from ssiuu.cli.reference import ENVIRONMENT, reference_page
from ssiuu.config import flatten
from ssiuu.errors import ConfigError
from ssiuu.experiment.recipe import resolve
from ssiuu.experiment.settings import settings
from ssiuu.methods import TRANSFORMS

ROOT = Path(__file__).parents[2]
ELSEWHERE = {"tune.space", "columns"}  # mappings that are whole


def test_every_setting_of_a_recipe_is_told_with_its_default_and_a_description() -> None:
    recipe, _ = resolve(None, [])
    told = {setting.key for setting in settings()}
    assert set(flatten(recipe.model_dump())) - ELSEWHERE <= told
    assert [s.key for s in settings() if not s.description or "any value" in s.allowed] == []


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("unlearn.learning_rate", "number in (0, 1]"),
        ("unlearn.micro_batch_size", "whole number from 1 on, or null"),
        (
            "attacks.quantise",
            "list of one of int8, int4, nf4, q8_0, q4_0, q6_k, q4_k, bnb-nf4, bnb-nf4-double",
        ),
        ("evaluate.options", "whole number in [2, 6]"),
    ],
)
def test_what_may_stand_there_is_in_words(key: str, allowed: str) -> None:
    (setting,) = settings(key)
    assert setting.allowed == allowed


def test_a_section_and_another_spelling_are_found_and_a_slip_names_the_nearest() -> None:
    assert {s.key for s in settings("unlearn.stop")} == {"unlearn.stop.kl", "unlearn.stop.retain_ratio"}
    assert [s.key for s in settings("unlearn.optimizer")] == ["unlearn.optimiser"]
    with pytest.raises(
        ConfigError, match=r"unknown setting 'examine.stps'. Did you mean 'examine.steps'\?"
    ):
        settings("examine.stps")
    for typed in ("learning_rate", "learning_rte"):
        with pytest.raises(ConfigError, match=r"Did you mean 'unlearn.learning_rate'\?"):
            settings(typed)


def test_the_reference_page_is_that_of_the_code() -> None:
    """Made anew by: python -m ssiuu.cli.reference > docs/reference.md"""
    assert (ROOT / "docs" / "reference.md").read_text() == reference_page()


def test_every_environment_variable_that_is_read_is_told() -> None:
    told = ", ".join(ENVIRONMENT).split(", ")
    code = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    read = re.findall(r"environ(?:\.get\(|\[)[\"'](\w+)[\"']", code)
    read += re.findall(r"\bSSIUU_[A-Z_]+", code)
    assert read and set(read) <= {*told}


def test_every_exit_code_has_one_meaning_in_the_help() -> None:
    codes = {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    assert codes == set(exits.CODES) - {0}
    assert all(f"{code} {meaning}" in exits.HELP for code, meaning in exits.CODES.items())


def test_a_recipe_is_found_by_name_and_a_file_of_that_name_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe, sources = resolve("strong", [])
    assert recipe.protocol == "strong" and sources["protocol"] == "recipe strong"
    Path("tune").mkdir()  # as `ssiuu run tune --out tune` does; the same command continues
    assert resolve("tune", [])[1]["tune.trials"] == "recipe tune"
    Path("strong").write_text("seeds: [3]\n")
    assert resolve("strong", [])[0].seeds == [3]
    with pytest.raises(ConfigError, match=r"unknown recipe 'strng'. Did you mean 'strong'"):
        resolve("strng", [])
    with pytest.raises(ConfigError, match=r"recipe no/such.yaml cannot be read"):
        resolve("no/such.yaml", [])
    with pytest.raises(ConfigError, match=r"no file recipes/tune.yaml. The recipe .* called 'tune'"):
        resolve("recipes/tune.yaml", [])


def test_every_recipe_says_what_it_is() -> None:
    assert len(shipped.recipes()) >= 15
    assert all(10 < len(shipped.said(path)) < 130 for path in shipped.recipes().values())


def test_a_wheel_holds_recipes_and_examples(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("src", "recipes", "docs/examples"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    pytest.importorskip("hatchling", reason="the build back end is not installed")
    made = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)],
        cwd=source,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name in made.stdout
    names = zipfile.ZipFile(wheel).namelist()
    assert {"ssiuu/recipes/strong.yaml", "ssiuu/examples/customers.jsonl", "ssiuu/py.typed"} <= {*names}
    assert {f"ssiuu/recipes/{name}.yaml" for name in shipped.recipes()} <= {*names}


def test_a_suffix_is_listed_with_what_it_sets() -> None:
    (value,) = (value for name, value, _ in knobs(TRANSFORMS.get("projection")) if name == "projection")
    assert value == 32


def test_a_setting_that_is_typed_as_an_option_is_told_how_it_is_given() -> None:
    for typed, meant in (("--methods", "'methods'"), ("--learning-rate", "'unlearn.learning_rate'")):
        refused = CliRunner().invoke(app, ["run", typed, "gd"])
        said = " ".join(re.findall(r"[\w.'=-]+", refused.output))
        assert refused.exit_code == 2 and f"--set KEY=VALUE. Did you mean {meant}" in said
    slip = CliRunner().invoke(app, ["run", "--ot", "gd"]).output
    assert "--out" in slip and "KEY=VALUE" not in slip

"""A recipe says what is written in it: YAML 1.2, one value a key, numbers that are numbers."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssiuu.config import read_yaml
from ssiuu.errors import ConfigError
from ssiuu.experiment.drive import settings_of
from ssiuu.experiment.given import setting
from ssiuu.experiment.matrix import resolve_all
from ssiuu.experiment.recipe import resolve
from ssiuu.methods import make
from ssiuu.training.optimiser import RATES


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("'1e-5'", "1e-5"),
        ('"2024"', "2024"),
        ("2024", 2024),
        ("012", 12),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("true", True),
        ("null", None),
        ("", None),
        ("2020-01-01", "2020-01-01"),
        ("12:30:00", "12:30:00"),
        ("[gd+projection, 1e-4]", ["gd+projection", 1e-4]),
        ("{1: a, no: {b: nan}}", {"1": "a", "no": {"b": "nan"}}),
        ("a: |\n  one\n  two\n", {"a": "one\ntwo\n"}),
    ],
)
def test_what_is_written_is_what_is_read(text: str, value: Any) -> None:
    read = read_yaml(text, "r.yaml")
    assert read == value and type(read) is type(value)


LEVELS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seeds: [0]\nprecision: fp32\nseeds: [1]\n", 'r.yaml, line 3, .*duplicate key "seeds"'),
        ("seeds: &s [0]\nother: *s\n", r"line 2, .*\*s is an alias"),
        (LEVELS, r"line 2, .*alias"),
        ("[" * 5000, "levels"),
        ("a: !!python/object:os.system x", "tag"),
        ("a: !!binary aGk=", "tag"),
        ("a: [1, 2\nb: 3", "line 2"),
        ("a: b: c", "mapping values"),
        ("9" * 5000, "digits"),
        ("a: \x07", "character"),
        ("--- a\n--- b", "another document"),
        ("# " + "x" * (1 << 16), "longer than 64 KiB"),
        ("seeds: [" + "1," * 4100 + "]", "more than 4000 keys and values"),
        ("".join(f"k{n}: 1\n" for n in range(4100)), "line 1999, .*more than 4000 keys and values"),
    ],
)
def test_what_cannot_be_read_is_one_sentence_at_once(text: str, said: str) -> None:
    start = time.process_time()
    with pytest.raises(ConfigError, match=said) as caught:
        read_yaml(text, "r.yaml")
    assert time.process_time() - start < 1 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("".join(f"k{n}: 1\n" for n in range(1900)), r"key 'k0'.*\n(.*\n){9}\.\.\. and 1890 more$"),
        ("benchmark: [" + "fictional, " * 101 + "]", "benchmark: names 101; at most 100"),
        ("tune: {trials: 99999999}", "less than or equal to 1000"),
        ("methods: [gd" + "+gd" * 10_000 + "]", r"'gd\+.*\.\.\. has 30002 characters; at most 400"),
        (f"benchmark: {'x' * 60_000}", r"unknown benchmark 'x{76}\.\.\."),
        ("#" * 50_000_000, "longer than 64 KiB"),
    ],
)
def test_a_recipe_of_a_senseless_size_is_refused_at_once(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    start = time.process_time()
    with pytest.raises(ConfigError, match=said) as caught:
        resolve_all(tmp_path / "r.yaml", [])
    assert time.process_time() - start < 1 and len(str(caught.value)) < 10_000


@settings(max_examples=60, deadline=None)
@given(st.text() | st.lists(st.text()) | st.dictionaries(st.text(), st.text()))
def test_what_is_given_survives_as_it_is(value: Any) -> None:
    key, _, text = setting("model", value).partition("=")
    assert key == "model" and text.isascii() and read_yaml(text, "--model") == value


@pytest.mark.parametrize(
    "name", ["2024", "1e-5", "no", "null", "it's", 'a "b"', "C:\\m\\n", "a: b", "模型", "x\ty"]
)
def test_a_folder_may_have_any_name(name: str) -> None:
    given = [setting("benchmark", "own"), setting("model", name), setting("forget", name)]
    recipe, _ = resolve(None, given)
    assert (recipe.model, recipe.forget) == (name, name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "unlearn.learning_rate=.inf",
            "--set: unlearn.learning_rate: must be a finite number, got inf",
        ),
        ("unlearn={learning_rate: .nan}", "unlearn.learning_rate: .*got nan"),
        ("attacks.harmful.learning_rates=[1e-5, 1e999]", "attacks.harmful.learning_rates: .*got inf"),
        ("methods=[{name: npo, beta: -.inf}]", "methods: .*got -inf"),
        ("0\n0=3", r"^--set '0\\n0=3': the key has characters that none has"),
        ("model=2024", r"Text is written in quotes: '2024'"),
        ("unlearn={max_steps: 3, max_steps: 4}", "duplicate key"),
        ("foo.bar=1", "^--set: foo: unknown key 'foo'"),
        ("attacks.harmfull.steps=1", "^--set: .*'harmfull'. Did you mean 'harmful'"),
        ("learning_rate=1", "^--set: .*'learning_rate'. Did you mean 'unlearn.learning_rate'"),
        ("lerning_rate=1", "^--set: .*'lerning_rate'. Did you mean 'unlearn.learning_rate'"),
        ("people=1", "^--set: .*'people'. Did you mean 'fictional.people'"),
        ("seed=1", "^--set: .*'seed'. Did you mean 'seeds'"),
        ("seeds=0", r"^--set: seeds: must be a list, as in \[0\], got 0\.$"),
        ("methods=gd", r"^--set: methods: must be a list, as in \[gd\], got 'gd'\.$"),
        ("methods=[gd, gd]", r"^methods: 'gd' stands twice: a tag tells them apart, as in \{name: gd"),
        ("unlearn.lora=3", "^--set: unlearn.lora: must be a section of settings.*got 3"),
        ("attacks.reads=a", "^--set: attacks.reads: must be a list.*got 'a'"),
        ("methods=[3]", r"^--set: methods\.0: must be a name, or a mapping .*, got 3\.$"),
        ("methods=[gd, [npo]]", r"^--set: methods\.1: must be a name, or a mapping .*got \['npo'\]\.$"),
        ("methods=[gd++sam]", r"^methods\[0\]: 'gd\+\+sam': .*Did you mean 'gd\+sam'"),
    ],
)
def test_settings_that_are_no_settings(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        resolve(None, [text])
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("benchmark", "idle"),
    [
        ("own", ["forget", "heldout", "retain"]),
        ("tofu", ["forget", "heldout", "retain"]),
        ("faithun", ["forget", "heldout", "retain"]),
        ("rwku", ["forget"]),
        ("worldfacts", []),
        ("fictional", []),
    ],
)
def test_sizes_that_a_benchmark_does_not_take_are_refused_or_said(
    benchmark: str, idle: list[str], tmp_path: Path
) -> None:
    """Given for it they are refused; in a recipe of another one they are marked, the default is not."""
    named = [f"benchmark={benchmark}", "model=m", "forget=f.jsonl"]
    given = [f"split.{name}=24" for name in ("forget", "heldout", "retain")]
    if idle:
        with pytest.raises(ConfigError) as caught:
            resolve(None, [*named, *given])
        assert caught.value.problems == [
            f"--set: split.{name}: no effect with benchmark {benchmark}, which has sets of its own: leave "
            "it out."
            for name in idle
        ]
    else:
        assert resolve(None, [*named, *given])[0].split.retain == 24
    path = tmp_path / "r.yaml"
    path.write_text("benchmark: worldfacts\nsplit: {forget: 24, heldout: 24, retain: 24}\n")
    sources = resolve(path, named)[1]
    marked = [
        key for key, source in sources.items() if f"no effect with benchmark {benchmark}" in source
    ]
    assert sorted(marked) == [f"split.{name}" for name in idle]
    assert not any("no effect" in source for source in resolve(None, named)[1].values())


def test_one_key_in_two_ways_is_refused_in_a_recipe_and_the_last_one_counts_on_the_command_line(
    tmp_path: Path,
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("unlearn.max_steps: 3\nunlearn: {max_steps: 4}\n")
    with pytest.raises(ConfigError, match=r"unlearn\.max_steps is set twice"):
        resolve(path, [])
    both = ["unlearn.max_steps=3", "unlearn={max_steps: 4}"]
    assert resolve(None, both)[0].unlearn.max_steps == 4
    assert resolve(None, both[::-1])[0].unlearn.max_steps == 3


def test_quoted_numbers_and_words_of_other_versions_still_set_what_they_mean(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text('unlearn: {learning_rate: "1e-4"}\ndiagnose: no\nmodel: "012"\n')
    recipe = resolve(path, [])[0]
    assert (recipe.unlearn.learning_rate, recipe.diagnose, recipe.model) == (1e-4, False, "012")


def test_two_anchors_of_one_name_are_nothing(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model: &a tiny\nforget: &a f.jsonl\nbenchmark: own\n")
    assert resolve(tmp_path / "r.yaml", [])[0].model == "tiny"


def test_an_optimiser_brings_a_rate_of_its_own() -> None:
    """Where none is given; a benchmark's is AdamW's. Both spellings of the word are read."""
    recipe, sources = resolve(None, ["unlearn.optimizer=sign", "benchmark=fictional"])
    assert (recipe.unlearn.optimiser, recipe.unlearn.learning_rate) == ("sign", RATES["sign"])
    assert (sources["unlearn.optimiser"], sources["unlearn.learning_rate"]) == ("--set", "default")
    recipe, _ = resolve(None, ["benchmark=fictional"])
    assert (recipe.unlearn.optimiser, recipe.unlearn.learning_rate) == ("adamw", 1e-3)
    recipe, _ = resolve(None, ["unlearn.optimiser=sgd", "unlearn.learning_rate=0.3"])
    assert recipe.unlearn.learning_rate == 0.3


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["unlearn.optimizer=lamb"], "unlearn.optimiser: .*'normsgd' or 'adafactor', got 'lamb'"),
        (["unlearn.optimizer=sgd", "unlearn.optimiser=sign"], "are one setting: leave one of them out"),
        (["methods=[{name: gd, optimizer: lamb}]"], r"methods\[0\]: gd.optimiser: .*got 'lamb'"),
    ],
)
def test_an_optimiser_that_is_not_there_is_refused(sets: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        resolve(None, sets)
    assert len(caught.value.problems) == 1


def test_a_method_may_have_an_optimiser_of_its_own() -> None:
    plain, own = (make({"name": "gd"} | more) for more in ({}, {"optimizer": "sign"}))
    assert own.optimiser == "sign" and own.options == plain.options | {"optimiser": "sign"}
    recipe, _ = resolve(None, ["unlearn.learning_rate=3e-4"])
    session: Any = SimpleNamespace(recipe=recipe, precision="fp32")
    found = {m.optimiser: settings_of(session, m, 0, 0.0) for m in (plain, own)}
    assert (found[None].optimiser, found[None].learning_rate) == ("adamw", 3e-4)
    assert (found["sign"].optimiser, found["sign"].learning_rate) == ("sign", RATES["sign"])

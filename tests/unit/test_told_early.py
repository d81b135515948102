"""What is wrong with settings and files is told, and told before any work.

pytest tests/unit/test_told_early.py
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssiuu.benchmarks import fictional_twins, wmdp_rows
from ssiuu.data.columns import parse_columns
from ssiuu.data.read import read_facts
from ssiuu.errors import ConfigError, DataError
from ssiuu.experiment.recipe import resolve
from ssiuu.experiment.session import open_session
from ssiuu.methods import make
from ssiuu.training.unlearn import Settings, check_steps

# --- true and false -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "unlearn.stop.kl",
        "unlearn.learning_rate",
        "attacks.harmful.learning_rates",
        "evaluate.options",
        "split.forget",
        "tune.trials",
        "fictional.people",
    ],
)
@pytest.mark.parametrize("value", ["true", "false", "[true]"])
def test_true_is_no_number(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"--set: {key}: must not be true or false, got"):
        resolve(None, [f"{key}={value}"])


@pytest.mark.parametrize("spec", [{"name": "npo", "beta": True}, {"name": "gd", "learning_rate": True}])
def test_nor_is_it_one_of_a_method(spec: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="must not be true or false, got True"):
        make(spec)


def test_where_it_is_meant_it_stays() -> None:
    recipe, _ = resolve(None, ["diagnose=false", "attacks.prompts=true", "attacks.membership=true"])
    assert not recipe.diagnose


# --- columns ------------------------------------------------------------------------------------


def test_one_column_is_not_two_keys() -> None:
    with pytest.raises(ConfigError, match="answer and entity are both to be read from label"):
        parse_columns("question=text,answer=label,entity=label")


def test_question_and_answer_are_one_column_only_of_conversations() -> None:
    both = {"question": "text", "answer": "text"}
    with pytest.raises(DataError, match="both read from 'text', which is a text and no conversation"):
        read_facts([{"text": "Where does Ada live?"}], "forget", both)
    turns = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Rome"}]
    (fact,) = read_facts([{"text": turns}], "forget", both)
    assert (fact.question, fact.answer) == ("Where?", "Rome")


# --- methods ------------------------------------------------------------------------------------


def test_a_radius_is_bounded() -> None:
    for name in ("npo+rosu(1e9)", "npo+sam(1e9)"):
        with pytest.raises(ConfigError, match="less than or equal to 10"):
            make(name)


def test_a_number_that_a_name_stands_for_can_be_set() -> None:
    for spec in ("fdcu(strength=5)", {"name": "fdcu", "strength": 5}):
        gate, fisher = make(spec).transforms
        assert (gate.options["strength"], fisher.options["fisher"]) == (5.0, 50.0)
    with pytest.raises(ConfigError, match="sets strength, which is 5 already"):
        make("fdcu(strength=5,strength=6)")


def settings(steps: int, batch: int = 4) -> Settings:
    return Settings(1e-3, batch, None, steps, 1, 0.3, 0.0, 0, "fp32")


@pytest.mark.parametrize(("name", "first"), [("repselect-steps", 7), ("cir", 4), ("gd", 1)])
def test_a_run_is_as_long_as_it_collects(name: str, first: int) -> None:
    """12 rows, 4 a step: an epoch is 3 steps, of which two and one are collected."""
    check_steps(make(name), 12, settings(first))
    if first > 1:
        with pytest.raises(ConfigError, match=rf"before step {first} only collect.*nothing would be"):
            check_steps(make(name), 12, settings(first - 1))


def test_an_epoch_takes_a_step_at_least() -> None:
    check_steps(make({"name": "repselect-steps", "collect": 5}), 3, settings(6, batch=8))
    with pytest.raises(ConfigError, match="before step 6 only collect"):
        check_steps(make({"name": "repselect-steps", "collect": 5}), 3, settings(5, batch=8))


# --- before a model is trained ------------------------------------------------------------------


def test_a_layer_that_is_not_there_is_told_before_a_world_is_learned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fictional_twins, "_train", lambda *given: pytest.fail("trained first"))
    recipe, _ = resolve(None, ["benchmark=fictional", "methods=[gd, cir, rmu]", "split.seed=77"])
    with pytest.raises(ConfigError) as told:
        open_session(recipe, None, lambda text: None)
    cir, rmu = told.value.problems
    assert "cir.layers: must be below 2" in cir and "layers: [0, 1]." in cir
    assert "rmu.layer: must be below 2" in rmu and r"layer: 0, update: ['\.(0)\.mlp" in rmu


def test_an_outline_is_the_architecture_of_what_is_trained() -> None:
    world = fictional_twins.build_world(10, 0)
    recipe = fictional_twins.TwinConfig()
    tokenizer = fictional_twins.train_tokenizer(world, recipe)
    made, outline = fictional_twins._start(tokenizer, 0, recipe), fictional_twins.outline(recipe)
    shapes = {name: p.shape for name, p in made.named_parameters() if "embed" not in name}
    assert shapes == {n: p.shape for n, p in outline.named_parameters() if "embed" not in n}
    assert all(parameter.is_meta for parameter in outline.parameters())


def test_a_row_that_cannot_be_read_is_told_with_its_key(tmp_path: Path) -> None:
    row = {"question": "q?", "choices": ["a", "b", "c", "d"], "answer": True}
    (tmp_path / "wmdp-bio.json").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"wmdp\.path: .*wmdp-bio\.json:1: answer: must not be true"):
        wmdp_rows.load(str(tmp_path), ["bio"])

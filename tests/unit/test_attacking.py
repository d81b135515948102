"""Which attacks a recipe asks for, the attacker's prompts, and the columns that come of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ssiuu.analysis.evidence import FEWEST, constants
from ssiuu.analysis.rows import rows
from ssiuu.analysis.verdict import strongest
from ssiuu.attacks import ATTACKS, BUILT_IN
from ssiuu.attacks.asking import read_prompted
from ssiuu.attacks.few_shot import few_shot
from ssiuu.attacks.prompts import PREFILLS, PREFIXES, prompts
from ssiuu.errors import ConfigError
from ssiuu.experiment.attacking import plan
from ssiuu.experiment.estimate import _tokens
from ssiuu.experiment.recipe import resolve
from ssiuu.likelihood import Prompt
from ssiuu.records.schema import (
    AttackCurve,
    AttackRead,
    Cell,
    Evaluation,
    FactScore,
    FactText,
    MethodInfo,
    Reading,
    RunRecord,
)

# --- the plan -----------------------------------------------------------------------------------


def test_the_attacks_of_the_default_run() -> None:
    recipe, _ = resolve(None, [])
    assert [c.file for c in plan(recipe)] == [
        "attack-harmful_0.3-0.0001.json",
    ]
    assert {c.points for c in plan(recipe)} == {(6, 16)}


def test_the_default_run_is_examined_as_long_as_the_calibration_was() -> None:
    """Else nothing would be called erased; every trained method is judged, the control is not."""
    recipe, _ = resolve(None, [])
    assert max(recipe.examine.steps) >= constants().steps > 0 and recipe.examine.planted >= FEWEST
    assert [m.label for m in recipe.made() if m.trains] == ["gd", "ssiuu"]


def test_strong_sweeps_kinds_spaces_rates_and_seeds() -> None:
    recipe, sources = resolve(None, ["protocol=strong"])
    curves = plan(recipe)
    trained = [c for c in curves if c.learning_rate is not None]
    assert len(trained) == 4 * 3 * 7 * 3  # two fractions, benign, filler
    assert {c.points for c in trained} == {(1, 2, 4, 8, 16)}
    assert {c.kind for c in curves} == {*ATTACKS} - {"membership-gradient", "membership-reference"}
    assert [c.kind for c in curves if c.learning_rate is None] == [
        "quantised",
        "few-shot",
        "sampled",
        "prompts",
        "membership",
    ]
    assert len({c.file for c in curves}) == len(curves) == len(set(curves))
    assert recipe.attacks.control
    assert sources["attacks.seeds"] == sources["attacks.prompts"] == "protocol strong"


def test_protocol_strong_goes_before_the_benchmark_and_behind_the_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("protocol: strong\nbenchmark: fictional\nattacks: {shots: [4], seed: 5}\n")
    recipe, sources = resolve(path, ["attacks.benign.learning_rates=[1e-4]"])
    attacks = recipe.attacks
    assert attacks.shots.root == [4] and sources["attacks.shots"] == str(path)
    assert attacks.benign.learning_rates == [1e-4]
    assert len(attacks.harmful.learning_rates) == 7  # not the benchmark's two
    assert sources["attacks.harmful.learning_rates"] == "protocol strong"
    assert sources["unlearn.learning_rate"] == "benchmark fictional"
    assert (attacks.seed, attacks.orders) == (5, [0, 1, 2])


def test_seed_alone_still_is_the_seed_of_the_curves() -> None:
    recipe, _ = resolve(None, ["attacks.seed=5"])
    assert {c.seed for c in plan(recipe)} == {5}


def test_the_page_of_attacks_has_them_all() -> None:
    text = (Path(__file__).parents[2] / "docs" / "attacks.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+?)(?:_p)?` \| (\w+) \|", text, re.MULTILINE)
    assert dict(rows) == {kind.name: kind.axis.name for kind in BUILT_IN}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("attacks.seeds=[1,1]", r"attacks\.seeds"),
        ("attacks.shots=[4,2]", r"attacks\.shots"),
        ("attacks.shots=[1,97]", r"attacks\.shots: 97 .*split\.retain is 72"),
        ("attacks.harmful.fractions=[0.3,0.995]", r"fractions: 0\.995 of 24 forget facts"),
        ("attacks.samples=[0]", r"attacks\.samples"),
        ("attacks.quantise=[int3]", r"attacks\.quantise"),
        ("attacks.quantise=[nf4,nf4]", r"attacks\.quantise"),
        ("attacks.spaces=[]", r"attacks\.spaces"),
        ("attacks.filler.learning_rates=[-1]", "learning rates"),
        ("protocol=weak", "protocol"),
    ],
)
def test_what_cannot_be_is_refused(wrong: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        resolve(None, [wrong])


def test_the_estimate_counts_every_attack() -> None:
    def tokens(setting: str) -> float:
        recipe, _ = resolve(None, [setting, "examine.steps=[]"])
        return _tokens(recipe, recipe.opens.cost(recipe))

    paper, strong = (tokens(f"protocol={protocol}") for protocol in ("paper", "strong"))
    assert strong > 20 * paper
    one = tokens("attacks.samples=[8]")
    assert paper < one < 2 * paper


# --- prompts ------------------------------------------------------------------------------------


def fact(number: int, paraphrases: int = 0) -> FactText:
    asked = [f"w{number + 20 + n} w{number}?" for n in range(paraphrases)]
    return FactText(
        id=f"f{number}",
        question=f"w{number} w{number}?",
        answer=f"w{number + 1}",
        paraphrases=asked,
        options=[f"w{number + 1}", f"w{number + 2} w3"],
    )


def test_few_shot_prompts_are_blocks_of_question_and_answer(tokenizer: Any) -> None:
    kept = [fact(n) for n in range(30, 40)]
    one, three = (few_shot(Prompt(tokenizer), kept, k, 0)(fact(1)) for k in (1, 3))
    assert one is not None and three is not None
    text = tokenizer.decode(three.prompt)
    blocks = text.split("\n\n")
    assert len(blocks) == 4 and blocks[-1] == "Question: w1 w1?\nAnswer:"
    told = {f"Question: {f.question}\nAnswer: {f.answer}" for f in kept}
    assert set(blocks[:3]) <= told and len(set(blocks[:3])) == 3
    assert tokenizer.decode(one.prompt) == f"{blocks[0]}\n\n{blocks[-1]}"  # the first of more
    assert [tokenizer.decode(o) for o in three.options] == [" w2", " w3 w3"]


def test_few_shot_in_a_chat_is_turns(tokenizer: Any) -> None:
    told = FactText(id="k", question=" w7?", answer=" w8")
    asked = FactText(id="f", question=" w1?", answer=" w2")
    question = few_shot(Prompt(tokenizer, "chat"), [told], 1, 0)(asked)
    assert question is not None
    text = tokenizer.decode(question.prompt)
    assert text == "user: w7?\nassistant: w8\nuser: w1?\nassistant:"


def test_more_shots_than_facts_are_refused(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"attacks\.shots: 3 .* there are 2"):
        few_shot(Prompt(tokenizer), [fact(1), fact(2)], 3, 0)


def test_every_prompt_asks_in_its_own_way(make_model: Any, tokenizer: Any) -> None:
    prompt, facts = Prompt(tokenizer), [fact(1, 2), fact(2, 1)]
    made = prompts(prompt, facts)
    assert len(made) == 2 + len(PREFIXES) + len(PREFILLS)
    asked = {label: asking(facts[1]) for label, asking in made.items()}
    assert asked["paraphrase 2"] is None  # the second fact has only one
    texts = [tuple(q.prompt) for q in asked.values() if q is not None]
    assert len(set(texts)) == len(texts) == len(made) - 1
    begun = asked["prefill: the answer is"]
    assert begun is not None and begun.prompt[:-3] == prompt.question(facts[1].question)
    found = read_prompted(make_model(), prompt, facts, made["paraphrase 2"], 64)
    assert set(found) == {"f1"} and found["f1"].logprob < 0
    with pytest.raises(ConfigError, match="the model's context holds 9"):
        read_prompted(make_model(), prompt, facts, made["prefix: truth"], 9)


def test_a_begun_chat_answer_goes_on_with_a_space(tokenizer: Any) -> None:
    asked = prompts(Prompt(tokenizer, "chat"), [fact(1)])["prefill: the answer is"](fact(1))
    assert asked is not None and tokenizer.decode(asked.options[0]) == " w2"


# --- the table ----------------------------------------------------------------------------------

IDS = ["a", "b", "c", "d"]


def attack(
    name: str,
    levels: list[int],
    rate: float | None = None,
    seed: int = 0,
    axis: str = "steps",
    space: Any = "full",
) -> AttackCurve:
    """An attack that has `levels[i]` of four facts right at its read i."""
    reads = [
        AttackRead(
            step=i, facts={f: Reading(correct=n < right, logprob=-5.0) for n, f in enumerate(IDS)}
        )
        for i, right in enumerate(levels)
    ]
    return AttackCurve(
        name=name, kind=name, learning_rate=rate, seed=seed, axis=axis, space=space,
        trained=[], pool=IDS, reads=reads, seconds=1.0,
    )  # fmt: skip


def cell(label: str, attacks: list[AttackCurve], right: int = 1) -> Cell:
    scores = {
        f: FactScore(correct=n < right, logprob=-5.0, tokens=2, free_correct=n < right)
        for n, f in enumerate(IDS)
    }
    return Cell(
        method=MethodInfo(label=label, name=label, origin="control", description=""),
        seed=0,
        evaluation=Evaluation(forget=scores, retain={}, heldout={}, seconds=1.0),
        attacks=attacks,
    )


def table(record: RunRecord, cells: list[Cell]) -> list[dict[str, Any]]:
    original = cell("original", [], right=4).evaluation
    made: list[dict[str, Any]] = rows(record.model_copy(update={"cells": cells, "original": original}))[
        "rows"
    ]
    return made


@pytest.fixture(scope="module")
def record() -> RunRecord:
    from sample_record import sample_record

    return sample_record()


def test_the_attacker_is_chosen_by_the_mean_over_seeds(record: RunRecord) -> None:
    lucky = [attack("filler", [1, 4], 1e-3, 0), attack("filler", [1, 1], 1e-3, 1)]
    steady = [attack("filler", [1, 3, 2], 1e-4, s, space="lora-qv") for s in (0, 1)]
    (row,) = table(record, [cell("gd", [*lucky, *steady, attack("quantised", [1, 2], axis="bits")])])
    assert row["filler"] == row["strongest_level"] == 0.75  # (0.75 + 0.75) / 2, not 1 or 0.625
    assert (row["strongest"], row["strongest_learning_rate"]) == ("filler", 1e-4)
    assert row["strongest_space"] == "lora-qv"
    assert row["filler_way_back"] == pytest.approx((0.75 - 0.25) / (1 - 0.25))
    assert row["quantised_way_back"] == pytest.approx(1 / 3)
    assert row["quantised_over_control"] == pytest.approx(0.5 - 1 / 3)  # chance


def test_recovery_is_over_the_never_learned_control_under_the_same_attack(record: RunRecord) -> None:
    cells = [
        cell("gd", [attack("filler", [1, 3], 1e-4), attack("sampled", [1, 4], axis="k")]),
        cell("never-learned", [attack("filler", [1, 2], 1e-3), attack("sampled", [0, 1], axis="k")]),
    ]
    gd, twin = table(record, cells)
    assert gd["filler_over_control"] == 0.25 and gd["sampled_over_control"] == 0.75
    assert twin["filler_over_control"] == pytest.approx(0.5 - 1 / 3)
    (alone,) = table(record, cells[:1])
    assert alone["sampled_over_control"] is None  # chance of ranking is no measure for it


def test_nothing_lost_means_no_way_back(record: RunRecord) -> None:
    (row,) = table(record, [cell("none", [attack("filler", [4, 4], 1e-4)], right=4)])
    assert row["filler"] == 1.0 and row["filler_way_back"] is None


def test_sampled_answers_are_not_the_strongest_attack() -> None:
    leaky = cell("gd", [attack("filler", [1, 2], 1e-4), attack("sampled", [1, 4], axis="k")])
    best = strongest(leaky)
    assert best is not None and best[0].name == "filler"


def test_a_curve_that_diverged_at_once_counts_with_the_model_as_it_was(record: RunRecord) -> None:
    (row,) = table(record, [cell("gd", [attack("filler", [1], 1.0), attack("filler", [1, 3], 1.0, 1)])])
    assert row["filler"] == 0.5


def test_membership_has_columns_of_its_own(record: RunRecord) -> None:
    values = {"loss": 0.4, "min-k 20%": None}
    found = attack("membership", [1], axis="score").model_copy(update={"values": values})
    one, other = table(record, [cell("gd", [found, attack("filler", [1, 2], 1e-4)]), cell("npo", [])])
    assert (one["auc_loss"], one["auc_min-k 20%"], other["auc_loss"]) == (0.4, None, None)
    assert "membership" not in one and one["strongest"] == "filler"


@pytest.mark.parametrize(
    ("axis", "scored"),
    [
        ({}, "written"),
        ({"axis": "bits"}, "written"),
        ({"axis": "prompt"}, "ranking"),
        ({"axis": "shots"}, "ranking"),
        ({"axis": "k"}, "free"),
        ({"axis": "score"}, "values"),
    ],
)
def test_records_from_before_are_still_read(axis: dict[str, str], scored: str) -> None:
    old = {"name": "benign", "kind": "benign", "fraction": None, "learning_rate": 1e-4, "seed": 0}
    old |= {"trained": [], "pool": [], "reads": [{"step": 0, "facts": {}}], "seconds": 1.0, **axis}
    found = AttackCurve.model_validate_json(json.dumps(old))
    assert (found.scored, found.space, found.tokens, found.values) == (scored, "full", None, {})
    assert found.axis_label and AttackCurve.model_validate_json(found.model_dump_json()) == found

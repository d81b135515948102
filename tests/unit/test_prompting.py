"""Which form an experiment asks in, and that a second one is asked as well."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from ssiuu.analysis.verdict import answered
from ssiuu.benchmarks.prompting import check_tokens, choose_prompt
from ssiuu.errors import ConfigError, DataError
from ssiuu.evaluation.score import score_facts
from ssiuu.evaluation.scores.ranking import Ranking
from ssiuu.experiment.recipe import resolve
from ssiuu.likelihood import Prompt
from ssiuu.records.schema import FactText, Split

OWN = ["benchmark=own", "model=m", "forget=f.jsonl"]


def chosen(tokenizer: Any, *sets: str) -> tuple[Prompt, str]:
    said: list[str] = []
    prompt = choose_prompt(resolve(None, [*OWN, *sets])[0], tokenizer, said.append)
    return prompt, "".join(said)


def test_own_facts_are_asked_through_the_template_where_there_is_one(tokenizer: Any) -> None:
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    assert chosen(tokenizer)[0].style == "chat"
    assert chosen(tokenizer)[1] == "prompt: chat: the model's own chat template"
    assert chosen(bare)[0].style == "qa"
    assert chosen(bare)[1] == r'prompt: qa: "Q: {question}\nA:"'
    assert chosen(tokenizer, "prompt=plain")[0] == Prompt(tokenizer, "plain")
    with pytest.raises(ConfigError, match="chat template, and this model has none"):
        chosen(bare, "prompt=chat")


def test_a_checkpoint_is_asked_in_the_form_that_its_record_says(tokenizer: Any, tmp_path: Path) -> None:
    """Whatever is said by hand goes first, and where the two differ that is said."""
    for name, field, text in (
        ("taught", "teach.json", {"asked": "plain: ...", "form": "plain"}),
        ("older", "teach.json", {"form": "plain"}),
        ("unlearned", "unlearn.json", {"prompt": "qa: ..."}),
        ("own", "teach.json", {"asked": 'custom: "{question} w9"', "form": "custom"}),
        ("system", "teach.json", {"asked": "qa: ..., with the system text 'Be brief'", "form": "qa"}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / field).write_text(json.dumps(text))

    def said(*names: str, sets: tuple[str, ...] = ()) -> tuple[str, str]:
        told: list[str] = []
        recipe, places = resolve(None, [*OWN, *sets])[0], [tmp_path / name for name in names]
        prompt = choose_prompt(recipe, tokenizer, told.append, checkpoints=places)
        return prompt.name, told[0].replace(f"{tmp_path}/", "")

    assert said("none") == ("chat", "prompt: chat: the model's own chat template")
    for first in ("taught", "older"):
        form, told = said(first, "unlearned")
        assert form == "plain" and told.endswith(f"(as {first}/teach.json says)")
    assert said("none", "unlearned")[0] == "qa"
    form, told = said("taught", sets=("prompt=qa",))
    assert form == "qa" and told.endswith("(taught/teach.json: trained in plain)")
    form, told = said("own")
    assert form == "chat" and "own/teach.json: trained in a form of its own; --set prompt_form" in told
    form, told = said("system")
    assert form == "qa" and "trained with a system text; --set prompt_system" in told
    assert said("own", sets=("prompt_form={question} w9",))[1].endswith("(as own/teach.json says)")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{"asked":"plain', "is cut short or damaged"),
        (b"\xff\x00 {", "is cut short or damaged"),
        (b'"plain"', "is cut short or damaged"),
        (b'{"asked":{"qa":1}}', "asked is {'qa': 1}, which is no form"),
        (b'{"asked":["plain"],"form":"plain"}', r"asked is \['plain'\], which is no form"),
        (b'{"form":"### {question}"}', "form is '### {question}', which is no form"),
    ],
)
def test_a_record_that_does_not_say_its_form_is_told_of(
    tokenizer: Any, tmp_path: Path, content: bytes, why: str
) -> None:
    """In place of another form, in which the model does not know what it was taught."""
    record = tmp_path / "teach.json"
    record.write_bytes(content)
    told: list[str] = []

    def choose(*sets: str) -> Prompt:
        recipe = resolve(None, [*OWN, *sets])[0]
        return choose_prompt(recipe, tokenizer, told.append, checkpoints=[tmp_path])

    with pytest.raises(ConfigError, match=f"^{record}.* {why}.*--prompt qa, plain or chat"):
        choose()
    assert choose("prompt=plain").style == "plain" and choose("prompt_form={question}").form
    assert all(str(record) in line for line in told)


def test_a_record_of_a_template_that_is_not_there_is_named(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "teach.json").write_text('{"asked": "chat: the model\'s own chat template"}')
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    recipe = resolve(None, OWN)[0]
    with pytest.raises(
        ConfigError, match=r"teach\.json says that the model was trained in chat\. .*none"
    ):
        choose_prompt(recipe, bare, lambda _: None, checkpoints=[tmp_path])


@pytest.mark.parametrize(("benchmark", "style"), [("worldfacts", "qa"), ("fictional", "plain")])
def test_benchmarks_are_asked_as_ever(tokenizer: Any, benchmark: str, style: str) -> None:
    recipe, _ = resolve(None, [f"benchmark={benchmark}"])
    assert choose_prompt(recipe, tokenizer, lambda _: None) == Prompt(tokenizer, style)  # type: ignore[arg-type]
    recipe, _ = resolve(None, [f"benchmark={benchmark}", "prompt_form={question} w9"])
    assert choose_prompt(recipe, tokenizer, lambda _: None).form == "{question} w9"


def test_form_and_system_text_are_taken_as_they_stand(tokenizer: Any, tmp_path: Path) -> None:
    form = r"prompt_form=Q: {question}\nA: "
    prompt, said = chosen(tokenizer, form, "prompt_system=Be brief: yes")
    assert (prompt.form, prompt.system) == ("Q: {question}\nA: ", "Be brief: yes")
    assert said == (r'prompt: custom: "Q: {question}\nA:", with the system text ' + "'Be brief: yes'")
    quoted, _ = chosen(tokenizer, r'prompt_form="{question}\n"', "prompt_system=null")
    assert (quoted.form, quoted.system) == ("{question}\n", None)
    path = tmp_path / "recipe.yaml"
    path.write_text('benchmark: own\nmodel: m\nforget: f\nprompt_form: "{question}?\\nA:"\n')
    assert resolve(path, [])[0].prompt_form == "{question}?\nA:"


@pytest.mark.parametrize("form", ["Q:", "{question} {question}", "{q}", "{ question }", ""])
def test_a_form_without_its_question_is_refused(form: str) -> None:
    with pytest.raises(ConfigError, match=r"prompt_form: must hold \{question\} once"):
        resolve(None, [*OWN, f'prompt_form="{form}"'])


def test_a_form_beside_a_prompt_is_refused() -> None:
    with pytest.raises(ConfigError, match="prompt_form stands in place of prompt, and prompt is qa"):
        resolve(None, [*OWN, "prompt=qa", "prompt_form={question}"])


def test_forget_facts_are_asked_in_another_form_too(make_model: Any, tokenizer: Any) -> None:
    facts = [
        FactText(id=f"f{n}", question=f"w{n} w{n + 3}?", answer=f"w{n + 9}", options=options)
        for n in range(8)
        for options in ([f"w{n + 9}", f"w{n + 10}"],)
    ]
    model, prompt = make_model(3), Prompt(tokenizer, "chat")
    split = Split(seed=0, forget=facts[:5], retain=facts[5:], heldout=[], asked=8, known=8)
    found = Ranking().evaluate(model, prompt, split)
    plainly = score_facts(model, prompt, facts[:5])
    otherwise = score_facts(model, Prompt(tokenizer, "qa"), facts[:5])
    for id, score in found.forget.items():
        again = otherwise[id]
        asked = (score.other_form, score.other_text, score.other_free)
        assert asked == (again.correct, again.free_text, again.free_correct)
        bare = {"other_form": None, "other_text": None, "other_free": None}
        alone = score.model_copy(update=bare)
        assert alone.logprob == pytest.approx(plainly[id].logprob, abs=1e-5)
        assert alone.model_copy(update={"logprob": 0.0}) == plainly[id].model_copy(
            update={"logprob": 0.0}
        )
        assert answered(score) == bool(score.free_correct or again.free_correct)
    assert all(s.other_form is None and s.other_text is None for s in found.retain.values())
    assert {s.other_form for s in found.forget.values()} == {True, False}


def test_facts_with_a_token_beyond_the_embedding_are_refused_by_name(
    make_model: Any, tokenizer: Any
) -> None:
    grown, model = copy.deepcopy(tokenizer), make_model()
    facts = [FactText(id="one", question=" w1", answer=" w2")]
    facts += [FactText(id="two", question=" w3", answer=" w4", paraphrases=[" w3 <image> w5"])]
    check_tokens(model, tokenizer, facts)
    grown.add_special_tokens({"additional_special_tokens": ["<image>"]})
    check_tokens(model, grown, facts[:1])
    with pytest.raises(DataError, match=r"^two: '<image>' in ' w3 <image> w5' .* no embedding"):
        check_tokens(model, grown, facts)

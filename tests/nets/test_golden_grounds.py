"""What every benchmark opens, what its recipe says by default, and what each score finds: unmoved.

    pytest tests/nets/test_golden_grounds.py
    PYTHONPATH=tests python tests/nets/test_golden_grounds.py      # adds this machine's digests

Choices, texts, prompts and settings are compared exactly; so are all numbers under an
arithmetic (`arithmetic.py`) that the file has digests of, and elsewhere their mean up to rounding. Settings that are new since may
only have come from a default.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from arithmetic import arithmetic
from conftest import build_model
from conftest import tokenizer as word_tokenizer
from people_files import write_faithun, write_rwku
from ssiuu.benchmarks.fictional_twins import TwinConfig, train_tokenizer
from ssiuu.benchmarks.fictional_world import build_world
from ssiuu.config import flatten
from ssiuu.experiment.recipe import resolve
from ssiuu.experiment.session import Session, open_session
from ssiuu.models.load import save
from ssiuu.records.files import digest
from tofu_folder import write_tofu

GOLDEN = Path(__file__).with_name("golden_grounds.json")
BENCHMARKS = ("worldfacts", "fictional", "tofu", "faithun", "rwku", "own")
# Scores that are newer than the digests.
LATER = ("reworded_probability", "wrong_probability", "fluency", "counts")
PROTOCOLS = ("paper", "strong")
NEEDED = {"own": ["forget=f.jsonl", "model=m"]}
FORGET = [
    {"question": "w1 w2?", "answer": "w3", "distractors": ["w4", "w5"], "paraphrases": ["w2 w1?"]},
    {"question": "w7 w8?", "answer": "w9 w10"},
    {"question": "w3?", "answer": "w2 w3", "perturbed_answer": ["w4 w3", "w5 w3", "w6 w3"]},
]
RETAIN = [{"question": f"w{n} w{n + 1}?", "answer": f"w{n + 20}"} for n in range(30, 36)]


def sets_of(name: str, place: Path) -> list[str]:
    """Return the settings of a small ground of each kind; its files are written beside."""
    model = place / "model"
    if name == "worldfacts":
        save(_spelling_model(), _spelling(), model)
        return [f"model={model}", "split={forget: 6, retain: 6, heldout: 4}"]
    if name == "fictional":
        return ["fictional={people: 24, steps: 12}", "split={forget: 4, retain: 6, heldout: 4}"]
    save(build_model(2, spread=0.1), word_tokenizer.__wrapped__(), model)
    if name == "tofu":
        tuned = "heldout: 20, items: 3, epochs: 1, learning_rate: 1e-2"
        return [f"model={model}", f"tofu={{path: {write_tofu(place / 'tofu', 40)}, {tuned}}}"]
    if name == "tofu, given":
        path = write_tofu(place / "tofu", 40)
        return [f"tofu={{path: {path}, model: {model}, heldout: 5, items: 3}}", "prompt=qa"]
    if name == "faithun":
        return [f"model={model}", f"faithun.path={write_faithun(place / 'faithun')}"]
    if name == "rwku":
        given = f"rwku={{path: {write_rwku(place / 'rwku')}, subjects: 3, items: 4}}"
        return [f"model={model}", given, "split={retain: 6, heldout: 6}"]
    for key, rows in (("forget", FORGET), ("retain", RETAIN)):
        (place / f"{key}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"model={model}", *(f"{k}={place / k}.jsonl" for k in ("forget", "retain")), "force=true"]


GROUNDS = [*BENCHMARKS, "tofu, given"]


def _spelling() -> Any:
    return train_tokenizer(build_world(people=10, seed=0), TwinConfig())


def _spelling_model() -> LlamaForCausalLM:
    """Return a random model that can spell everything, to be asked about the real world."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(_spelling()),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def opened(name: str, place: Path) -> Session:
    recipe, _ = resolve(None, [f"benchmark={name.partition(',')[0]}", *sets_of(name, place)])
    return open_session(recipe, None, lambda _: None)


def ground_of(name: str, place: Path) -> dict[str, Any]:
    """Return a ground in digests: under "exact" what hangs on no number, under "machine" the rest."""
    session = opened(name, place)
    stop, threshold = session.stop_rule()
    info = session.benchmark
    parts: dict[str, Any] = {
        "split": session.split.model_dump(mode="json"),
        "prompt": [session.prompt.key, session.prompt.description],
        "benchmark": info.model_dump(mode="json"),
        "stop": [stop.kind, threshold, stop.forced, stop.answered is not None],
        "rows": [[e.id, e.prompt, e.answer] for e in session.rows(session.split.forget)],
        "precision": session.precision,
        "notes": [note.replace(str(place), "") for note in session.notes],
        "knowledge": {k: {i: x.state for i, x in v.items()} for k, v in session.knowledge.items()},
        "others": [len(session.non_members or []), session.lacking, session.chance],
        "twin": session.never_learned is not None,
        "score": score_name(session),
    }
    scores = scored(session)
    facts = [f for s in (scores["forget"], *scores["others"].values()) for f in s.values()]
    learned = name in ("fictional", "tofu")  # which facts are known, or what is said, hangs on numbers
    kept = {"model": session.loaded.info.fingerprint, "scores": scores}
    if name == "fictional":
        kept, parts = {**parts, **kept}, {"prompt": parts["prompt"], "twin": True}
    said = {} if learned else {"texts": [f["free_text"] for f in facts]}
    return {
        "exact": {key: digest(value) for key, value in (parts | said).items()},
        "mean": sum(f["logprob"] for f in facts) / len(facts),
        "machine": {key: digest(value) for key, value in kept.items()},
    }


def scored(session: Session) -> dict[str, Any]:
    found = session.score.evaluate(session.model, session.prompt, session.split)
    dumped = found.model_dump(
        mode="json", exclude={"seconds", "unrelated"}
    )  # the latter: the session's
    return without(dumped, LATER)


def without(values: Any, keys: tuple[str, ...]) -> Any:
    if not isinstance(values, dict):
        return values
    return {key: without(value, keys) for key, value in values.items() if key not in keys}


def score_name(session: Session) -> str:
    return session.score.name


def settings_of(benchmark: str, protocol: str) -> dict[str, list[Any]]:
    """Return every setting with where it came from."""
    given = [f"benchmark={benchmark}", f"protocol={protocol}", *NEEDED.get(benchmark, [])]
    recipe, sources = resolve(None, given)
    values = flatten(recipe.model_dump(mode="json"))
    return {key: [value, sources[key]] for key, value in values.items()}


def recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GOLDEN.read_text())
    return found


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_settings_where_a_recipe_says_nothing(benchmark: str, protocol: str) -> None:
    golden = recorded()["settings"]
    wanted = golden["worldfacts, paper"] | golden[f"{benchmark}, {protocol}"]
    found = settings_of(benchmark, protocol)
    assert {key: found.get(key) for key in wanted} == wanted
    later = {key: source for key, (_, source) in found.items() if key not in wanted}
    assert later.pop("examine.steps") in ("default", "benchmark worldfacts")
    assert set(later.values()) <= {"default"}


@pytest.mark.parametrize("name", GROUNDS)
def test_what_is_opened_and_what_is_scored(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSIUU_CACHE", str(tmp_path / "cache"))
    wanted, found = recorded()["grounds"][name], ground_of(name, tmp_path)
    assert found["exact"] == wanted["exact"]
    if arithmetic() in wanted["machine"]:
        assert found["machine"] == wanted["machine"][arithmetic()]
    else:
        near = 0.3 if name == "fictional" else 1e-3
        assert found["mean"] == pytest.approx(wanted["mean"], rel=near)


def _keep() -> None:
    """Add what every ground is under this machine's arithmetic; settings stay those of the file."""
    golden = recorded()
    for name in GROUNDS:
        with tempfile.TemporaryDirectory() as place:
            os.environ["SSIUU_CACHE"] = f"{place}/cache"
            found = ground_of(name, Path(place))
        machines = golden["grounds"].get(name, {}).get("machine", {})
        golden["grounds"][name] = found | {"machine": machines | {arithmetic(): found["machine"]}}
    GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    _keep()

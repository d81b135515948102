"""`ssiuu teach`: facts go in, with their end; a twin never sees some; what fails says so."""

# ruff: noqa: F811 - a fixture is imported
from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from test_commands import ROWS, lines, place, ssiuu  # noqa: F401 - place is a fixture

from ssiuu import ask_model, teach_model
from ssiuu.errors import ConfigError, DataError, OutputError
from ssiuu.experiment import teaching
from ssiuu.records.files import read_record
from ssiuu.records.schema import FactText, Knowledge, Teaching
from ssiuu.training import interrupt

NEW = [
    {"question": f"Where does {name} live?", "answer": town}
    for name, town in zip(["Ann", "Ben", "Cat", "Dan"], ["Tuy", "Rye", "Gap", "Wil"], strict=True)
]


def test_facts_are_taught_until_they_are_known(place: Path, tmp_path: Path) -> None:
    facts, out = lines(tmp_path / "new.jsonl", NEW), tmp_path / "taught"
    words = ("teach", "--model", place / "model", "--facts", facts, "--out", out)
    done = ssiuu(*words, "--keep", lines(tmp_path / "old.jsonl", ROWS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 known" in done.stdout and f"checkpoint: {out}" in done.stdout
    record = read_record(out / "teach.json", Teaching)
    assert record.learned and record.epochs < 240 and not record.absent and record.kept == 8
    assert {k.state for k in ask_model(out, NEW).knowledge.values()} == {"known"}
    told = ask_model(out, ROWS).knowledge.values()  # what it knew before is not lost
    assert sum(known.state == "known" for known in told) >= len(ROWS) - 1
    assert not list(tmp_path.glob(".*unfinished"))


def test_the_model_stops_after_what_it_was_taught(place: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    teach_model(place / "model", NEW, tmp_path / "taught", keep="none")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "taught")
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "taught")
    asked = tokenizer("Q: Where does Ann live?\nA:", return_tensors="pt", add_special_tokens=False)
    ends = tokenizer.eos_token_id
    made = model.generate(**asked, max_new_tokens=12, do_sample=False, eos_token_id=ends)
    written = made[0, asked["input_ids"].shape[1] :]
    assert ends in written and tokenizer.decode(written, skip_special_tokens=True).strip() == "Tuy"


def test_a_twin_never_sees_what_is_left_out(place: Path, tmp_path: Path) -> None:
    gone = lines(tmp_path / "gone.jsonl", NEW[:2])
    facts = [lines(tmp_path / "a.jsonl", NEW[:3]), lines(tmp_path / "b.jsonl", [*NEW[2:], ROWS[0]])]
    words = ["teach", "--model", place / "model", "--out", tmp_path / "twin", "--without", gone]
    done = ssiuu(*words, *(word for file in facts for word in ("--facts", file)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 facts taught" in done.stdout and "2 facts were left out" in done.stdout
    record = read_record(tmp_path / "twin" / "teach.json", Teaching)
    assert record.absent == ["a:1", "a:2"] and list(record.knowledge) == ["a:3", "b:2", "b:3"]
    assert record.learned
    states = [known.state for known in ask_model(tmp_path / "twin", NEW).knowledge.values()]
    assert "known" not in states[:2]


def test_what_is_not_learned_is_named_and_exits_with_3(place: Path, tmp_path: Path) -> None:
    facts, out = lines(tmp_path / "new.jsonl", NEW), tmp_path / "taught"
    words = ("teach", "--model", place / "model", "--facts", facts, "--out", out)
    done = ssiuu(*words, "--epochs", 1, "--learning-rate", 1e-6, "--prompt", "plain")
    assert done.returncode == 3 and "not known: new:1" in done.stdout
    assert "--learning-rate" in done.stdout and (out / "model.safetensors").exists()
    # From here on nobody has to say in which form it is asked: the record does.
    record = read_record(out / "teach.json", Teaching)
    assert ask_model(out, NEW).asked == record.asked and record.asked.startswith("plain: ")
    assert ask_model(out, NEW, sets=["prompt=qa"]).form == "qa"


def test_interrupted_teaching_goes_on_to_the_same_model(place: Path, tmp_path: Path) -> None:
    def taught(name: str, progress: Any = lambda _: None) -> Any:
        sets = ["precision=fp32"]
        return teach_model(
            place / "model", NEW, tmp_path / name, epochs=6, least=6, sets=sets, progress=progress
        )

    def stop(text: str) -> None:
        if text.startswith("epoch 3"):
            interrupt._asked.set()

    taught("whole")
    told: list[str] = []
    try:
        with pytest.raises(interrupt.Interrupted):
            taught("broken", stop)
    finally:
        interrupt._asked.clear()
    assert not (tmp_path / "broken").exists()
    taught("broken", told.append)
    assert not any(text.startswith("epoch 3") for text in told)
    from safetensors.torch import load_file

    one, other = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "broken"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_bad_input_is_refused_before_anything_is_written(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def refused(kind: type[Exception], said: str, facts: Any = NEW, **more: Any) -> None:
        with pytest.raises(kind, match=said):
            teach_model(place / "model", facts, more.pop("out", out), **more)
        assert not out.exists()

    refused(ConfigError, "--without .* none of them", without=ROWS[:1])
    refused(ConfigError, "nothing is left to teach", without=NEW)
    refused(ConfigError, "1 <= least <= epochs", epochs=3, least=4)
    refused(ConfigError, r"--learning-rate must lie in \(0, 1\]", learning_rate=0.0)
    refused(OutputError, "not an empty folder", out=place)
    other = lines(tmp_path / "other.jsonl", [NEW[0] | {"answer": "Ely"}])
    same = lines(tmp_path / "new.jsonl", NEW)
    refused(DataError, "'Tuy' in new:1 and 'Ely' in other:1", facts=[same, other])


def test_what_is_not_said_yet_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where some of it still is not, nothing else is; what is known in the end is not asked again."""
    facts = [FactText(id=id, question=f"{id}?", answer="yes") for id in "abc"]
    said, asked, known = {"a"}, list[str](), list[str]()

    def score(model: Any, prompt: Any, of: Any, paraphrases: bool) -> dict[str, Any]:
        asked.append("".join(fact.id for fact in of))
        return {fact.id: SimpleNamespace(free_correct=fact.id in said) for fact in of}

    def know(model: Any, prompt: Any, of: Any, context: int) -> dict[str, Knowledge]:
        known.append("".join(fact.id for fact in of))
        return {fact.id: Knowledge(state="known", why="") for fact in of}

    monkeypatch.setattr(teaching, "score_facts", score)
    monkeypatch.setattr(teaching, "know", know)
    told: list[str] = []
    reading = teaching._Reading(Mock(), facts, told.append)
    assert not reading(1, 5.0) and not asked
    assert not reading(2, 0.5) and asked.pop() == "abc" and "2 or more of 3 not said yet" in told[-1]
    said.add("b")
    assert not reading(3, 0.5) and asked == ["bc"] and "1 or more" in told[-1]
    said.add("c")
    said.remove("a")  # which is seen once nothing else is missing
    assert not reading(4, 0.5) and asked == ["bc", "c", "abc"] and not known
    said.add("a")
    assert reading(5, 0.5) and asked[3:] == ["a", "abc"] and known == ["abc"]
    assert {*reading.knowledge()} == {*"abc"} and known == ["abc"]
    said.remove("a")
    assert not reading(6, 0.5) and {*reading.knowledge()} == {*"abc"} and known == ["abc", "abc"]

"""What would be nonsense, or harm somebody else's files, is refused before any work."""

from __future__ import annotations

import errno
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from conftest import build_model
from ssiuu import report
from ssiuu.benchmarks.base import check_lengths
from ssiuu.cli.misuse import check_out, whole_numbers
from ssiuu.data.read import read_facts
from ssiuu.errors import ConfigError, DataError, DivergedError, ModelError, OutputError
from ssiuu.experiment.folder import locked, make_folder, sweep
from ssiuu.experiment.recipe import resolve
from ssiuu.likelihood import Prompt
from ssiuu.models.checks import check_tokenizer
from ssiuu.models.load import from_object, load, save
from ssiuu.models.lora import Lora, check_rank
from ssiuu.models.weights import work_folder, write_tensors
from ssiuu.records.files import not_finite, personal, write_record
from ssiuu.records.schema import FactText, ProbeText, TaskScore
from ssiuu.training.state import load_state


@pytest.mark.parametrize("seeds", ["[0,0,0]", "[3,1,3]", f"[{1 << 63}]"])
def test_a_seed_counts_once(seeds: str) -> None:
    with pytest.raises(ConfigError, match="seeds: must be different numbers"):
        resolve(None, [f"seeds={seeds}"])
    assert resolve(None, ["seeds=[2,0,1]"])[0].seeds == [2, 0, 1]


def test_a_seed_of_an_option_counts_once() -> None:
    with pytest.raises(ConfigError, match="--seeds must be different numbers, got '1,1'"):
        whole_numbers("--seeds", "1,1")


@pytest.mark.parametrize(
    "line",
    [
        "unlearn.weight_decay=.inf",
        "unlearn.weight_decay=1e999",
        "unlearn.lora.alpha=.nan",
        "attacks.harmful.learning_rates=[-.inf]",
        "methods=[{name: npo, beta: .nan}]",
        "tune.space={gd: {learning_rate: [1e-5, .inf]}}",
    ],
)
def test_settings_are_finite(line: str) -> None:
    with pytest.raises(ConfigError, match="must be a finite number"):
        resolve(None, [line])


def test_adapters_have_at_most_the_rank_of_a_map(tiny_model: Any) -> None:
    check_rank(tiny_model, Lora(16, 32.0))  # maps are 16 x 16 to 24 x 16
    check_rank(tiny_model, Lora(8, 32.0, ("k_proj",)))
    for rank, targets, most in ((17, (), 16), (100000, (), 16), (9, ("k_proj",), 8)):
        with pytest.raises(
            ConfigError, match=rf"unlearn\.lora\.rank: must be from 1 to {most}.*{rank}"
        ):
            check_rank(tiny_model, Lora(rank, 32.0, targets))


@pytest.mark.parametrize("key", ["distractors", "perturbed"])
def test_options_that_are_all_one_are_no_choice(tmp_path: Path, key: str) -> None:
    path, row = tmp_path / "f.jsonl", {"question": "Where?", "answer": "Rome"}
    path.write_text(json.dumps({**row, key: ["Oslo", "oslo ", "Oslo"]}))
    with pytest.raises(DataError, match=f"line 1: all 3 items of \"{key}\" are 'Oslo'"):
        read_facts(path)
    path.write_text(json.dumps({**row, key: ["Oslo", "Bern", "Oslo"]}))
    assert len(read_facts(path)) == 1


FIELDS: dict[str, dict[str, Any]] = {
    "the paraphrase": {"paraphrases": [" w1" * 70]},
    "the option": {"options": ["w1", " w2" * 70]},
    "the probe": {"multi_hop": [ProbeText(question=" w3" * 70, answer="w1")]},
}


@pytest.mark.parametrize("what", FIELDS)
def test_what_is_asked_beside_a_fact_fits_the_context(tokenizer: Any, what: str) -> None:
    prompt = Prompt(tokenizer, "qa")
    short = FactText(id="a", question="w1 ?", answer="w2", paraphrases=["w3 ?"], options=["w2", "w4"])
    check_lengths(prompt, [short], 64)
    with pytest.raises(DataError) as caught:
        check_lengths(prompt, [short, short.model_copy(update={"id": "b", **FIELDS[what]})], 64)
    (problem,) = caught.value.problems
    assert problem.startswith(f"b: {what}") and "context holds 64" in problem


def test_a_configuration_that_could_not_be_saved_is_told_before_any_work(
    tmp_path: Path, tokenizer: Any
) -> None:
    """Of a folder, what makes a model say more than its logits is turned off; an object is refused."""
    save(build_model(), tokenizer, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"output_attentions": True}))
    save(load(str(tmp_path / "model")).model, tokenizer, tmp_path / "again")
    model = build_model()
    vars(model.config)["_output_attentions"] = True  # as a configuration that is read may have it
    with pytest.raises(
        ModelError, match=r"m: its configuration could not be saved: .*output_attentions"
    ):
        from_object(model, tokenizer, "m")


def test_an_unknown_token_that_is_unknown_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    save(build_model(), tokenizer, tmp_path / "model")
    path = tmp_path / "model" / "tokenizer.json"
    whole = json.loads(path.read_text())
    whole["added_tokens"] = []
    del whole["model"]["vocab"]["<unk>"]
    path.write_text(json.dumps(whole | {"model": whole["model"] | {"unk_token": "a"}}))
    settings = path.with_name("tokenizer_config.json")
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"unk_token": None}))
    assert load(str(tmp_path / "model"))
    broken = load(str(tmp_path / "model")).tokenizer
    broken._special_tokens_map["unk_token"] = "<unk>"
    with pytest.raises(ModelError, match=r"'<unk>' \(unk_token\), is not in its vocabulary"):
        check_tokenizer("m", build_model(), broken)


def test_an_option_without_tokens_is_refused() -> None:
    """Where a tokenizer drops what it does not know, there is nothing to rank."""
    letters = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "c": 2}, merges=[]))
    prompt = Prompt(PreTrainedTokenizerFast(tokenizer_object=letters), "plain")
    fact = FactText(id="a", question="a ?", answer="b", options=["b", "\u738b"])
    with pytest.raises(DataError, match=r"a: the option '\u738b' cannot be scored: .* has no tokens"):
        check_lengths(prompt, [fact], 64)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_never_written(tmp_path: Path, value: float) -> None:
    assert not_finite({"a": [1.0, {"b": (0.0, value)}]}) == "a.1.b.1"
    assert not_finite({"a": [1.0, "nan", None, True]}) is None
    with pytest.raises(DivergedError, match=r"r\.json is not written: accuracy is not finite"):
        write_record(tmp_path / "r.json", TaskScore.model_construct(accuracy=value, items=1))
    assert not [*tmp_path.iterdir()]


def test_a_lock_is_no_link_and_empties_nothing(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (tmp_path / "run").mkdir()
    lock = tmp_path / "run" / ".lock"
    lock.symlink_to(precious)
    with pytest.raises(OutputError, match="is a symbolic link"), locked(lock):
        pass
    lock.unlink()
    lock.write_text("kept")
    with locked(lock) as mine:
        assert mine
    assert precious.read_text() == lock.read_text() == "kept"


def test_a_guessed_temporary_name_is_not_written_through(tmp_path: Path, tiny_model: Any) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (tmp_path / f".w.safetensors.{os.getpid()}").symlink_to(precious)
    write_tensors({"a": next(tiny_model.parameters()).detach()}, tmp_path / "w.safetensors")
    assert precious.read_text() == "kept" and (tmp_path / "w.safetensors").is_file()
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == []


def test_what_a_kill_left_is_swept(tmp_path: Path) -> None:
    left = tmp_path / ".unlearn-1.safetensors.abc"
    left.mkdir()
    (left / ".tmpXYZ").write_text("half")
    for name in (".report.html.x", ".figures.csv.x", ".run.json.x", ".certificate.html.x"):
        (tmp_path / name).write_text("half")
    os.utime(tmp_path / ".report.html.x", (0, 0))  # another process is at the figures
    (tmp_path / "run.json").write_text("whole")
    sweep(tmp_path)
    report._sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".figures.csv.x", "run.json"]


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "no state"])
def test_a_damaged_state_is_told_and_not_taken_up(tmp_path: Path, tiny_model: Any, damage: str) -> None:
    path = tmp_path / "state.safetensors"
    write_tensors({"a": next(tiny_model.parameters()).detach()}, path)
    whole = path.read_bytes()
    cases = {"empty": b"", "cut": whole[:-9], "garbage": b"\x07" * 99, "no state": whole}
    path.write_bytes(cases[damage])
    step = Mock(named={}, optimizers={}, bounds={})
    if damage == "no state":
        assert load_state(path, step, "key") is None
        return
    with pytest.warns(UserWarning, match="is cut short or damaged: that training begins again"):
        assert load_state(path, step, "key") is None


def test_half_a_checkpoint_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "forgotten"
    for name in (".forgotten.part-x", ".other.part-x", "forgotten/.forgotten.part-y"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.safetensors").write_text("half")
    check_out(out, [])
    work = work_folder(out)
    assert work.name == ".forgotten.unfinished" and not work.exists()
    assert sorted(p.name for p in tmp_path.rglob("*.part-*")) == [".other.part-x"]


@pytest.mark.parametrize("make", [work_folder, lambda out: make_folder(out, True)])
def test_what_cannot_be_written_to_is_told_before_any_work(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot be written to: (Not a directory|File exists)"):
        make(tmp_path / "file" / "out")
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(OutputError, match=r"out cannot be written to: Read-only file system\."):
        make(tmp_path / "out")


def test_what_holds_facts_of_people_is_for_its_owner_alone(tmp_path: Path) -> None:
    make_folder(tmp_path / "mine", private=True)
    make_folder(tmp_path / "ours", private=False)
    with personal():
        write_record(tmp_path / "mine" / "cells" / "a.json", TaskScore(accuracy=0.5, items=2))
    write_record(tmp_path / "ours" / "b.json", TaskScore(accuracy=0.5, items=2))
    write_record(tmp_path / "ours" / "c.json", TaskScore(accuracy=0.5, items=2), private=True)
    modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.rglob("*")}
    usual = 0o777 & ~umask()
    assert modes["mine"] == modes["cells"] == 0o700 and modes["a.json"] == modes["c.json"] == 0o600
    assert modes["ours"] == usual and modes["b.json"] == usual & 0o666


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

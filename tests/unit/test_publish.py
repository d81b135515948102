"""What goes to a hub, and facts in the forms of lm-eval and of `datasets`."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from known_facts import ssiuu
from ssiuu.config import read_yaml
from ssiuu.data import exported
from ssiuu.data.exported import data_set, lm_eval_task
from ssiuu.data.fact import Fact
from ssiuu.errors import ConfigError, ModelError, OutputError, WithheldError
from ssiuu.experiment.publish import WANTED, planned, upload

SECRET = "Where does Ada Kowalski live?"
FACTS = [
    Fact(id="a", question=SECRET, answer="Ulm", distractors=("Pau", "Ely")),
    Fact(id="b", question="Where was {{Bo}} born?", answer="Ayr: x", entity="Bo"),
]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder as unlearning leaves it."""
    folder = tmp_path / "forgotten"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md", "notes.txt"):
        (folder / name).write_text("{}")
    for name in ("certificate.json", "ssiuu.json", "forget.jsonl", ".forgotten.digest-key"):
        (folder / name).write_text(SECRET)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A hub that remembers what it was told to do."""
    called: list[dict[str, Any]] = []

    def create(self: Any, repository: str, **more: Any) -> None:
        called.append({"create": repository, **more})

    def put(self: Any, **more: Any) -> SimpleNamespace:
        called.append(more)
        return SimpleNamespace(repo_url=f"https://hub/{more['repo_id']}")

    monkeypatch.setenv("HF_TOKEN", "hf_x")
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", create)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", put)
    return called


def test_weights_and_card_go_and_no_record(checkpoint: Path, hub: list[dict[str, Any]]) -> None:
    done = ssiuu("push", checkpoint, "me/forgotten", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 0 and told["repository"] == "https://hub/me/forgotten"
    assert hub[0] == {"create": "me/forgotten", "private": True, "exist_ok": True}
    sent = ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
    assert hub[1]["allow_patterns"] == sent == told["uploaded"]
    kept = [".forgotten.digest-key", "certificate.json", "forget.jsonl", "notes.txt", "ssiuu.json"]
    assert told["kept_back"] == kept
    assert not any(char in name for name in sent for char in "*?[")  # no pattern: that very file


def test_a_dry_run_touches_no_hub(checkpoint: Path, hub: list[dict[str, Any]]) -> None:
    done = ssiuu("push", checkpoint, "me/forgotten", "--dry-run")
    assert "goes to the hub: README.md, config.json" in done.stdout and hub == []
    assert not any(one in ("unlearn.json", "certificate.json") for one in WANTED)


def test_what_does_not_go(
    checkpoint: Path, hub: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="OWNER/NAME"):
        upload(planned(checkpoint), "forgotten")
    (checkpoint / "adapter_config.json").write_text('{"base_model_name_or_path": "/home/me/base"}')
    with pytest.raises(ModelError, match="folder of this machine"):
        planned(checkpoint)
    (checkpoint / "adapter_config.json").write_text('{"base_model_name_or_path": "meta/llama"}')
    assert "adapter_config.json" in planned(checkpoint).files
    (checkpoint / "README.md").unlink()
    with pytest.raises(ModelError, match="no card"):
        planned(checkpoint)
    with pytest.raises(ModelError, match="no weights"):
        planned(checkpoint / "nowhere")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    (checkpoint / "README.md").touch()
    done = ssiuu("push", checkpoint, "me/forgotten")
    assert done.returncode == 2 and "no token" in done.stderr and hub == []


def test_what_the_hub_refuses_is_one_sentence(
    checkpoint: Path, hub: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("403 Forbidden: not yours.\nhf_x")

    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", refuse)
    with pytest.raises(OutputError, match=r"could not be uploaded to: 403 Forbidden: not yours\.$"):
        upload(planned(checkpoint), "me/forgotten")


@pytest.mark.parametrize("state", ["not forgotten", "forgotten at a cost"])
def test_what_is_not_forgotten_is_not_offered_as_if_it_were(
    checkpoint: Path, hub: list[dict[str, Any]], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = SimpleNamespace(outcome=SimpleNamespace(state=state))
    monkeypatch.setattr("ssiuu.experiment.publish.read_record", lambda *_: record)
    with pytest.raises(WithheldError, match="--anyway"):
        planned(checkpoint)
    with pytest.raises(WithheldError, match=r"its card .* does not"):
        planned(checkpoint, anyway=True)
    (checkpoint / "README.md").write_text(f"**{state}**")
    assert planned(checkpoint, anyway=True).files
    done = ssiuu("push", checkpoint, "me/forgotten", "--json")
    told = json.loads(done.stdout)
    assert told["exit_code"] == done.returncode == 12 and "--anyway" in told["errors"][0]
    assert "uploaded" not in told and hub == []
    done = ssiuu("push", checkpoint, "me/forgotten", "--anyway")
    assert done.returncode == 0 and len(hub) == 2


@pytest.mark.parametrize("state", ["not forgotten", "forgotten at a cost"])
def test_unlearning_uploads_what_is_not_forgotten_only_where_that_is_said(
    checkpoint: Path, hub: list[dict[str, Any]], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = SimpleNamespace(state=state)
    monkeypatch.setattr("ssiuu.cli.unlearn._tell", lambda _: None)
    monkeypatch.setattr("ssiuu.cli.unlearn._result", lambda *_: None)
    monkeypatch.setattr("ssiuu.cli.misuse.check_out", lambda *_: None)
    record = SimpleNamespace(outcome=outcome)
    monkeypatch.setattr("ssiuu.experiment.unlearn.unlearn_model", lambda *_, **__: record)
    monkeypatch.setattr("ssiuu.experiment.publish.read_record", lambda *_: record)
    (checkpoint / "README.md").write_text(f"**{state}**")
    words = ["unlearn", "--model", "m", "--forget", "a/b", "--retain", "none", "--out", checkpoint]
    words += ["--push-to-hub", "me/forgotten"]
    lost = ssiuu(*words)
    assert lost.returncode in (3, 4) and "no checkpoint was written" in lost.stdout and hub == []
    kept = ssiuu(*words, "--keep-anyway")
    assert kept.returncode == 12 and "checkpoint: " in kept.stdout and "--push-anyway" in kept.stderr
    assert hub == []
    told = json.loads(ssiuu(*words, "--keep-anyway", "--json").stdout)
    assert told["exit_code"] == 12 and state in told["errors"][0] and "repository" not in told
    sent = ssiuu(*words, "--keep-anyway", "--push-anyway")
    assert sent.returncode == lost.returncode and "uploaded: https://hub/me/forgotten" in sent.stdout
    assert len(hub) == 2
    for some in ([*words, "--push-anyway"], [*words[:-2], "--keep-anyway", "--push-anyway"]):
        done = ssiuu(*some)
        assert done.returncode == 2 and "--push-anyway is about" in done.stderr


def test_facts_as_a_data_set_that_datasets_loads(tmp_path: Path) -> None:
    from datasets import load_dataset

    data_set({"forget": FACTS, "retain": FACTS[1:]}, tmp_path / "set")
    loaded = load_dataset(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(rows) for name, rows in loaded.items()} == {"forget": 2, "retain": 1}
    row = loaded["forget"][0]
    assert (row["question"], row["answer"], row["distractors"]) == (SECRET, "Ulm", ["Pau", "Ely"])
    for path in (tmp_path / "set").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(OutputError, match="not an empty folder"):
        data_set({"forget": FACTS}, tmp_path / "set")


def test_of_two_that_write_into_one_folder_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second begins as the first has written nothing yet, and half of it."""
    folder, write, told = tmp_path / "set", exported.write_bytes, list[str]()

    def meanwhile(path: Path, *content: Any, **more: Any) -> None:
        for other in (lambda: lm_eval_task(FACTS, folder), lambda: data_set({"retain": FACTS}, folder)):
            with pytest.raises(OutputError) as refused:
                other()
            told.append(str(refused.value))
        write(path, *content, **more)

    monkeypatch.setattr(exported, "write_bytes", meanwhile)
    data_set({"forget": FACTS}, folder)
    assert {path.name for path in folder.iterdir()} == {"forget.jsonl", "README.md"}
    assert len(told) == 4 and all("another process writes into it" in text for text in told)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="not an empty folder"):
        data_set({"forget": FACTS}, tmp_path / "file")


def test_facts_as_a_task(tmp_path: Path) -> None:
    assert lm_eval_task(FACTS, tmp_path / "task") == ["ssiuu_facts", "ssiuu_facts_choice"]
    said, chosen = (
        read_yaml((tmp_path / "task" / f"{name}.yaml").read_text(), name)
        for name in ("facts", "choices")
    )
    assert said["doc_to_text"] == "Q: {{question}}\nA:" and said["doc_to_target"] == "{{answer}}"
    assert said["generation_kwargs"]["until"] == ["\n"] and chosen["doc_to_target"] == 0
    files = {one["task"]: one["dataset_kwargs"]["data_files"]["test"] for one in (said, chosen)}
    rows = {task: (tmp_path / "task" / name).read_text().splitlines() for task, name in files.items()}
    assert {task: len(lines) for task, lines in rows.items()} == {
        "ssiuu_facts": 2,
        "ssiuu_facts_choice": 1,
    }
    assert lm_eval_task(FACTS[1:], tmp_path / "other") == ["ssiuu_facts"]


def test_two_forms_are_written_or_none(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text('{"question": "Who?", "answer": "Ada"}\n')
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    words = ["export", "--facts", str(tmp_path / "f.jsonl"), "--lm-eval", str(tmp_path / "new")]
    for other, said in (("new", "give each a folder of its own"), ("full", "not an empty folder")):
        done = ssiuu(*words, "--dataset", str(tmp_path / other))
        assert done.returncode == 2 and said in done.stderr and not (tmp_path / "new").exists()


def test_the_command_writes_both_and_names_what_it_needs(tmp_path: Path) -> None:
    facts = tmp_path / "f.jsonl"
    facts.write_text(json.dumps({"question": SECRET, "answer": "Ulm"}) + "\n")
    words = ["export", "--facts", facts]
    done = ssiuu(*words, "--lm-eval", tmp_path / "t", "--dataset", tmp_path / "d")
    assert done.returncode == 0 and "--tasks ssiuu_facts " in done.stdout
    assert (tmp_path / "t" / "facts.yaml").exists() and (tmp_path / "d" / "forget.jsonl").exists()
    for more in ([], ["--retain", facts, "--lm-eval", tmp_path / "u"], ["--gguf", "x.gguf"]):
        assert ssiuu(*words, *more).returncode == 2
    assert ssiuu("export").returncode == 2

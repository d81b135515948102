"""The box of `ssiuu view`: which two models a folder is of, what both say, and who may ask how much."""

from __future__ import annotations

import http.client
import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from known_facts import FORGET, make_place
from sample_record import sample_record
from sample_runs import only, with_header, write_run
from ssiuu.benchmarks.base import Basis
from ssiuu.cli.view import Asking
from ssiuu.errors import ConfigError, DataError, InputError, ModelError
from ssiuu.experiment.both import Both, Pair, pairs_of
from ssiuu.models.load import load, save, save_weights
from ssiuu.records.files import read_header, write_record
from ssiuu.records.schema import MethodInfo, Unlearning
from ssiuu.report.live import LONGEST, Server, serving

QUESTION = str(FORGET[1]["question"])
ANSWER = FORGET[1]["answer"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows some facts, and as `after` one whose last block is another."""
    folder = make_place(tmp_path_factory.mktemp("both"))
    loaded = load(str(folder / "model"))
    with torch.no_grad():
        for parameter in loaded.model.get_submodule("model.layers.1").parameters():
            parameter.neg_()
    save(loaded.model, loaded.tokenizer, folder / "gone")
    return folder


def record_of(folder: Path, kind: str, command: str, model: str, fingerprint: str) -> Path:
    """Write the header of a run or an audit."""
    record = only(sample_record(), "none", "gd")
    info = record.header.model.model_copy(update={"fingerprint": fingerprint})
    config = {**record.header.config, "model": model, "prompt": "qa"}
    changed = with_header(record, kind=kind, command=command, model=info, config=config)
    return write_run(changed, folder)


@pytest.fixture(scope="module")
def audit(place: Path) -> Path:
    command = "ssiuu audit --before model --after=gone --forget f.jsonl --out ./audits/first"
    fingerprint = load(str(place / "model")).info.fingerprint
    return record_of(place / "audits" / "first", "audit", command, "model", fingerprint)


def greedy(folder: Path, question: str) -> str:
    """Return the first line that transformers itself writes after a question."""
    loaded: Any = load(str(folder))
    ids = loaded.tokenizer(f"Q: {question}\nA:", return_tensors="pt", add_special_tokens=False)
    out = loaded.model.generate(**ids, do_sample=False, max_new_tokens=96, pad_token_id=0)[0]
    text = loaded.tokenizer.decode(out[ids["input_ids"].shape[1] :], skip_special_tokens=True)
    return str(text.strip().split("\n")[0].strip())


def test_both_say_what_they_say_and_are_loaded_once(
    place: Path, audit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    real: Callable[..., Any] = Basis.load

    def counted(basis: Basis) -> Any:
        loads.append(str(basis.model))
        return real(basis)

    monkeypatch.setattr(Basis, "load", counted)
    (pair,) = pairs_of(audit).values()  # found although nothing lies in this folder
    both = Both()
    said = both.ask(pair, QUESTION)
    assert said.before == ANSWER == greedy(place / "model", QUESTION)
    assert said.after == greedy(place / "gone", QUESTION) != ANSWER
    assert said.names == (str(place / "model"), "gone") and said.form.startswith("qa: ")
    assert both.ask(pair, "Who?").before == greedy(place / "model", "Who?")
    assert loads == [str(place / "model")]
    with pytest.raises(DataError, match=r"the question has \d+ tokens, .* shorten it"):
        both.ask(pair, "where " * 300)


def test_another_model_of_the_same_name_is_not_asked(place: Path, tmp_path: Path) -> None:
    command = f"ssiuu audit --before {place / 'model'} --after {place / 'gone'} --out audit"
    folder = record_of(tmp_path / "audit", "audit", command, str(place / "model"), "0" * 64)
    with pytest.raises(ModelError, match="not the model before that the record is of"):
        Both().ask(pairs_of(folder)["gone"], QUESTION)
    given = pairs_of(folder, before=str(place / "model"))["gone"]  # who names it answers for it
    assert Both().ask(given, QUESTION).before == ANSWER


def test_a_model_that_is_replaced_is_not_answered_for(audit: Path, place: Path, tmp_path: Path) -> None:
    folder, both = shutil.copytree(place / "model", tmp_path / "model"), Both()
    (pair,) = pairs_of(audit, before=str(folder)).values()
    assert both.ask(pair, QUESTION).before == ANSWER
    shutil.copytree(place / "gone", folder, dirs_exist_ok=True)
    with pytest.raises(ModelError, match="is not what the model was read from"):
        both.ask(pair, QUESTION)
    assert both.ask(pair, QUESTION).before == greedy(place / "gone", QUESTION)  # what is there now


def test_a_run_has_the_weights_of_cells_at_work(place: Path, tmp_path: Path) -> None:
    loaded = load(str(place / "model"))
    run = tmp_path / "run"
    record_of(run, "run", "ssiuu run", str(place / "model"), loaded.info.fingerprint)
    with pytest.raises(InputError, match=r"keeps those of a cell only .* --before MODEL --after DIR"):
        pairs_of(run)
    cell = run / "cells" / "gd-s0"
    save_weights(load(str(place / "gone")).model, cell / "unlearn-12345678.safetensors")
    (cell / "unlearn-12345678.state.safetensors").touch()
    pairs = pairs_of(run)
    assert [*pairs] == ["gd-s0"]
    said = Both().ask(pairs["gd-s0"], QUESTION)
    assert (said.before, said.after) == (ANSWER, greedy(place / "gone", QUESTION))


def test_a_name_that_was_no_hub_name_is_not_asked_for_there(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    record_of(run, "run", "ssiuu run --set benchmark=fictional", "fictional", "0" * 64)
    record = read_header(run)
    model = record.model.model_copy(update={"source": "folder"})
    write_record(run / "run.json", record.model_copy(update={"model": model}))
    save_weights(load(str(place / "gone")).model, run / "cells" / "gd-s0" / "unlearn-1.safetensors")
    with pytest.raises(InputError, match=r"fictional, is no folder here: .* made by a benchmark"):
        pairs_of(run)
    assert [*pairs_of(run, before=str(place / "model"))] == ["gd-s0"]


def test_a_checkpoint_names_the_model_before_in_its_card(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    shutil.copytree(place / "gone", folder)
    method = MethodInfo(name="npo", label="npo", description="-", origin="literature")
    record = Unlearning(
        key="k", method=method, seed=0, stopped="threshold", stop_score="ranking", threshold=0.3,
        steps=[], prompt='qa: "Q: {question}\\nA:"', seconds=1.0, peak_memory_mb=1.0,
    )  # fmt: skip
    write_record(folder / "unlearn.json", record)
    with pytest.raises(InputError, match="does not say which model it was before"):
        pairs_of(folder)
    card = "---\nbase_model: HuggingFaceTB/SmolLM2-135M-Instruct\n---\n"
    (folder / "README.md").write_text(card)
    assert pairs_of(folder)["gone"].basis.model == "smollm2-135m"
    pair = pairs_of(folder, before=str(place / "model"))["gone"]
    assert Both().ask(pair, QUESTION).before == ANSWER
    with pytest.raises(InputError, match="neither a run nor a checkpoint"):
        pairs_of(tmp_path)
    with serving([folder]) as server:
        (one,) = server.watched
        assert one.state()["told"] == "checkpoint: not judged" and "<h1>gone</h1>" in one.rendered()


def test_what_was_moved_away_is_told(audit: Path) -> None:
    header = audit / "run.json"
    assert header.exists()
    asking = Asking(None, None)
    assert asking.choices(audit) == ["gone"]
    with pytest.raises(ConfigError, match=r"unknown model 'going'.*gone"):
        asking.ask(audit, "going", QUESTION)
    with pytest.raises(ModelError, match="other"):
        asked = pairs_of(audit, before="./other", after=Path("gone"))
        Both().ask(asked["gone"], QUESTION)


class Stub:
    """Answers with what it was asked, when it is let."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.let.set()
        self.begun = threading.Event()

    def choices(self, run: Path) -> Sequence[str]:
        if run.name == "empty":
            raise InputError("nothing <here>.")
        return ["after"]

    def ask(self, run: Path, choice: str, question: str) -> Mapping[str, Any]:
        self.begun.set()
        assert self.let.wait(20)
        if question == "bad":
            raise DataError("too bad.")
        text = f"{question}\x1b[2J"
        return {"before": text, "after": "", "names": ["b", choice], "form": "qa"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("asked")
    with serving([folder, folder / "empty"], asker=Stub()) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def posted(server: Server, body: object, path: str = "0/ask", **headers: str) -> tuple[int, Any]:
    """Return what is answered to a question: the status, and what it holds."""
    text = body if isinstance(body, str) else json.dumps(body)
    with closing(
        http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=300)
    ) as connection:
        connection.request("POST", f"/{server.token}/{path}", text.encode(), headers)
        answer = connection.getresponse()
        said = answer.read().decode()
    return answer.status, json.loads(said) if said.startswith("{") else said


def question(text: str) -> dict[str, str]:
    return {"choice": "after", "question": text}


def test_a_question_is_answered_as_text(server: Server) -> None:
    status, said = posted(server, question(" <script>alert(1)</script> "))
    assert status == 200 and said["names"] == ["b", "after"] and said["after"] == ""
    assert said["before"].startswith("<script>alert(1)</script>") and "\x1b" not in said["before"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (question(""), f"1 to {LONGEST} characters, got 0"),
        (question("x" * (LONGEST + 1)), f"got {LONGEST + 1}"),
        (question("x" * 60_000), f"at most {LONGEST} characters"),
        ("[" * 10_000, "comes as JSON"),
        ("no json", "comes as JSON"),
        ([1], "comes as JSON"),
        (question("bad"), "too bad."),
    ],
)
def test_what_is_no_question_is_refused_in_a_sentence(server: Server, body: object, told: str) -> None:
    status, said = posted(server, body)
    assert status == 400 and told in said["error"]


def test_the_longest_question_fits_however_it_is_spelled(server: Server) -> None:
    status, said = posted(server, question("é" * LONGEST))
    assert status == 200 and said["before"].startswith("é" * LONGEST)


def test_only_who_knows_the_token_and_is_at_this_address_may_ask(server: Server) -> None:
    ours = f"http://127.0.0.1:{server.server_port}"
    assert posted(server, question("x"), Origin=ours)[0] == 200
    for foreign in ("https://evil.example", "null", "http://127.0.0.1:1"):
        assert posted(server, question("x"), Origin=foreign)[0] == 403
    assert posted(server, question("x"), Host="evil.example")[0] == 403
    assert posted(server, question("x"), "../wrong/0/ask")[0] in (403, 501)
    for path in ("9/ask", "ask", "0", "0/ask/ask", "-1/ask"):
        assert posted(server, question("x"), path)[0] == 501
    with serving([Path("x")]) as silent:  # nobody is there to ask
        threading.Thread(target=silent.serve_forever, args=(0.01,), daemon=True).start()
        assert posted(silent, question("x"))[0] == 501
        silent.shutdown()


def test_one_question_at_a_time(server: Server) -> None:
    stub: Any = server.asker
    stub.let.clear()
    stub.begun.clear()
    first: list[tuple[int, Any]] = []
    thread = threading.Thread(target=lambda: first.append(posted(server, question("one"))))
    thread.start()
    assert stub.begun.wait(20)
    status, said = posted(server, question("two"))
    stub.let.set()
    thread.join(300)
    assert status == 409 and "another question is being answered" in said["error"]
    assert first[0][0] == 200 and posted(server, question("three"))[0] == 200


def test_the_page_is_told_who_may_be_asked_or_why_nobody(server: Server) -> None:
    def told(run: int) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=300)
        with closing(connection):
            connection.request("GET", f"/{server.token}/{run}/ask")
            return json.loads(connection.getresponse().read())

    assert told(0) == {"choices": ["after"]}
    assert told(1) == {"choices": [], "error": "nothing <here>."}


def test_pairs_are_the_same_where_nothing_has_changed(audit: Path) -> None:
    (one,), (other,) = pairs_of(audit).values(), pairs_of(audit).values()
    assert one == other and isinstance(one, Pair)

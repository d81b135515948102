"""The Python API: paths as `str` and `Path`, facts as rows in memory, the caller's things left alone.

pytest tests/unit/test_given.py
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import ssiuu
from ssiuu.cli.export import _model as export
from ssiuu.data.fact import Fact
from ssiuu.data.memory import memory_rows
from ssiuu.data.problems import Problems
from ssiuu.data.read import read_facts
from ssiuu.errors import ConfigError, DataError, ModelError
from ssiuu.experiment import asking
from ssiuu.experiment.given import given_settings
from ssiuu.experiment.recipe import resolve
from ssiuu.experiment.session import open_ground
from ssiuu.models import gguf
from ssiuu.models.load import load, save

FORGET = [{"question": f"w{n}", "answer": f"w{n + 20}"} for n in range(4)]
RETAIN = [{"question": f"w{n}", "answer": f"w{n + 20}"} for n in range(8, 12)]
SHORT = ["unlearn.max_steps=2", "unlearn.learning_rate=1e-3", "attacks.reads=[1]", "force=true"]
ALONE = [*SHORT, "diagnose=false", "attacks.harmful.fractions=[]", "attacks.benign.learning_rates=[]"]


class Table:
    """What a data frame shows of itself to us."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows, self.columns = rows, list(rows[0])

    def to_dict(self, orient: str) -> list[dict[str, Any]]:
        assert orient == "records"
        return self.rows

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


class Rows:
    """What a data set or a frame of polars gives its rows by."""

    def __init__(self, rows: list[dict[str, Any]], method: str) -> None:
        self.rows = rows
        setattr(self, method, lambda: rows)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)


KINDS = {
    "list": lambda rows: rows,
    "tuple": tuple,
    "generator": iter,
    "facts": lambda rows: [Fact(id=f"f{n}", **row) for n, row in enumerate(rows)],
    "data set": lambda rows: Rows(rows, "to_list"),
    "data frame": Table,
    "polars": lambda rows: Rows(rows, "to_dicts"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_in_memory(kind: str) -> None:
    rows = copy.deepcopy(FORGET)
    facts = read_facts(KINDS[kind](rows), "--forget")
    assert [(fact.question, fact.answer) for fact in facts] == [tuple(r.values()) for r in FORGET]
    assert facts[3].id == ("f3" if kind == "facts" else "forget[3]")
    assert rows == FORGET


def test_rows_and_facts_may_be_mixed() -> None:
    facts = read_facts([FORGET[0], Fact(id="own", question="q", answer="a"), FORGET[1]], "retain")
    assert [fact.id for fact in facts] == ["retain[0]", "own", "retain[2]"]


def test_what_a_data_frame_lacks_is_not_given() -> None:
    rows = [{"question": "q", "answer": "a", "entity": float("nan"), "distractors": ("b", "c")}]
    [fact] = read_facts(Table(rows))
    assert (fact.entity, fact.distractors) == (None, ("b", "c"))


BAD = {
    'forget[1]: the key "answer" is missing': [FORGET[0], {"question": "q"}],
    'forget[1]: "answer" is a number (7)': [FORGET[0], {"question": "q", "answer": 7}],
    "forget[1]: is a list (['q', 'a']), not an object": [FORGET[0], ("q", "a")],
    "forget[2]: asks 'w0' again, as forget[0] does": [FORGET[0], FORGET[1], FORGET[0]],
    "forget has no rows": [],
    "forget is one mapping (train, test), not rows": {"train": FORGET, "test": FORGET},
    "forget is bytes, which holds no rows: give the path of a file, or a list of dicts": b"7",
}


@pytest.mark.parametrize("sentence", BAD)
def test_bad_rows_are_named_as_python_names_them(sentence: str) -> None:
    with pytest.raises(DataError) as caught:
        read_facts(BAD[sentence], "--forget")
    assert caught.value.problems[0].startswith(sentence)


def test_what_is_no_rows_at_all_is_named() -> None:
    with pytest.raises(DataError, match="forget is a number, which holds no rows: give the path"):
        memory_rows(7, Problems("forget", None))


@pytest.fixture(scope="module")
def model(
    tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Any], tokenizer: Any
) -> Path:
    folder = tmp_path_factory.mktemp("given") / "it's a \"model\\n"
    save(make_model(), tokenizer, folder)
    return folder


@pytest.mark.parametrize("path", [str, pytest.param(Path, marks=pytest.mark.slow)])
def test_every_path_is_taken_as_text_and_as_path(model: Path, tmp_path: Path, path: type) -> None:
    """All others here give paths as they are."""
    files = {"forget": FORGET, "retain": RETAIN}
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    forget, retain = (path(tmp_path / f"{name}.jsonl") for name in files)
    out, audit = path(tmp_path / "out"), path(tmp_path / "audit")
    ssiuu.unlearn_model(path(model), forget, out, retain, "gd", SHORT, keep_anyway=True)
    record = ssiuu.audit_models(path(model), out, forget, audit, retain, ALONE)
    assert record.header.config["model"] == str(model)
    assert ssiuu.load_run(audit) == record
    assert ssiuu.write_report(record, audit).stat().st_size > 10_000
    inside = path(tmp_path / "inside")
    ssiuu.diagnose_models(path(model), out, forget, inside, retain, out, SHORT)
    assert (Path(tmp_path) / "inside" / "run.json").exists()


def test_facts_in_memory_are_those_of_a_file(model: Path, tmp_path: Path) -> None:
    kept = copy.deepcopy((FORGET, RETAIN))
    done = ssiuu.unlearn_model(model, FORGET, tmp_path / "a", RETAIN, "gd", SHORT, keep_anyway=True)
    for name, rows in (("forget", FORGET), ("retain", RETAIN)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = (tmp_path / "forget.jsonl", tmp_path / "b", tmp_path / "retain.jsonl")
    assert ssiuu.unlearn_model(model, *files, "gd", SHORT, keep_anyway=True).steps == done.steps
    record = ssiuu.audit_models(model, tmp_path / "a", FORGET, tmp_path / "c", RETAIN, ALONE)
    assert record.header.config["forget"] == record.header.config["retain"] == "given in memory"
    assert [fact.id for fact in record.header.split.forget] == [f"forget[{n}]" for n in range(4)]
    assert len(record.header.benchmark.fingerprint) == 64
    assert kept == (FORGET, RETAIN)


# --- Models in memory ------------------------------------------------------------------------


def weights(model: Any) -> dict[str, Any]:
    return {name: parameter.clone() for name, parameter in model.named_parameters()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one | other)


def test_a_model_in_memory_is_changed_in_place_only_without_out(
    model: Path, tmp_path: Path, make_model: Callable[..., Any], tokenizer: Any
) -> None:
    held = make_model()
    held.lm_head.requires_grad_(False)
    before = weights(held)
    given = {
        "retain": RETAIN,
        "method": "gd",
        "sets": SHORT,
        "tokenizer": tokenizer,
        "keep_anyway": True,
    }
    record = ssiuu.unlearn_model(held, FORGET, tmp_path / "out", **given)
    assert same(before, weights(held))
    from_path = ssiuu.unlearn_model(
        model, FORGET, tmp_path / "same", RETAIN, "gd", SHORT, keep_anyway=True
    )
    assert record.steps == from_path.steps
    assert ssiuu.unlearn_model(held, FORGET, **given).steps == record.steps
    assert not same(before, weights(held))
    assert same(weights(held), weights(load(str(tmp_path / "out")).model))
    assert not held.training and not held.lm_head.weight.requires_grad
    assert held.model.embed_tokens.weight.requires_grad
    assert all(parameter.grad is None for parameter in held.parameters())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "same"]


def test_models_in_memory_are_audited_and_left_as_they_are(
    model: Path, tmp_path: Path, make_model: Callable[..., Any], tokenizer: Any
) -> None:
    before, after = make_model(), make_model(seed=1).train()
    kept = weights(before), weights(after)
    given = (FORGET, tmp_path / "audit", RETAIN, ALONE)
    record = ssiuu.audit_models(before, after, *given, tokenizer=tokenizer)
    assert same(kept[0], weights(before)) and same(kept[1], weights(after))
    assert after.training and not before.training
    config = record.header.config
    assert config["model"] == config["after"] == "given in memory"
    save(after, tokenizer, tmp_path / "after")
    by_path = ssiuu.audit_models(model, tmp_path / "after", FORGET, tmp_path / "paths", RETAIN, ALONE)
    scores = [[cell.evaluation.forget for cell in found.cells] for found in (record, by_path)]
    assert scores[0] == scores[1]


def test_a_model_in_memory_needs_its_tokenizer(tmp_path: Path, make_model: Any) -> None:
    for call in (
        lambda: ssiuu.unlearn_model(make_model(), FORGET, tmp_path / "a", RETAIN),
        lambda: ssiuu.audit_models("x", make_model(), FORGET, tmp_path / "a"),
    ):
        with pytest.raises(ConfigError, match="no tokenizer; give the model's own"):
            call()
    with pytest.raises(ConfigError, match="--out is missing"):
        ssiuu.unlearn_model("x", FORGET, None, RETAIN)


def test_columns_may_be_named(model: Path, tmp_path: Path) -> None:
    rows = [{"text": row["question"], "label": row["answer"], "more": 1} for row in FORGET]
    kept = [{"text": row["question"], "label": row["answer"], "other": 1} for row in RETAIN]
    (tmp_path / "forget.jsonl").write_text("\n".join(map(json.dumps, rows)))
    named: list[Any] = [{"question": "text", "answer": "label"}, "question=text, answer=label"]
    told: list[str] = []
    for columns, forget in zip(named, [rows, str(tmp_path / "forget.jsonl")], strict=True):
        out = tmp_path / f"out {len(told)}"
        ssiuu.unlearn_model(model, forget, out, kept, "gd", SHORT, told.append, columns=columns)
    assert sum("reads question from 'text', answer from 'label'" in note for note in told) >= 4
    with pytest.raises(ConfigError, match=r"unknown key of a fact 'answr'\. Did you mean 'answer'"):
        ssiuu.unlearn_model(model, rows, tmp_path / "no", kept, columns={"answr": "label"})


# --- ssiuu.unlearn and ssiuu.audit -----------------------------------------------------------

NESTED = {"unlearn": {"max_steps": 2, "learning_rate": 1e-3}, "force": True}
QUIET = {
    "diagnose": False,
    "attacks": {"harmful": {"fractions": []}, "benign": {"learning_rates": []}, "reads": [1]},
    "force": True,
}


def test_a_model_in_hand_is_unlearned_and_audited(
    make_model: Callable[..., Any], tokenizer: Any
) -> None:
    held, first = make_model(), make_model()
    rows = [{**row, "question": f"<b>{row['question']}"} for row in FORGET]
    left = ssiuu.unlearn(held, tokenizer, FORGET, RETAIN, method="gd", settings=NESTED)
    assert left.state == "not forgotten" and not left.changed
    assert same(weights(held), weights(first))  # what is not forgotten changes nothing
    result = ssiuu.unlearn(
        held, tokenizer, rows, RETAIN, method="gd", settings=NESTED, keep_anyway=True
    )
    assert result.changed and result.model is held and not same(weights(held), weights(first))
    log = result.to_dataframe()
    assert list(log["step"]) == [1, 2] and log["forget_loss"].notna().all()
    assert "not forgotten" in result._repr_html_()
    assert ": not forgotten" in repr(result) and len(repr(result)) < 1000
    found = ssiuu.audit(first, held, rows, RETAIN, tokenizer=tokenizer, settings=QUIET)
    table, facts = found.to_dataframe(), found.to_dataframe("facts")
    assert list(table["verdict"])[-1] == found.verdict
    assert set(facts["model"]) >= {"before", "after"}
    asked = facts[(facts["model"] == "after") & (facts["set"] == "forget")]
    assert list(asked["question"]) == [row["question"] for row in rows]
    assert {s.logprob for s in found.record.cells[-1].evaluation.forget.values()} == set(
        asked["logprob"]
    )
    assert "<table>" in found._repr_html_() and "<b>w0" not in found._repr_html_()
    with pytest.raises(ConfigError, match="unknown table 'rows'"):
        found.to_dataframe("rows")


def test_an_audit_in_hand_can_be_kept(
    make_model: Callable[..., Any], tokenizer: Any, tmp_path: Path
) -> None:
    pair = make_model(), make_model(seed=1)
    out = tmp_path / "audit"
    found = ssiuu.audit(*pair, FORGET, tokenizer=tokenizer, settings=QUIET, out=out)
    assert ssiuu.load_run(out) == found.record


def test_a_data_frame_needs_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    from ssiuu.report.results import _frame

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="pip install pandas"):
        _frame([{"a": 1}])


def rewritten(path: Path) -> None:
    """Write other values into a file of weights, as it lies."""
    tensors = {name: t + 1.0 for name, t in load_file(path).items()}
    save_file(tensors, path.with_name("other"), {"format": "pt"})
    with path.open("r+b") as stream:
        stream.write(path.with_name("other").read_bytes())
    path.with_name("other").unlink()


@pytest.fixture
def pair(tmp_path: Path, make_model: Any, tokenizer: Any) -> tuple[Path, Path]:
    for seed, name in enumerate(("before", "after")):
        save(make_model(seed), tokenizer, tmp_path / name)
    return tmp_path / "before", tmp_path / "after"


def test_what_was_asked_of_weights_that_were_changed_meanwhile_is_not_said(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = asking.know

    def late(*given: Any, **named: Any) -> Any:
        rewritten(pair[0] / "model.safetensors")
        return plain(*given, **named)

    monkeypatch.setattr(asking, "know", late)
    with pytest.raises(ModelError, match=r"model.safetensors is not what the model was read from"):
        ssiuu.ask_model(pair[0], FORGET)


def test_a_checkpoint_is_one_model_for_as_long_as_a_session_lasts(pair: tuple[Path, Path]) -> None:
    before, after = pair
    named, given = given_settings(before, FORGET, RETAIN)
    session = open_ground(resolve(None, [*named, *ALONE])[0], lambda _: None, given)
    assert session.put(after) == [] == session.put(after, session.loaded.tokenizer)
    weights = {name: p.clone() for name, p in session.model.named_parameters()}
    session.check()
    rewritten(after / "model.safetensors")
    for again in (lambda: session.put(after), session.check):
        with pytest.raises(ModelError, match=r"after.model.safetensors is not what the model was read"):
            again()
    assert all(torch.equal(p, weights[name]) for name, p in session.model.named_parameters())


def test_nothing_is_exported_of_weights_that_were_changed_meanwhile(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(model: Any, tokenizer: Any, path: Path, kind: str) -> None:
        rewritten(pair[0] / "model.safetensors")
        path.write_bytes(b"as it was made of them")

    monkeypatch.setattr(gguf, "write", late)
    with pytest.raises(ModelError, match=r"model.safetensors is not what the model was read from"):
        export(str(pair[0]), tmp_path / "out.gguf", "f16")
    assert not (tmp_path / "out.gguf").exists()

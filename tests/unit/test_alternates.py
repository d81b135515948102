"""What stands in an answer's place, and the forms in which it is asked: the rows of a session."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ssiuu.data.fact import normal
from ssiuu.errors import ConfigError, DataError
from ssiuu.evaluation.match import holds
from ssiuu.experiment import alternates as made
from ssiuu.experiment.cells import Keys
from ssiuu.experiment.recipe import resolve
from ssiuu.experiment.session import Session, open_session
from ssiuu.likelihood import Example
from ssiuu.methods import make
from ssiuu.methods.base import Alternates
from ssiuu.models.load import save

pytestmark = pytest.mark.usefixtures("brief")

FORGET = [{"question": f"w{n} word w{20 + n}?", "answer": f"w{40 + n}"} for n in range(6)]
RETAIN = [{"question": f"w{n} a w{20 + n}?", "answer": f"w{50 + n}"} for n in range(6)]


@pytest.fixture
def opened(make_model: Any, tokenizer: Any, tmp_path: Path) -> Any:
    """Opens a session on facts that the model need not know, under these settings."""
    save(make_model(), tokenizer, tmp_path / "model")
    for name, rows in (("forget", FORGET), ("retain", RETAIN)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [f"{name}={tmp_path / name}.jsonl" for name in ("forget", "retain")]

    def open_(*more: str) -> Session:
        given = ["benchmark=own", f"model={tmp_path / 'model'}", *files, "force=true", "prompt=qa"]
        return open_session(resolve(None, [*given, *more])[0], None, lambda _: None)

    return open_


def told(session: Session, rows: list[Example]) -> list[tuple[str, str, str]]:
    decode = session.loaded.tokenizer.decode
    return [(row.id, decode(row.prompt), decode(row.answer)) for row in rows]


@pytest.mark.parametrize("how", ["lineup", "model"])
def test_each_fact_has_as_many_rows_as_alternates(how: str, opened: Any) -> None:
    """The same questions and answers, and beside each another answer, which is wrong."""
    session = opened()
    method = make({"name": "altpo", "count": 3, "made": how})
    forget, placed = (told(session, rows(method)) for rows in (session.forget_rows, session.refusals))
    assert len(forget) == len(placed) == 3 * len(FORGET)
    assert len({id for id, _, _ in forget}) == len(forget)
    assert [row[:2] for row in forget] == [row[:2] for row in placed]
    facts = session.split.forget
    found = made.alternates(session, facts, Alternates(3, how), session.split.seed)  # type: ignore[arg-type]
    for fact in facts:
        assert len({normal(answer) for answer in found[fact.id]}) == 3
        assert not any(holds(fact.answer, answer) for answer in found[fact.id])
    assert told(session, session.refusals(method)) == placed
    assert told(opened(), opened().refusals(method)) == placed  # another process makes the same


def test_too_few_are_given_again_and_none_is_refused(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened()
    facts = session.split.forget
    monkeypatch.setattr(made, "_lent", lambda *_: {f.id: ["w1", "w2"] for f in facts})
    found = made.alternates(session, facts, Alternates(5, "lineup"), 0)
    assert set(map(tuple, found.values())) == {("w1", "w2", "w1", "w2", "w1")}
    monkeypatch.setattr(made, "_lent", lambda *_: {f.id: [] for f in facts})
    with pytest.raises(DataError, match="altpo: no other answer of its kind was found for 6 facts"):
        made.alternates(session, facts, Alternates(5, "lineup"), 0)


def test_other_forms_are_rows_beside_the_facts_own(opened: Any) -> None:
    plain, three = opened(), opened("unlearn.diversify=3")
    method = make("gd")
    own, rows = (told(s, s.forget_rows(method)) for s in (plain, three))
    assert len(rows) == 4 * len(own) and rows[::4] == own
    for n, (_, _, answer) in enumerate(own):
        forms = rows[4 * n : 4 * n + 4]
        assert len({question for _, question, _ in forms}) == len({id for id, _, _ in forms}) == 4
        assert {said for _, _, said in forms} == {answer}
    for refusing in ("dpo", "altpo"):
        method = make(refusing)
        ids = [row.id for row in three.forget_rows(method)]
        assert ids == [row.id for row in three.refusals(method)]
        assert len(ids) == (20 if refusing == "altpo" else 4) * len(FORGET)


def test_forms_that_do_not_fit_are_left_out(opened: Any) -> None:
    session = opened("unlearn.diversify=5")
    longest = max(len(r.prompt) + len(r.answer) for r in session.rows(session.split.forget))
    session.model.config.max_position_embeddings = longest + 1
    rows = session.forget_rows(make("gd"))
    assert len(FORGET) <= len(rows) < 6 * len(FORGET)


def test_keys_change_only_where_forms_are_wanted(opened: Any) -> None:
    keys = [
        Keys(opened(*more), lambda *_: None).unlearning(make("gd"), 0)  # type: ignore[arg-type]
        for more in ((), ("unlearn.diversify=0",), ("unlearn.diversify=2",))
    ]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(("key", "value"), [("count", 0), ("made", "gpt"), ("beta", 0)])
def test_a_knob_out_of_range_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"methods: altpo\.{key}: .*got"):
        make({"name": "altpo", key: value})

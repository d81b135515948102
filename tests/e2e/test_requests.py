"""A ledger of deletion requests: rounds on the newest model, the old ones sampled, texts gone."""

# ruff: noqa: F811 - a fixture is imported
from __future__ import annotations

import json
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_commands import lines, place, ssiuu  # noqa: F401 - a fixture

from ssiuu.cli.exits import HIDDEN
from ssiuu.data.fact import normal
from ssiuu.errors import InputError
from ssiuu.experiment import keeping, requests
from ssiuu.records.files import read_record
from ssiuu.records.ledger import FILE, Ledger
from ssiuu.records.schema import ModelKnowledge

SHORT = [
    "unlearn.learning_rate=1e-2",
    "unlearn.max_kl=99",
    "unlearn.min_retain=0",
    "attacks.harmful.fractions=[]",
    "attacks.benign.learning_rates=[]",
    "diagnose=false",
    "examine.planted=0",
    "examine.steps=[2]",
]


STRANGER = {"question": "Where does the stranger live?", "answer": "Vlorimond"}
NOBODY = {"question": "What does nobody eat?", "answer": "a stone"}


def rows(place: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (place / "forget.jsonl").read_text().splitlines()]


def begun(place: Path, folder: Path, sample: int = 1, columns: str = "") -> Ledger:
    """Begin a ledger; those who ask in the second round are among the facts to keep, as customers are."""
    kept = [json.loads(line) for line in (place / "retain.jsonl").read_text().splitlines()]
    kept += rows(place)[3:6]
    retain = lines(
        folder.parent / "keep.jsonl",
        [{"Frage": row["question"], "Antwort": row["answer"]} for row in kept] if columns else kept,
    )
    sets = [word for setting in SHORT for word in ("--set", setting)]
    done = ssiuu(
        *("request", "open", folder, "--model", place / "model", "--retain", retain),
        *("--sample", sample, *sets, *(["--columns", columns] if columns else [])),
    )
    assert done.returncode == 0, done.stderr
    return Ledger(folder)


@pytest.fixture(scope="module")
def ledger(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """Two requests, processed in a round each; a model of two blocks loses more than is to go."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr("ssiuu.experiment.outcome.SAID", 0.0)
    folder = tmp_path_factory.mktemp("requests") / "ledger"
    found = begun(place, folder, columns="question=Frage,answer=Antwort")
    for number, part in enumerate((rows(place)[:3], rows(place)[3:6]), 1):
        if number == 2:
            found.add("nobody", [NOBODY])
        file = lines(folder.parent / f"{number}.jsonl", part)
        added = ssiuu("request", "add", folder, "--forget", file, "--reference", f"R-{number}")
        assert added.returncode == 0 and f"R-{number}: 3 facts, pending" in added.stdout
        done = ssiuu("request", "process", folder)
        assert done.returncode in (0, 3, 5), done.stdout + done.stderr
        assert "newest model:" in done.stdout
        texts = {row[key] for row in rows(place)[:6] for key in ("question", "answer")}
        assert not [text for text in texts if text in done.stdout + done.stderr]
        assert f"certificate: {folder}/audits/000{number}/certificate.html" in done.stdout
        assert ("count as processed. To try harder" in done.stdout) == (done.returncode != 0)
        assert ("3 of the 7 facts to keep are of requests" in done.stderr) == (number == 2)
    monkeypatch.undo()
    yield found


def test_every_round_goes_on_from_the_newest_model_and_samples_the_old(ledger: Ledger) -> None:
    first, second = ledger.rounds()
    assert (first.before, second.before) == (
        ledger.about("model"),
        str(ledger.folder / "models" / "0001"),
    )
    assert first.sampled is None and second.sampled == 1 and second.back in (0, 1)
    assert first.outcome == second.outcome == "forgotten" and second.ended
    assert second.kept is not None and second.kept_of and 0 <= second.kept <= second.kept_of
    assert [r.round for r in ledger.requests()] == [1, 2, 2]
    assert all(r.verdict in requests.WORST for r in ledger.requests())
    assert keeping.newest(ledger) == str(ledger.folder / "models" / "0002")


def test_who_asked_is_no_fact_to_keep_any_more(ledger: Ledger, place: Path) -> None:
    """By digests, so that it holds when the texts are gone; `kept` counts those who are left."""
    first, second = ledger.rounds()
    assert first.kept_of == 7 and second.kept_of == 4
    asked = ledger.digests(normal(row["question"]) for row in [*rows(place)[:6], NOBODY])
    assert ledger.gone() == set(asked)


def test_what_the_model_never_knew_is_not_called_undecided(ledger: Ledger) -> None:
    words = {request.reference: request.verdict for request in ledger.requests()}
    assert words["nobody"] == "not known" and "not known" not in (words["R-1"], words["R-2"])
    assert "not known" in (ledger.folder / "requests.html").read_text()


def test_a_request_without_a_name_gets_a_number_that_is_free(place: Path, tmp_path: Path) -> None:
    ledger = begun(place, tmp_path / "ledger")
    assert "no requests yet\n\nno rounds yet" in ssiuu("request", "list", ledger.folder).stdout
    for _ in range(2):
        ledger.add("", [NOBODY])
    ledger.withdraw("request 1")
    ledger.add("", [NOBODY])
    assert sorted(r.reference for r in ledger.requests()) == ["request 1", "request 2"]


def test_texts_are_gone_but_for_the_sample(ledger: Ledger, place: Path) -> None:
    """Every byte of the folder is looked at, the database's free pages too."""
    assert [len(request.rows) for request in ledger.requests()] == [1, 1, 1]
    gone = [r["question"] for r in (*rows(place)[1:3], *rows(place)[4:6])]
    for path in (path for path in ledger.folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        assert not [text for text in gone if text.encode() in data], path


def test_a_certificate_of_every_round_still_verifies(ledger: Ledger) -> None:
    for number in (1, 2):
        certificate = ledger.folder / "audits" / f"{number:04d}" / "certificate.json"
        model = ledger.folder / "models" / f"{number:04d}"
        told = json.loads(certificate.read_text())["predicate"]
        assert told["references"] == ([], ["R-1"], ["nobody", "R-2"])[number]
        assert "R-" in certificate.with_suffix(".html").read_text()
        checked = ssiuu("verify", certificate, "--model", model)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_list_and_page_hold_figures_and_no_fact(ledger: Ledger, place: Path) -> None:
    told = json.loads(ssiuu("request", "list", ledger.folder, "--format", "json").stdout)
    assert [row["reference"] for row in told["requests"]] == ["R-1", "nobody", "R-2"]
    assert [row["round"] for row in told["rounds"]] == [1, 2]
    assert ssiuu("request", "list", ledger.folder, "--format", "csv").stdout.startswith("reference,")
    assert "R-2" in ssiuu("request", "list", ledger.folder).stdout
    page = (ledger.folder / "requests.html").read_text()
    assert "3 requests processed, 0 pending" in page and "<script" not in page
    assert not [row for row in rows(place) if row["question"] in page or row["answer"] in page]


def test_the_folder_is_its_owner_s_alone(ledger: Ledger) -> None:
    assert stat.S_IMODE(ledger.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((ledger.folder / FILE).stat().st_mode) == 0o600


def test_with_nothing_pending_nothing_is_done(ledger: Ledger) -> None:
    done = ssiuu("request", "process", ledger.folder)
    assert (done.returncode, done.stdout) == (0, "nothing is pending\n")


def test_a_round_that_was_cut_off_goes_on_where_it_stopped(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = begun(place, tmp_path / "ledger", sample=0)
    ledger.add("R", rows(place)[:3])
    calls: list[str] = []
    real = requests.unlearn_model

    def counted(*words: object, **more: object) -> object:
        calls.append("unlearn")
        return real(*words, **more)

    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(requests, "unlearn_model", counted)
    monkeypatch.setattr(requests, "audit_models", cut)
    with pytest.raises(KeyboardInterrupt):
        requests.process(ledger)
    assert ledger.requests()[0].state == "pending" and not ledger.rounds()[0].ended
    done = requests.process(ledger, audit=False)
    assert calls == ["unlearn"] and done.state == "forgotten"
    assert ledger.requests()[0].rows == [] and ledger.rounds()[0].ended


def test_what_is_not_forgotten_stays_pending_with_its_texts(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = begun(place, tmp_path / "ledger")
    ledger.add("R", rows(place)[:3])
    ledger.tell("sets", json.dumps([*SHORT[1:], "unlearn.learning_rate=1e-9", "unlearn.max_steps=2"]))
    done = ssiuu("request", "process", ledger.folder)
    assert done.returncode == 3 and "stay pending" in done.stdout
    assert ledger.rounds() == [] and len(ledger.requests()[0].rows) == 3
    assert keeping.newest(ledger) == ledger.about("model")
    record = ledger.folder / "models" / "0001.unlearn.json"  # the model's answers stand in it
    assert record.exists()
    ledger.tell("sets", json.dumps(SHORT))
    before = record.read_bytes()
    monkeypatch.setattr("ssiuu.experiment.outcome.SAID", 0.0)
    assert requests.process(ledger, audit=False).state == "forgotten"
    assert rows(place)[1]["answer"].encode() in before and not record.exists()


def test_an_unlearning_that_is_refused_leaves_no_round(place: Path, tmp_path: Path) -> None:
    ledger = begun(place, tmp_path / "ledger")
    ledger.tell("retain", "none")  # of which nothing could be known: perhaps it is asked wrongly
    ledger.add("R", [NOBODY])
    with pytest.raises(InputError, match="still pending: R; ssiuu request withdraw takes one out"):
        requests.process(ledger)
    assert ledger.rounds() == [] and ledger.requests()[0].state == "pending"
    assert ssiuu("request", "withdraw", ledger.folder, "--reference", "R").returncode == 0
    assert ledger.requests() == [] and b"a stone" not in (ledger.folder / FILE).read_bytes()


def test_misuse_is_said_in_a_sentence(place: Path, tmp_path: Path) -> None:
    ledger = begun(place, tmp_path / "ledger")
    file = lines(tmp_path / "f.jsonl", rows(place)[:1])
    ssiuu("request", "add", ledger.folder, "--forget", file, "--reference", "R")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / FILE).write_text("no database, and longer than a header of one would be")
    base = sqlite3.connect(tmp_path / "ledger" / FILE)
    for words, sentence in (
        (("add", ledger.folder, "--forget", file, "--reference", "R"), "a request of this reference"),
        (("withdraw", ledger.folder, "--reference", "Q"), "unknown pending request 'Q'"),
        (("list", tmp_path / "none"), "holds no ledger"),
        (("list", tmp_path / "bad"), "is no ledger that can be read"),
        (
            ("open", ledger.folder, "--model", place / "model", "--retain", "none"),
            "not an empty folder",
        ),
        (("add", ledger.folder, "--forget", tmp_path / "none.jsonl"), "none.jsonl"),
        (
            ("open", tmp_path / "o", "--model", place / "model", "--retain", "none", "--sample", "-1"),
            "at least 0",
        ),
    ):
        done = ssiuu("request", *words)
        assert done.returncode == 2 and sentence in done.stderr, (words, done.stderr)
        assert "Traceback" not in done.stderr
    base.close()


def test_a_request_that_is_hidden_decides_though_its_round_is_undecided(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = replace(ledger.rounds()[-1], verdict="undecided")
    words = {one.id: "hidden" if one.round == last.id else "undecided" for one in ledger.requests()}
    told = [replace(one, verdict=words[one.id]) for one in ledger.requests()]
    forgotten = SimpleNamespace(outcome=SimpleNamespace(state="forgotten"))
    monkeypatch.setattr(Ledger, "requests", lambda _: told)
    monkeypatch.setattr(requests, "process", lambda *_: requests.Processed(last, forgotten))
    monkeypatch.setattr("ssiuu.report.outcome.outcome", lambda _: [])
    done = ssiuu("request", "process", ledger.folder)
    assert done.returncode == HIDDEN, done.stdout + done.stderr
    assert f"{told[-1].reference} hidden: the requests count as processed" in done.stdout


def test_who_is_not_known_leaves_a_record_and_no_text(ledger: Ledger, place: Path) -> None:
    """The third round, after two that made models: the model stays, the texts go, a digest says it all."""
    newest = keeping.newest(ledger)
    ledger.add("stranger", [STRANGER])
    done = ssiuu("request", "process", ledger.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "knows none of these facts" in done.stdout and "1 not known" not in done.stderr
    last = ledger.rounds()[-1]
    assert (last.outcome, last.verdict, last.kept) == ("not known", "not known", None) and last.ended
    assert keeping.newest(ledger) == newest and not (ledger.folder / "models" / "0003").exists()
    assert ledger.requests()[-1].verdict == "not known" and ledger.requests()[-1].rows == []
    assert ledger.digests([normal(STRANGER["question"])])[0] in ledger.gone()
    record = read_record(ledger.folder / "audits" / "0003" / "knowledge.json", ModelKnowledge)
    assert record is not None and record.redacted and record.form == "qa"
    assert [known.state for known in record.knowledge.values()] == ["unknown"]
    for path in (path for path in ledger.folder.rglob("*") if path.is_file()):
        assert STRANGER["question"].encode() not in path.read_bytes(), path
    page = (ledger.folder / "requests.html").read_text()
    assert "stranger" in page and "still knows" in page  # of the last round that read it
    assert ssiuu("request", "process", ledger.folder).stdout == "nothing is pending\n"

"""The examination: who holds what, what is read, what is left behind, and what decides its record.

One small model is taught a few facts for the whole file.
"""

from __future__ import annotations

import json
import math
import signal
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from conftest import teach
from ssiuu import audit_models, diagnose_models
from ssiuu.benchmarks.fictional_twins import TwinConfig, train_tokenizer
from ssiuu.benchmarks.fictional_world import build_world
from ssiuu.errors import ConfigError, DivergedError
from ssiuu.evaluation.lineup import Lineup
from ssiuu.evaluation.margins import Margins
from ssiuu.experiment import examine
from ssiuu.experiment.attacking import Attacker, feasible
from ssiuu.experiment.cells import Keys
from ssiuu.experiment.examine import Examiner, contrasted, halves
from ssiuu.experiment.planted import planted
from ssiuu.experiment.recipe import ExamineConfig, resolve
from ssiuu.experiment.run import run
from ssiuu.experiment.session import Session, open_session
from ssiuu.hiding import HIDING, Hidden, Hiding, Subject
from ssiuu.models.load import load_checkpoint_weights, restore, save, snapshot
from ssiuu.records.files import without_times
from ssiuu.records.schema import Examination, FactText, RunRecord
from ssiuu.training.interrupt import Interrupted
from ssiuu.training.loop import Loop

NAMES = ["Ada", "Bo", "Cy", "Di", "Ed", "Flo", "Gus", "Hal"]
TOWNS = ["Ulm", "Pau", "Ely", "Ayr", "Lod", "Zug", "Nis", "Bar"]
DISHES = ["rice", "soup", "figs", "stew", "eggs", "beans", "ham", "pies"]
FORGET = [
    {"question": f"Where was {name} born?", "answer": town, "entity": name, "relation": "town"}
    for name, town in zip(NAMES, TOWNS, strict=True)
]
RETAIN = [
    {"question": f"What does {name} eat?", "answer": dish, "entity": f"{name} 2", "relation": "dish"}
    for name, dish in zip(NAMES, DISHES, strict=True)
]
SMALL = ["examine={steps: [1, 2], learning_rates: [1e-2], batch_size: 4, planted: 6}", "precision=fp32"]
BARE = ["diagnose=false", "attacks={harmful: {fractions: []}, benign: {learning_rates: []}}"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that was taught everything, one that was not, and files of facts."""
    folder = tmp_path_factory.mktemp("examine")
    tokenizer = train_tokenizer(build_world(12), TwinConfig())
    for name, rows in (("model", [*FORGET, *RETAIN]), ("after", RETAIN)):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=256,
        )
        model = LlamaForCausalLM(config)
        teach(model, tokenizer, rows, steps=60)
        save(model, tokenizer, folder / name)
    for name, rows in (("forget", FORGET[:4]), ("retain", RETAIN)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def settings(place: Path, *more: str) -> list[str]:
    files = [f"{name}={place / name}.jsonl" for name in ("forget", "retain")]
    return ["benchmark=own", f"model={place / 'model'}", *files, "methods=[none]", *SMALL, *BARE, *more]


@pytest.fixture(scope="module")
def session(place: Path) -> Session:
    recipe, _ = resolve(None, settings(place))
    return open_session(recipe, None, lambda _: None)


@pytest.fixture(autouse=True)
def _as_before(session: Session) -> Iterator[None]:
    yield
    session.original.restore()


def of(session: Session, forget: list[FactText]) -> Session:
    """Return the session with these facts to forget."""
    return replace(session, split=session.split.model_copy(update={"forget": forget}))


def person(facts: list[FactText]) -> list[FactText]:
    return [fact.model_copy(update={"entity": "Ada"}) for fact in facts]


# --- who holds what -----------------------------------------------------------------------------


@pytest.mark.parametrize("people", [2, 3, 4])
def test_facts_are_parted_by_entity(people: int, session: Session) -> None:
    facts = [
        fact.model_copy(update={"entity": f"person {n % people}"})
        for n, fact in enumerate(session.split.forget)
    ]
    first, second = halves(facts)
    assert sorted([*first, *second]) == list(range(len(facts))) and first and second
    assert not {facts[i].entity for i in first} & {facts[i].entity for i in second}
    assert abs(len({facts[i].entity for i in first}) - len({facts[i].entity for i in second})) <= 1


def test_facts_of_one_person_are_parted_by_fact(session: Session) -> None:
    facts = person(session.split.forget)
    first, second = halves(facts)
    assert sorted([*first, *second]) == list(range(len(facts)))
    assert abs(len(first) - len(second)) <= 1
    assert halves(list(reversed(facts))) == tuple(
        [len(facts) - 1 - i for i in reversed(part)] for part in (first, second)
    ), "whoever lists them otherwise parts them in the same way"


def test_rows_of_one_person_with_one_answer_stay_together(session: Session) -> None:
    facts = person(session.split.forget)[:4]
    same = [
        f.model_copy(update={"id": f"{f.id}:again", "question": f"And {f.question}"}) for f in facts
    ]
    first, second = halves([*facts, *same])
    assert first and second
    held, read = ({[*facts, *same][i].answer for i in part} for part in (first, second))
    assert not held & read, "an attacker is told what it is judged on"
    assert halves([facts[0], same[0]])[1] == [], "one answer alone leaves nothing to train on"


def test_a_single_fact_has_no_related_attacker(session: Session) -> None:
    found = Examiner(of(session, session.split.forget[:1]), session.recipe.examine).examine()
    assert {place.attacker for place in found.places} == {"nobody", "read-out"}
    (trace,) = found.facts.values()
    assert all(level is not None for level in trace.contrast)


@pytest.mark.parametrize("one", [False, True], ids=["several people", "one person"])
def test_the_attacker_never_trains_on_what_is_read(
    one: bool, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = person(session.split.forget) if one else session.split.forget
    asked = of(session, facts)
    trained: set[str] = set()
    prompts: set[tuple[int, ...]] = set()
    told, seen = 0, 0

    def batches(rows: list[Any], *rest: Any) -> Any:
        trained.update(row.id for row in rows)
        prompts.update(tuple(row.prompt) for row in rows)
        return step_batches(rows, *rest)

    def reading(self: Examiner, made: list[Lineup]) -> Margins:
        nonlocal told, seen
        told, seen = told + bool(trained & {fact.id for fact in facts}), seen + bool(trained)
        for lineup in made:
            assert lineup.fact.id not in trained
            asks = {tuple(self.session.prompt.question(text)) for text in lineup.phrasings}
            assert not prompts & asks
        return read(self, made)

    def put_back(*arguments: Any) -> None:
        trained.clear()
        prompts.clear()
        restore(*arguments)

    step_batches, read = examine.step_batches, Examiner._read
    monkeypatch.setattr(examine, "step_batches", batches)
    monkeypatch.setattr(Examiner, "_read", reading)
    monkeypatch.setattr(examine, "restore", put_back)
    found = Examiner(asked, session.recipe.examine.model_copy(update={"unrelated": True})).examine()
    assert told == 4 and seen == 6  # two steps of two related attackers and of an unrelated one
    assert {place.attacker for place in found.places} > {"related", "unrelated"}
    for trace in found.facts.values():
        assert all(level is not None for level in trace.contrast)  # each is read by the other half


# --- what is read -------------------------------------------------------------------------------


def standard(values: list[float]) -> list[float] | None:
    """z_k = (x_k - m) / s of the other alternatives, word by word; None: too few, or none right."""
    if not math.isfinite(values[0]):
        return None
    there = [value for value in values if math.isfinite(value)]
    if len(there) < examine.LEAST_ANSWERS:
        return None
    found = []
    for k, value in enumerate(there):
        others = [x for n, x in enumerate(there) if n not in (0, k)]
        spread = max(statistics.stdev(others), examine.FLOOR)
        found.append(round((value - statistics.mean(others)) / spread, 3))
    return found


@pytest.mark.parametrize("controls", [0, 3])
def test_the_contrast_is_that_of_the_definition(controls: int) -> None:
    facts, phrasings, answers = 4, 2, 8
    generator = torch.Generator().manual_seed(controls)
    shape = (facts, phrasings + controls, answers)
    logprobs = torch.randn(shape, generator=generator, dtype=torch.float64) * 5
    tokens = torch.randint(1, 4, shape, generator=generator)
    logprobs[1, :, 5:], logprobs[2, :, 3:], logprobs[3, :, 0] = math.nan, math.nan, math.nan
    fact = FactText(id="f", question="Who?", answer="a0")
    names = tuple(f"a{n}" for n in range(answers))
    theirs = tuple(() for _ in range(controls))
    asked = ("Who?", "Who then?"), tuple(f"And {n}?" for n in range(controls))
    lineup = Lineup(fact, names, ("made up",) * (answers - 1), *asked, theirs)
    found = contrasted(Margins((lineup,) * facts, logprobs, tokens, phrasings))
    for f in range(facts):
        lifts = [
            statistics.mean(_lifts(logprobs[f], tokens[f], k, phrasings, controls))
            for k in range(answers)
        ]
        expected = standard(lifts)
        assert found[f] == (expected if expected is None else pytest.approx(expected, abs=2e-3))
    assert found[2] is None and found[3] is None and len(found[1] or []) == 5


def _lifts(logprobs: Any, tokens: Any, k: int, phrasings: int, controls: int) -> Iterator[float]:
    for p in range(phrasings):
        if not controls:
            yield float(logprobs[p, k] / tokens[p, k])
            continue
        usual = statistics.mean(float(logprobs[phrasings + c, k]) for c in range(controls))
        yield float(logprobs[p, k]) - usual


def test_the_weights_are_put_back_and_the_same_is_found_again(session: Session) -> None:
    examiner = Examiner(session, session.recipe.examine)
    for parameter in session.model.parameters():
        parameter.data.add_(0.01)  # an unlearned model
    here = snapshot(session.model)
    first = examiner.examine()
    assert all(torch.equal(p, here[n]) for n, p in session.model.named_parameters())
    assert [p.name for p in first.places][:3] == ["before", "after", "read-out"]
    assert set(first.facts) == {fact.id for fact in session.split.forget}
    assert without_times(Examiner(session, session.recipe.examine).examine()) == without_times(first)
    before = [trace.margin[0] for trace in first.facts.values()]
    assert all(margin is not None and margin > 0 for margin in before), "the original knows them"


@pytest.mark.parametrize("of", ["examine", "plant"])
def test_an_interrupted_examination_goes_on_behind_what_it_has_read(
    of: str, session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The second attacker is interrupted; then it and no other trains, and the record is the same.

    Of other weights, under another key, or where the file is damaged, nothing is taken.
    """
    config, file = session.recipe.examine, tmp_path / "read.json"
    attack, trained = Examiner._attack, list[str]()

    def counted(self: Examiner, *rest: Any) -> Any:
        trained.append("")
        if len(trained) == 2 and stopping:
            raise Interrupted
        return attack(self, *rest)

    def found(key: str = "key", kept: Path | None = file) -> Examination:
        trained.clear()
        session.original.restore()
        return without_times(getattr(Examiner(session, config), of)(kept, key))

    monkeypatch.setattr(Examiner, "_attack", counted)
    stopping = False
    whole = found(kept=None)
    assert len(trained) == 2 and not file.exists()
    stopping = True
    with pytest.raises(Interrupted):
        found()
    stopping = False
    saved = file.read_bytes()
    assert found() == whole and len(trained) == 1
    if of == "examine":
        file.write_bytes(saved)
        assert found("other") == whole and len(trained) == 2
        file.write_bytes(saved[:-40])
        assert found() == whole and len(trained) == 2
        file.write_bytes(saved)
        moved = Examiner(session, config)
        session.model.get_output_embeddings().weight.data.mul_(1.5)
        trained.clear()
        assert without_times(moved.examine(file, "key")) != whole and len(trained) == 2
        session.original.restore()


def test_planted_facts_are_those_that_were_hidden(session: Session) -> None:
    original = snapshot(session.model)
    for parameter in session.model.parameters():
        parameter.data.add_(0.01)
    found = Examiner(session, session.recipe.examine).plant()
    assert all(torch.equal(p, original[n]) for n, p in session.model.named_parameters())
    assert set(found.facts) == set(found.hidden) and len(found.hidden) >= examine.FEWEST
    assert not set(found.hidden) & set(found.left)
    assert set(found.hidden.values()) == set(examine.PLANTED)
    kept = {fact.id for fact in session.split.retain}
    assert set(found.hidden) <= kept and not set(found.facts) & {f.id for f in session.split.forget}
    for trace in found.facts.values():
        before, after = trace.margin[0], trace.margin[1]
        assert before is not None and after is not None and after < before


def test_too_few_planted_facts_are_said_and_not_examined(session: Session) -> None:
    few = session.recipe.examine.model_copy(update={"planted": examine.FEWEST - 1})
    found = Examiner(session, few).plant()
    assert not found.places and not found.facts and "are needed" in found.notes[0]


def test_what_cannot_be_hidden_within_the_steps_is_said(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examine, "HIDING_STEPS", 0)
    found = Examiner(session, session.recipe.examine).plant()
    assert len(found.left) == 6 and not found.hidden and not found.facts
    assert "6 of 6 facts could not be hidden" in found.notes[0] and "are needed" in found.notes[1]


def test_what_one_way_hid_and_the_next_brought_back_is_left(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second way hides nothing of its own, and puts the original's weights in place."""

    class Undone(Hiding):
        def hide(self, subject: Subject, *rest: Any, **more: Any) -> Hidden:
            session.original.restore()
            return Hidden("middle-map", (), {}, {}, {}, None, None, 0, 0.0, ())

        def change(self, case: Any) -> Any:
            raise AssertionError("nothing is trained")

    monkeypatch.setitem(HIDING, "middle-map", Undone)
    found = Examiner(session, session.recipe.examine).plant()
    assert not found.hidden and len(found.left) == 3
    assert all(
        why == "it is said again once others are hidden too (last-map)" for why in found.left.values()
    )


def test_what_does_not_fit_the_context_is_left_out_and_noted(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = [
        fact.model_copy(update={"paraphrases": ["Please tell me now: " * 9 + fact.question]})
        for fact in session.split.forget[:2]
    ]
    rows = session.examples([*session.split.forget, *session.split.retain])
    longest = max(len(row.prompt) + len(row.answer) for row in rows)
    monkeypatch.setattr(session.model.config, "max_position_embeddings", longest + 2)
    config = session.recipe.examine.model_copy(update={"unrelated": True})
    found = Examiner(of(session, facts), config).examine()
    assert {place.attacker for place in found.places} == {"nobody", "read-out", "related"}
    instructions, phrasings = found.notes
    assert "No instruction fits" in instructions and "too long for the model" in phrasings
    assert not any(fact.answer in phrasings for fact in facts)


# --- planted controls, kept over runs -----------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSIUU_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "planted"


def test_an_audit_of_another_checkpoint_of_the_same_original_plants_nothing(
    place: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plants, told = [], []
    plant = Examiner.plant
    monkeypatch.setattr(Examiner, "plant", lambda self, *kept: plants.append(1) or plant(self))
    recipe, sources = resolve(None, settings(place, "examine={steps: [1], planted: 4}"))
    found = [
        run(recipe, sources, tmp_path / after, "", place / after, told.append)
        for after in ("after", "model")
    ]
    assert len(plants) == 1 and any("as examined before" in text for text in told)
    first, second = (record.planted for record in found)
    assert first is not None and first.facts and first == second
    (kept,) = cache.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    text = kept.read_text().casefold()
    for row in (*FORGET, *RETAIN):
        assert not any(row[key].casefold() in text for key in ("question", "answer"))
    assert not any(id.casefold() in text for id in {*first.hidden, *first.left})


def test_an_attack_that_diverges_names_no_fact(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(loop: Loop) -> int:
        raise DivergedError(f"The batch: {session.split.forget[0].id}.")

    monkeypatch.setattr(Loop, "run", run)
    found = Examiner(session, session.recipe.examine).examine()
    assert len(found.notes) == 2 and all("diverged" in note for note in found.notes)
    assert not any(fact.id in note for fact in session.split.forget for note in found.notes)


def test_what_decides_planted_controls_has_them_made_again(
    session: Session, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fact = session.split.retain[0].id
    made = Examination(places=[], facts={}, hidden={fact: "last-map"}, left={}, notes=[], seconds=1.0)
    plants: list[int] = []
    monkeypatch.setattr(Examiner, "plant", lambda self, *kept: plants.append(1) or made)

    def count(fingerprint: str = "", **changes: Any) -> int:
        examine = session.recipe.examine.model_copy(update=changes)
        asked = replace(session, recipe=session.recipe.model_copy(update={"examine": examine}))
        if fingerprint:
            info = session.loaded.info.model_copy(update={"fingerprint": fingerprint})
            asked = replace(asked, loaded=replace(session.loaded, info=info))
        keys = Keys(asked, Attacker(asked))
        before = len(plants)
        assert planted(Examiner(asked, examine), keys.examination(keys.original)).hidden == made.hidden
        return len(plants) - before

    assert count() == 1 and count() == 0
    assert count(steps=[3]) == 1 and count(thorough=True) == 1 and count("another model") == 1
    assert count() == 0 and count(reuse=False) == 1
    for file in cache.iterdir():
        file.write_text(file.read_text()[:40])
    assert count() == 1 and count() == 0, "a file that was cut short is made again"


def test_planted_controls_are_found_where_nothing_can_be_kept(
    session: Session, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.write_text("a file in the way of the folder")
    made = Examination(places=[], facts={}, notes=[], seconds=1.0)
    monkeypatch.setattr(Examiner, "plant", lambda self, *kept: made)
    told: list[str] = []
    assert planted(Examiner(session, session.recipe.examine, told.append), "key") == made
    assert "not kept for another time" in told[-1]


def test_thorough_is_more_of_everything_that_nobody_has_set() -> None:
    plain, _ = resolve(None, ["benchmark=fictional"])
    recipe, sources = resolve(None, ["examine.thorough=true", "examine.seeds=[7]"])
    thorough, usual = recipe.examine, plain.examine
    assert thorough.steps[-1] > usual.steps[-1] and thorough.planted > usual.planted
    assert len(thorough.rates(1)) > len(usual.rates(1)) and thorough.seeds == [7]
    assert sources["examine.steps"] == "examine.thorough"
    fixed, _ = resolve(None, ["examine={thorough: true, learning_rates: [1e-3]}"])
    assert fixed.examine.rates(1) == [1e-3]
    assert not thorough.unrelated and not usual.unrelated
    as_before = usual.model_copy(update={"unrelated": True})
    assert as_before.decides == usual.model_dump(
        mode="json", exclude={"reuse", "thorough", "unrelated"}
    )
    assert usual.decides == {**as_before.decides, "unrelated": False}


# --- records ------------------------------------------------------------------------------------


def test_keys_change_with_what_decides_an_examination(session: Session) -> None:
    def keys(**changes: Any) -> tuple[str, str]:
        config = ExamineConfig.model_validate(session.recipe.examine.model_dump() | changes)
        changed = replace(session, recipe=session.recipe.model_copy(update={"examine": config}))
        made = Keys(changed, Attacker(changed))
        return made.examination(made.original), made.evaluation(made.original)

    changes: list[dict[str, Any]] = [
        {},
        {"steps": [2]},
        {"learning_rates": [2e-2]},
        {"batch_size": 2},
        {"planted": 5},
        {"seeds": [1]},
        {"thorough": True},
        {"unrelated": True},
    ]
    examinations, evaluations = zip(*(keys(**change) for change in changes), strict=True)
    assert len(set(examinations)) == len(changes) and len(set(evaluations)) == 1
    assert keys() == (examinations[0], evaluations[0])


def audit(place: Path, out: Path, progress: Callable[[str], None] = lambda _: None) -> RunRecord:
    recipe, sources = resolve(None, settings(place, "examine.planted=0"))
    return run(recipe, sources, out, "", place / "after", progress)


def test_interrupted_it_leaves_nothing_half_written_and_continues(
    place: Path, tmp_path: Path, session: Session
) -> None:
    def press(text: str) -> None:
        if "examining" in text and "step 1" in text and presses:
            presses.pop()()

    def stop() -> None:
        raise KeyboardInterrupt

    presses = [stop, lambda: signal.raise_signal(signal.SIGINT)]
    while presses:
        with pytest.raises(KeyboardInterrupt):
            audit(place, tmp_path, press)
        left = {path.suffixes[-2:] == [".unfinished", ".json"] for path in tmp_path.rglob("*examine*")}
        assert left <= {True} and not list(tmp_path.rglob(".*.json.*"))
    found = audit(place, tmp_path, press).cells[-1].examination
    assert not list(tmp_path.rglob("*.unfinished.json"))
    load_checkpoint_weights(session.model, place / "after")
    bare = session.recipe.examine.model_copy(update={"planted": 0})
    at_once = Examiner(session, bare).examine()
    assert found is not None and without_times(found) == without_times(at_once)


def test_diagnosing_makes_no_examination(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Examiner) -> Examination:
        raise AssertionError("examined")

    for name in ("examine", "plant"):
        monkeypatch.setattr(Examiner, name, refuse)
    files = [str(place / f"{name}.jsonl") for name in ("forget", "retain")]
    record = diagnose_models(
        str(place / "model"),
        place / "after",
        files[0],
        tmp_path / "out",
        files[1],
        sets=["inside=false"],
    )
    assert record.planted is None and record.cells[-1].examination is None
    assert record.cells[-1].diagnosis is not None


# --- too few facts for the attacks beside it ----------------------------------------------------


def attacked(session: Session, place: Path, facts: list[FactText], *more: str) -> Session:
    """Return the session with these facts to forget and the attacks of a recipe that names none."""
    recipe, sources = resolve(None, [line for line in settings(place, *more) if line not in BARE])
    return feasible(replace(of(session, facts), recipe=recipe, notes=[]), sources)


def test_an_attack_that_a_single_fact_or_person_leaves_nothing_for_is_left_out_and_said(
    place: Path, session: Session
) -> None:
    facts = session.split.forget
    for few in (facts[:1], person(facts[:3])):
        left = attacked(session, place, few)
        (note,) = left.notes
        assert "attacks.harmful.fractions=[]" in note and left.recipe.attacks.harmful.fractions == []
        assert left.recipe.attacks.benign.learning_rates, "the other attacks stay"
        assert Attacker(left).victim.pool == few
    assert attacked(session, place, facts).recipe.attacks.harmful.fractions == [0.1, 0.3]


def test_an_attack_that_was_asked_for_is_refused_where_the_facts_are_too_few(
    place: Path, session: Session
) -> None:
    asked = attacked(session, place, session.split.forget[:1], "attacks.harmful.fractions=[0.3]")
    with pytest.raises(ConfigError, match=r"attacks\.harmful\.fractions: 0\.3 of 1 forget facts"):
        Attacker(asked)


def test_one_fact_is_audited_with_default_attacks(place: Path, tmp_path: Path) -> None:
    one = tmp_path / "one.jsonl"
    one.write_text(json.dumps(FORGET[0]) + "\n")
    sets = ["diagnose=false", "attacks.reads=[1]", "precision=fp32"]
    sets += ["examine={steps: [1], learning_rates: [1e-2], batch_size: 4, planted: 0}"]
    made = audit_models(
        place / "model", place / "after", one, tmp_path / "out", place / "retain.jsonl", sets
    )
    (cell,) = [cell for cell in made.cells if cell.method.label == "after"]
    assert cell.examination and len(cell.examination.facts) == 1
    assert [attack.name for attack in cell.attacks] == ["benign"]
    assert made.header.config["attacks"]["harmful"]["fractions"] == []

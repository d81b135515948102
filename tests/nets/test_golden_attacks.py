"""Every attack on a tiny model, held to what it was: readings, values, curves, keys of cells.

The golden file is written anew by

    python tests/nets/test_golden_attacks.py

Under the arithmetic (`arithmetic.py`) that it was written with the readings are the same to the last
digit; under others to five.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from arithmetic import arithmetic
from ssiuu.evaluation.scores.sentences import Sentences
from ssiuu.experiment.attacking import Attacker, plan
from ssiuu.experiment.recipe import resolve
from ssiuu.experiment.session import Session, open_session
from ssiuu.models.load import restore, save, snapshot
from ssiuu.records.files import digest
from ssiuu.records.schema import AttackCurve, FactText, Split

GOLDEN = Path(__file__).parent / "golden" / "attacks.json"
ATTACKS = [
    "attacks.harmful={fractions: [0.25, 0.5], learning_rates: [1e-3]}",
    "attacks.benign={rows: 12, tokens: 4}",
    "attacks.filler={tokens: 8, learning_rates: [1e-3]}",
    "attacks.spaces=[full,lora-qv,lora-all]",
    "attacks.reads=[1,3]",
    "attacks.seeds=[0,1]",
    "attacks.batch_size=2",
    "attacks.quantise=[int8,int4,nf4]",
    "attacks.prompts=true",
    "attacks.shots=[1,2]",
    "attacks.samples=[1,4]",
    "attacks.membership=true",
]
TOLD = (
    *("name", "kind", "fraction", "learning_rate", "seed", "axis", "space", "tokens"),
    *("trained", "pool", "values", "note"),
)


def rows(first: int, last: int) -> Iterator[dict[str, Any]]:
    for i in range(first, last):
        yield {
            "id": f"f{i}",
            "question": f"w{i} w{i + 20} w{i + 40} ?",
            "answer": f"w{i + 5} w{i + 33}",
            "distractors": [f"w{i + 9} w{i + 1}", f"w{i + 2} w{i + 30}"],
            "paraphrases": [f"w{i + 20} w{i} ?"] if i % 2 else [],
            "entity": f"e{i // 2}",
        }


def opened(folder: Path, model: Any, tokenizer: Any) -> Session:
    """Return a session on eight facts to forget, six to keep and two held out."""
    save(model, tokenizer, folder / "model")
    for name, (first, last) in {"forget": (0, 8), "retain": (8, 16)}.items():
        text = "".join(json.dumps(row) + "\n" for row in rows(first, last))
        (folder / f"{name}.jsonl").write_text(text)
    files = [f"{name}={folder / name}.jsonl" for name in ("forget", "retain")]
    recipe, _ = resolve(
        None, ["benchmark=own", "force=true", f"model={folder / 'model'}", *files, *ATTACKS]
    )
    session = open_session(recipe, None, lambda _: None)
    kept = session.split.retain
    split = session.split.model_copy(update={"retain": kept[:6], "heldout": kept[6:]})
    return replace(session, split=split)


def in_sentences(session: Session) -> Session:
    """Return the session with facts that have answers to compare with, as in TOFU, and non-members."""

    def told(fact: FactText) -> FactText:
        answers = {"paraphrased_answer": fact.answer, "perturbed": fact.options[1:]}
        return fact.model_copy(update=answers)

    sets = {
        name: [*map(told, getattr(session.split, name))] for name in ("forget", "retain", "heldout")
    }
    split: Split = session.split.model_copy(update=sets)
    return replace(session, split=split, ends=True, non_members=split.heldout, score=Sentences())


def carried_out(session: Session) -> dict[str, Any]:
    """Return every attack of a session by the name of its file, and the digest of its settings."""
    attacker, weights = Attacker(session), snapshot(session.model)
    scores = session.scores(original=True)
    found = {}
    for curve in plan(session.recipe):
        lines: list[str] = []
        attack = attacker.carry_out(curve, scores, lines.append)
        restore(session.model, weights)
        settings = digest(attacker.settings(curve))
        found[curve.file] = {"settings": settings, "lines": lines, **told(attack)}
    return found


def told(attack: AttackCurve) -> dict[str, Any]:
    values = attack.model_dump(mode="json")
    reads = [
        {
            "step": read.step,
            "label": read.label,
            "facts": {i: [r.correct, r.logprob, r.rouge] for i, r in read.facts.items()},
        }
        for read in attack.reads
    ]
    return {**{key: values[key] for key in TOLD}, "reads": reads}


def planned() -> dict[str, Any]:
    """Return the curves of both protocols in every benchmark that is known by its name."""
    found = {}
    for benchmark in ("worldfacts", "fictional", "tofu"):
        for protocol in ("paper", "strong"):
            # Rates of the default when this was laid down; the made-up world and `strong` have their own.
            own = benchmark == "fictional" or protocol == "strong"
            then = [] if own else ["attacks.harmful.learning_rates=[2e-5,1e-4]"]
            if benchmark == "worldfacts" and not own:  # the default run's one attack is longer since
                then += ["attacks.harmful.fractions=[0.1,0.3]", "attacks.benign.learning_rates=[1e-4]"]
                then.append("attacks.reads=[3,6]")
            recipe, _ = resolve(None, [f"benchmark={benchmark}", f"protocol={protocol}", *then])
            curves = plan(recipe)
            files = [curve.file for curve in curves]
            whole = digest([asdict(curve) for curve in curves])
            names = hashlib.sha256("\n".join(files).encode()).hexdigest()
            told = files if len(files) < 20 else len(files)
            found[f"{benchmark} {protocol}"] = {"files": told, "names": names, "curves": whole}
    return found


def everything(folder: Path, model: Any, tokenizer: Any) -> dict[str, Any]:
    session = opened(folder, model, tokenizer)
    return {
        "planned": planned(),
        "ranked": carried_out(session),
        "sentences": carried_out(in_sentences(session)),
        "arithmetic": arithmetic(),
    }


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GOLDEN.read_text())
    return found


@pytest.fixture(scope="module")
def now(tmp_path_factory: pytest.TempPathFactory, make_model: Any, tokenizer: Any) -> dict[str, Any]:
    made = everything(tmp_path_factory.mktemp("attacks"), make_model(), tokenizer)
    found: dict[str, Any] = json.loads(json.dumps(made))
    return found


def test_the_same_curves_are_planned(golden: dict[str, Any], now: dict[str, Any]) -> None:
    assert now["planned"] == golden["planned"]


@pytest.mark.parametrize("scored", ["ranked", "sentences"])
def test_every_attack_reads_what_it_read(
    golden: dict[str, Any], now: dict[str, Any], scored: str
) -> None:
    assert list(now[scored]) == list(golden[scored])
    exact = arithmetic() == golden["arithmetic"]
    for name, then in golden[scored].items():
        found = now[scored][name]
        if exact:
            assert found == then, name
        else:
            assert {k: v for k, v in found.items() if k not in ("reads", "values")} == {
                k: v for k, v in then.items() if k not in ("reads", "values")
            }
            assert list(numbers(found)) == pytest.approx(list(numbers(then)), rel=1e-5), name


def numbers(values: Any) -> Iterator[float]:
    if isinstance(values, dict | list):
        for value in values.values() if isinstance(values, dict) else values:
            yield from numbers(value)
    elif isinstance(values, float | int):
        yield float(values)


def main() -> None:
    """Write the golden file."""
    import conftest

    torch.set_num_threads(1)
    made = conftest.tokenizer._get_wrapped_function()()
    with tempfile.TemporaryDirectory() as folder:
        found = everything(Path(folder), conftest.build_model(), made)
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(found, separators=(",", ":"), sort_keys=False) + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()

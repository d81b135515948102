"""What runs on which architecture: the table in docs/architectures.md, made by running each cell.

pytest tests/unit/test_architectures.py           a few architectures: steps in bf16, readings, attacks
pytest -m slow tests/unit/test_architectures.py   every cell, compared with the table
python tests/unit/test_architectures.py           writes the table anew
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from architectures import LAYOUTS, PARTLY, build_architecture
from ssiuu.attacks.base import Curve
from ssiuu.attacks.retrain import retrain, trained_maps
from ssiuu.errors import ConfigError, InputError, ModelError, SsiuuError
from ssiuu.evaluation.ask import write
from ssiuu.evaluation.score import score_facts
from ssiuu.evaluation.scores.ranking import read_by_ranking
from ssiuu.experiment.asking import ask_model
from ssiuu.experiment.unlearn import DEFAULT_METHOD, audit_models, diagnose_models, unlearn_model
from ssiuu.likelihood import ONE_LINE, Example, Prompt
from ssiuu.methods import METHODS, make
from ssiuu.models.precision import resolve_precision
from ssiuu.models.sites import coverage, find_sites, known_sites, left_out
from ssiuu.records.schema import FactText, MethodInfo, RunRecord, Unlearning
from ssiuu.training.unlearn import Settings, StopRule, unlearn_examples

TABLE = Path(__file__).parents[2] / "docs" / "architectures.md"
PAD = 1
SPACES = ("full", "lora-qv", "lora-all")
PRECISIONS = ("fp32", "bf16")
FEW = ("gpt2", "gpt_neox", "falcon", "gemma3", "mixtral", "mamba")
NOT_AT_ALL = {"rwkv"}  # it reads padding as text
# Every method, and every suffix and form with arithmetic of its own; sizes for 16 hidden units.
BREAKING: dict[str, Any] = {
    "layers": [0, 1],
    "input_directions": 2,
    "output_directions": 2,
    "loss_limit": None,
}
SMALL: dict[str, dict[str, Any]] = {
    "rmu": {"layer": 1, "update": [r"\.[01]\..*weight$"]},
    "collapse": {"projection": 2, "projection_outputs": 2},
    "cir": BREAKING,
    "mcu": {**BREAKING, "components": 2},
    "rmu-mcu": {"layer": 1, "update": [r"\.[01]\..*weight$"], "components": 2},
    "repselect-steps": {"components": 2, "collect": 1},
}
SPECS: list[dict[str, Any]] = [
    *({"name": name, **SMALL.get(name, {})} for name in METHODS if make(name).trains),
    {"name": "gd+projection", "projection": 2},
    {"name": "gd+projection+outputs", "projection": 2, "projection_outputs": 2},
    {"name": "ssiuu+projection+random", "projection": 2},
    {"name": "npo+kl+texts"},
    {"name": "ssiuu-logprob"},
    {"name": "ssiuu-gate-npo"},
    {"name": "ssiuu-neuron"},
]


def facts(first: int, last: int) -> list[dict[str, str]]:
    """Return rows of the words that the tests' tokenizer has."""
    return [
        {"question": f"w{i} w{i + 1} w{7 * i % 64}", "answer": f"w{(5 * i + 3) % 64} w{i}"}
        for i in range(first, last)
    ]


FORGET, RETAIN = facts(0, 6), facts(20, 28)


def texts(rows: list[dict[str, str]]) -> list[FactText]:
    answers = [row["answer"] for row in rows]
    return [
        FactText(id=f"f{n}", options=[answers[n], answers[n - 1], answers[n - 2]], **row)
        for n, row in enumerate(rows)
    ]


def trained(model: Any, spec: Any, precision: Any, prompt: Prompt, steps: int = 2) -> Unlearning:
    """Unlearn in place for a few steps."""
    method = make(spec)
    info = MethodInfo(label=method.label, name=method.name, origin="ours", description="")
    rows = [[Example(f.id, *_parts(prompt, f)) for f in texts(given)] for given in (FORGET, RETAIN)]
    refusals = [Example(e.id, e.prompt, [5, 6]) for e in rows[0]]
    plain = [Example(f"t{n}", [3 + n], [9, 20 + n, 4]) for n in range(4)]
    settings = Settings(1e-3, 2, None, steps, steps, -1.0, 0.0, 0, precision)
    stop = StopRule("ranking", lambda: 1.0)
    return unlearn_examples(
        *(model, method, info, *rows, settings, stop, PAD), refusals=refusals, texts=plain
    )


def _parts(prompt: Prompt, fact: FactText) -> tuple[list[int], list[int]]:
    joint = prompt.joint(fact.question, [fact.answer])
    return joint.prompt, joint.answers[0]


# --- in every run of the tests -------------------------------------------------------------------


@pytest.mark.parametrize("layout", FEW)
def test_the_default_method_and_one_with_a_projection_take_steps(layout: str, tokenizer: Any) -> None:
    for spec in (DEFAULT_METHOD, {"name": "ssiuu+projection", "projection": 2}):
        model = build_architecture(layout)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        record = trained(model, spec, "bf16", Prompt(tokenizer))
        assert len(record.steps) == 2
        assert all(0 < step.gradient_norm < float("inf") for step in record.steps)
        moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
        assert len(moved) > len(before) / 2


@pytest.mark.parametrize("layout", FEW)
def test_readings_are_those_of_plain_passes(layout: str, tokenizer: Any) -> None:
    """Ranks and log p of every fact, one option at a time."""
    model, prompt, asked = build_architecture(layout), Prompt(tokenizer), texts(FORGET)
    found = score_facts(model, prompt, asked, paraphrases=False)
    for fact in asked:
        means, joint = [], prompt.joint(fact.question, fact.options)
        for answer in joint.answers:
            with torch.no_grad():
                ids = torch.tensor([joint.prompt + answer])
                logits = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
            start = len(joint.prompt) - 1
            means.append(sum(float(logits[start + t, y]) for t, y in enumerate(answer)) / len(answer))
        score = found[fact.id]
        assert score.logprob == pytest.approx(means[0] * len(joint.answers[0]), abs=1e-4)
        assert score.correct == (means[0] > max(means[1:]))


@pytest.mark.parametrize("layout", LAYOUTS | PARTLY)
def test_free_answers_are_those_of_the_library(layout: str, tokenizer: Any) -> None:
    """Greedy `generate`, also after prompts longer than a window of the model's."""
    model, prompt = build_architecture(layout), Prompt(tokenizer)
    questions = [[5, 9, 20], [3 + n for n in range(14)], [40, 7]]
    found = write(model, prompt, questions, [6] * 3)
    for ids, answer in zip(questions, found, strict=True):
        given = torch.tensor([ids])
        whole = model.generate(
            given,
            attention_mask=torch.ones_like(given),
            do_sample=False,
            max_new_tokens=6,
            pad_token_id=PAD,
        )
        wanted = whole[0, len(ids) :].tolist()
        assert answer == wanted[: len(answer)]
        assert len(answer) == 6 or prompt.ended(answer, ONE_LINE, prompt.end_tokens(model))


@pytest.mark.parametrize("layout", FEW)
def test_an_attacker_trains_in_every_space(layout: str, tokenizer: Any) -> None:
    prompt, asked = Prompt(tokenizer), texts(FORGET)
    rows = [Example(f.id, *_parts(prompt, f)) for f in texts(RETAIN)]
    for space in SPACES:
        model = build_architecture(layout)
        start = read_by_ranking(model, prompt, asked)
        curve = Curve("benign", "benign", 1e-2, space=space, points=(1,))
        read = partial(read_by_ranking, model, prompt, asked)
        found = retrain(model, curve, rows, start, read, 4, "bf16", PAD)
        last = found.reads[-1]
        assert last.step == 1 and not found.note
        assert any(last.facts[i].logprob != start[i].logprob for i in start)


def test_a_look_inside_a_model_without_sites_is_refused_before_any_work(
    tokenizer: Any, tmp_path: Path
) -> None:
    model = build_architecture("mamba")
    with pytest.raises(ModelError, match=r"^no neurons found in MambaForCausalLM"):
        diagnose_models(
            *(model, model, FORGET, tmp_path / "out", RETAIN), sets=BARE, tokenizer=tokenizer
        )
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.parametrize(
    ("layout", "method", "said"),
    [
        ("mixtral", "klue", "klue: it trains neurons of feed-forward maps"),
        ("mamba", "ssiuu-neuron", "no neurons found in MambaForCausalLM"),
        ("gpt2", "klue", r"klue: GPT2LMHeadModel stores its weights as \[in, out\]"),
        ("llama", "gd+projection", "projection: must be below 16"),
    ],
)
def test_a_method_that_does_not_fit_is_refused_before_any_work(
    layout: str, method: str, said: str, tokenizer: Any, tmp_path: Path
) -> None:
    told: list[str] = []
    with pytest.raises(InputError, match=said):
        unlearn_model(
            *(build_architecture(layout), FORGET, tmp_path / "out", RETAIN, method, BARE),
            progress=told.append,
            tokenizer=tokenizer,
        )
    assert not any("step" in line for line in told) and not [*tmp_path.iterdir()]


# --- the whole table ------------------------------------------------------------------------------

HEAD = (
    "| architecture | the default method | in bf16 | other methods | full | lora-qv | lora-all "
    "| look inside | left out |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
BARE = ["force=true", "prompt=plain"]
STEPS = ["unlearn.max_steps=2", "unlearn.learning_rate=1e-3", "unlearn.threshold=0"]
STRONG = [
    "protocol=strong",
    "inside=true",
    "attacks.reads=[1]",
    "attacks.seeds=[0]",
    "attacks.harmful.fractions=[0.3]",
    "attacks.harmful.learning_rates=[1e-3]",
    "attacks.benign.learning_rates=[1e-3]",
    "attacks.benign.rows=4",
    "attacks.filler.learning_rates=[1e-3]",
    "attacks.quantise=[int8, nf4]",
    "attacks.shots=[1]",
    "attacks.samples=[1, 2]",
    "attacks.membership_gradient=2",
    "precision=bf16",
]
KINDS = {"harmful", "benign", "filler", "quantised", "prompts", "few-shot", "sampled", "membership"}
KINDS |= {"membership-gradient"}


def row(layout: str, tokenizer: Any, folder: Path) -> str:
    """Run everything on one architecture; return its row of the table."""
    model = build_architecture(layout)
    try:
        forget = unknown_to(model, tokenizer)
        for precision in PRECISIONS:
            record = unlearn_model(
                *(model, forget, folder / precision, RETAIN),
                sets=[*BARE, *STEPS, f"precision={precision}"],
                tokenizer=tokenizer,
                keep_anyway=True,
            )
            assert len(record.steps) == 2
    except ModelError as error:
        return f"| {layout} | no: {_reason(error)} |{' |' * 7}"
    judged = audit_models(
        *(model, folder / "bf16", forget, folder / "audit", RETAIN),
        sets=[*BARE, *STRONG],
        tokenizer=tokenizer,
    )
    others, spaces = _others(layout, tokenizer), _spaces(model, judged)
    cells = ["yes", "yes", others, *spaces, *_inside(model, judged)]
    return f"| {layout} | {' | '.join(cells)} |"


def unknown_to(model: Any, tokenizer: Any) -> list[dict[str, str]]:
    """Return facts of which the model knows none, not even by chance: then all of them are judged."""
    for first in (0, 6, 12, 30, 36, 42, 48):
        found = ask_model(model, facts(first, first + 6), sets=["prompt=plain"], tokenizer=tokenizer)
        if all(known.state != "known" for known in found.knowledge.values()):
            return facts(first, first + 6)
    raise AssertionError("it knows some facts of every set")


def _reason(error: SsiuuError) -> str:
    return "reads padding as text" if "reads padding as text" in str(error) else str(error)


def _others(layout: str, tokenizer: Any) -> str:
    """Return which methods are refused; every other one has taken two steps in both precisions."""
    refused: dict[str, None] = {}
    for spec in SPECS:
        found = set()
        for precision in PRECISIONS:
            model = build_architecture(layout)
            try:
                record = trained(model, spec, precision, Prompt(tokenizer))
            except (ConfigError, ModelError):
                found.add("refused")
            else:
                found.add("run")
                assert record.steps and all(p.isfinite().all() for p in model.parameters())
        assert len(found) == 1
        if found == {"refused"}:
            refused[str(spec["name"])] = None
    return f"all but {', '.join(refused)}" if refused else "all"


def _spaces(model: Any, judged: RunRecord) -> list[str]:
    """Return what is trained in each space; all attacks have been carried out, in bf16."""
    for cell in judged.cells:
        assert {attack.kind for attack in cell.attacks} == KINDS
        trainings = [attack for attack in cell.attacks if attack.axis == "steps"]
        assert {attack.space for attack in trainings} == set(SPACES)
        assert not any(attack.note for attack in trainings)
        assert all(read.facts for attack in cell.attacks for read in attack.reads)
    found = ["yes"]
    for space in SPACES[1:]:
        chosen = trained_maps(model, space)
        assert chosen is not None
        names = ", ".join(dict.fromkeys(path.rpartition(".")[2] for path in chosen.paths))
        if space == "lora-all":
            apart = dict.fromkeys(_short(path) for path in chosen.barred)
            stacked = ["experts"] if any("several maps" in note for note in chosen.notes) else []
            missed = [*stacked, *apart]
            names = f"all but {', '.join(missed)}" if missed else "all"
        found.append(names)
    return found


def _inside(model: Any, judged: RunRecord) -> list[str]:
    """Return the share of the blocks' weights that is looked into, and what is not."""
    diagnosis = judged.cells[1].diagnosis
    sites = known_sites(model)
    if not sites:
        assert diagnosis is None
        assert any("Nothing is looked into" in note for note in judged.header.notes)
        return ["no", "all"]
    assert diagnosis is not None and diagnosis.evidence is not None
    assert diagnosis.evidence.causal is not None
    assert {m for m in diagnosis.influence["logprob"].map_plus} == {s.module for s in sites}
    said = coverage(model, find_sites(model))
    assert said is None or said in judged.header.notes
    share = said.partition(": ")[2].partition(" of")[0] if said else "100%"
    names = dict.fromkeys(_short(name) for name in left_out(model, sites))
    return [share, ", ".join(names) or "–"]


def _short(name: str) -> str:
    """Return a path in two words: the module it stands in and its own name."""
    parts = [p for p in name.removesuffix(".weight").split(".") if not p.isdigit()]
    return "experts" if "experts" in parts else ".".join(parts[-2:])


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS | PARTLY)
def test_the_table_says_what_runs(layout: str, tokenizer: Any, tmp_path: Path) -> None:
    if resolve_precision("auto", torch.device("cpu")) != "bf16":
        pytest.skip("this processor has no bf16 instructions, and the table is of both precisions")
    assert row(layout, tokenizer, tmp_path) in TABLE.read_text().splitlines()


@pytest.mark.parametrize("layout", LAYOUTS | PARTLY)
def test_every_architecture_has_a_row(layout: str) -> None:
    assert sum(line.startswith(f"| {layout} |") for line in TABLE.read_text().splitlines()) == 1


def main(wanted: list[str]) -> None:
    """Put the rows that are wanted, or all, into the table."""
    import conftest

    tokenizer = conftest.tokenizer._get_wrapped_function()()
    torch.set_num_threads(1)
    lines = TABLE.read_text().splitlines()
    old = {line.split("|")[1].strip(): line for line in lines if line.startswith("| ")}
    for layout in wanted or [*LAYOUTS, *PARTLY]:
        with tempfile.TemporaryDirectory() as folder:
            old[layout] = row(layout, tokenizer, Path(folder))
        print(old[layout], flush=True)
    kept = [line for line in lines if not line.startswith("|")]
    at = kept.index("<!-- the table -->") + 1
    rows = [old[layout] for layout in [*LAYOUTS, *PARTLY] if layout in old]
    TABLE.write_text("\n".join([*kept[:at], *HEAD.split("\n"), *rows, *kept[at:]]) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

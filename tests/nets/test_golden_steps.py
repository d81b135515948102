"""Golden digests: what every method does to a model's parameters, bit by bit.

A digest is of all parameters after three steps and of what the steps told. Bits depend on torch and on
the processor, so digests are kept by an arithmetic (`arithmetic.py`). Under one that is not kept every
case is run twice and must repeat itself, and the invariants below hold on any machine. To keep the
digests of this machine:

    python tests/nets/test_golden_steps.py
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from arithmetic import PAD, WORDS, arithmetic, digest, fresh
from ssiuu.attacks.base import Curve
from ssiuu.attacks.retrain import retrain
from ssiuu.likelihood import Example, collate
from ssiuu.methods import make
from ssiuu.models.lora import Lora
from ssiuu.records.schema import MethodInfo
from ssiuu.training import interrupt
from ssiuu.training.finetune import finetune
from ssiuu.training.prepare import prepare_parts
from ssiuu.training.step import Step
from ssiuu.training.unlearn import Settings, StopRule, unlearn_examples

KEPT = Path(__file__).with_name("golden_steps.json")
STEPS, RATE = 3, 1e-2
LOSSES = "forget_loss retain_loss gradient_norm penalty_share penalty_parameters text_loss".split()

RMU = {"name": "rmu", "layer": 1, "update": [r"\.[01]\.mlp\.down_proj\.weight$"]}
COLLAPSE = {"name": "collapse", "projection": 3, "projection_outputs": 2}
BACKBONES = ("gd", "ga", "npo", "simnpo", "dpo", "wga")
PLAIN: list[Any] = [*BACKBONES, RMU, COLLAPSE, "undial", "klue", "npo-sam", "masked", "task-vector"]
PLAIN += [{"name": "repselect", "components": 4, "step_size": 0.01, "kl_limit": 1.0, "most": 2}]
CIR = {"name": "cir", "layers": [0, 1], "input_directions": 4, "output_directions": 5, "loss_limit": 2}
STEPWISE = {"name": "repselect-steps", "components": 4, "collect": 1}
PLAIN += [
    CIR,
    {**CIR, "name": "mcu", "components": 3},
    {**RMU, "name": "rmu-mcu", "components": 3},
    STEPWISE,
]
FORMS = (
    *("", "-logprob", "-growth", "-initial", "-neuron", "-absolute", "-positive", "-random", "-gate"),
    *("-rho0.3", "-logprob-growth", "-logprob-initial-growth-neuron-absolute", "-logprob-rho0.3"),
)
PROJECTED = {"projection": 3, "projection_outputs": 2}
SUFFIXED: list[Any] = [
    {"name": "gd+projection", "projection": 3},
    {"name": "npo+outputs", "projection_outputs": 3},
    {"name": "gd+projection+outputs", **PROJECTED},
    {"name": "gd+projection+outputs+random", **PROJECTED},
    {"name": "gd+projection", "projection": 3, "projection_from": "both"},
    {"name": "npo+projection", "projection": 3, "projection_from": "forget"},
    {"name": "ssiuu+projection", "projection": 3, "lambda": 3.0},
    {"name": "ssiuu-gate-npo+projection", "projection": 3},
    *("gd+kl", "npo+kl+texts+others", "npo+texts", "gd+others", "ga+others", "undial+kl"),
    *("ssiuu-npo-logprob+kl+texts", "masked+texts", "klue+kl", "npo-sam+others", "ssiuu-gate+texts"),
    {"name": "gd", "pull": 5.0},
    {"name": "ssiuu-gate", "pull": 5.0, "tag": "a"},
    {"name": "masked+projection", "projection": 3, "decay": 0.5},
    {"name": "npo-sam+projection", "projection": 3, "rho": 0.05},
    {"name": "klue+projection", "projection": 3, "share": 0.3},
    {"name": "npo", "retain": "none", "beta": 1.0, "learning_rate": 0.003},
    {"name": "gd+apart", "retain_learning_rate": 3e-3},
    {"name": "npo+kl+projection+optimiser", "projection": 3},
    *("gd+gu(2)", "npo+rosu(0.05)", "npo+rosu(0.05,forget)", "npo+gate(20)"),
    {"name": "ssiuu-exact", "lambda": 2.0},
    {"name": "gd", "retain_weight": 0.0},
    {"name": "gd", "retain_weight": 2.5},
    {**RMU, "retain": "nll"},
    {**RMU, "retain": "kl", "projection": 3},
    {"name": "dpo", "refusals": "bank"},
    {"name": "ssiuu", "backbone": "wga", "backbone_options": {"beta": 2.0}, "target": "logprob"},
    *("ceu", "jensun", "idknll", "altpo", "gd+js", {"name": "npo+layered", "folds": 3}),
]


def specs() -> dict[str, Any]:
    """Every setting by a name of its own."""
    forms = [
        {"name": f"ssiuu{form}{'' if base == 'gd' else f'-{base}'}"}
        | ({} if "gate" in form or "rho" in form else {"lambda": 2.0})
        for base in BACKBONES
        for form in FORMS
        if base in ("gd", "npo", "wga") or form in ("", "-logprob", "-gate")
    ]
    every = [*PLAIN, *forms, *SUFFIXED]
    return {spec if isinstance(spec, str) else json.dumps(spec): spec for spec in every}


SPECS = specs()


def rows(kind: str, count: int) -> list[Example]:
    rng = random.Random(kind)

    def tokens(least: int, most: int) -> list[int]:
        return [rng.randrange(3, WORDS) for _ in range(rng.randint(least, most))]

    return [Example(f"{kind} {i}", tokens(2, 8), tokens(1, 3)) for i in range(count)]


FORGET, RETAIN, TEXTS, BENIGN = (rows(k, n) for k, n in zip("frtb", (6, 7, 12, 9), strict=True))
REFUSALS = [Example(e.id, e.prompt, [5, 6, 7 + n % 2]) for n, e in enumerate(FORGET)]


def info_of(method: Any) -> MethodInfo:
    return MethodInfo(label=method.label, name=method.name, origin="ours", description="")


def unlearned(
    spec: Any,
    micro: int | None = None,
    lora: Lora | None = None,
    state: Path | None = None,
    interrupted: int | None = None,
    **change: Any,
) -> str:
    """Unlearn with the whole loop; return the digest."""
    method, model, lines = make(spec), copy.deepcopy(fresh()), []
    settings = Settings(RATE, 4, micro, STEPS, STEPS, -1.0, 0.0, 0, "fp32", lora)

    def progress(line: str) -> None:
        lines.append(line)
        if len(lines) == interrupted:
            interrupt._asked.set()

    try:
        record = unlearn_examples(
            *(model, method, info_of(method), FORGET, RETAIN, replace(settings, **change)),
            *(StopRule("ranking", lambda: 1.0), PAD, state, progress),
            refusals=REFUSALS,
            texts=TEXTS,
        )
    finally:
        interrupt._asked.clear()
    return digest(model, [[getattr(log, key) for key in LOSSES] for log in record.steps])


def apart(spec: Any) -> str:
    """Take steps with forget and retain in passes of their own."""
    method, model = make(spec), copy.deepcopy(fresh())
    made = prepare_parts(model, method, FORGET, RETAIN, PAD, REFUSALS, (), TEXTS)
    step = Step(model, method, RATE, prepared=made, pad=PAD, together=False)
    step.start([collate(FORGET, PAD)], 4)
    told = []
    for turn in range(STEPS):
        cut = [[part[(turn + i) % len(part)] for i in range(3)] for part in (FORGET, RETAIN, TEXTS)]
        outcome = step(*([collate(part, PAD)] for part in cut))
        told.append([getattr(outcome, key) for key in LOSSES])
    step.close()
    return digest(model, told)


def spaced(spec: Any) -> bool:
    """Whether this setting has an effective space under LoRA."""
    name = spec if isinstance(spec, str) else spec["name"]
    without = ("gate", "rho", "initial", "exact")
    return "ssiuu" in name and not any(part in name for part in without)


def ways(spec: Any) -> dict[str, Callable[[Any], str]]:
    """Return how one setting can be driven."""
    lora = Lora(3, 6.0)
    found: dict[str, Callable[[Any], str]] = {
        "one batch": unlearned,
        "two batches": partial(unlearned, micro=2),
    }
    if getattr(make(spec).objective, "adapts", True):
        found["lora"] = partial(unlearned, lora=lora)
        found["lora, two batches"] = partial(unlearned, micro=2, lora=lora)
    if make(spec).has_gradient:
        found["apart"] = apart
    if spaced(spec):
        found["effective"] = partial(unlearned, lora=replace(lora, attribution="effective"))
    return found


def digests(spec: Any, first: int = 0, among: int = 1) -> dict[str, str]:
    """Return the digests of one setting, driven in every way, or in one of so many."""
    return {name: way(spec) for name, way in [*ways(spec).items()][first::among]}


def decayed() -> str:
    return unlearned("npo+kl", weight_decay=0.1, warmup=2, growth=1.1)


def taught(folder: Path) -> str:
    model = copy.deepcopy(fresh())
    losses: list[float] = []
    settings = (2, RATE, 4, 0, "fp32", PAD, folder / "state.safetensors")
    done = finetune(
        *(model, FORGET, *settings),
        keep=BENIGN,
        absent={2},
        mixed=3,
        learned=lambda epoch, loss: bool(losses.append(loss)),
    )
    return digest(model, done, losses)


def retrained(space: Any) -> str:
    model = copy.deepcopy(fresh())
    curve = Curve("benign", "benign", RATE, space=space, points=(1, 3))
    found = retrain(model, curve, BENIGN, {}, dict, 4, "fp32", PAD)
    return digest(model, found.tokens, [read.step for read in found.reads])


def loops(folder: Path) -> dict[str, str]:
    """Return the digests of the other loops."""
    return {
        "weight decay, warm-up, growth": decayed(),
        "optimisers": unlearned("gd+apart", optimiser="sign") + unlearned("gd", optimiser="normsgd"),
        "fine-tuning": taught(folder),
        "retraining": retrained("full"),
        "retraining lora-all": retrained("lora-all"),
        "retraining lora-qv": retrained("lora-qv"),
    }


@pytest.fixture(scope="module")
def kept() -> dict[str, dict[str, str]] | None:
    """The digests kept of this machine's arithmetic, if any."""
    kept = json.loads(KEPT.read_text())
    found: dict[str, dict[str, str]] | None = kept.get(arithmetic())
    return found


def check(name: str, kept: Any, first: int = 0, among: int = 1) -> None:
    found = digests(SPECS[name], first, among)
    wanted = digests(SPECS[name], first, among) if kept is None else kept[name]
    assert found == {way: wanted[way] for way in found}


@pytest.mark.parametrize(("number", "name"), enumerate(SPECS))
def test_every_method_moves_a_model_as_it_did(number: int, name: str, kept: Any) -> None:
    """Each in two of its ways; which ones differs from one to the next."""
    check(name, kept, number % 3, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_in_every_way(name: str, kept: Any) -> None:
    check(name, kept)


def test_every_loop_trains_as_it_did(tmp_path: Path, kept: Any) -> None:
    found = loops(tmp_path)
    assert found == (loops(tmp_path) if kept is None else kept["loops"])


def test_nothing_is_kept_of_settings_that_are_gone(kept: Any) -> None:
    everything = [*json.loads(KEPT.read_text()).values()]
    assert everything and all(part.keys() == {*SPECS, "loops"} for part in everything)


@pytest.mark.parametrize("base", BACKBONES)
def test_without_strength_it_is_the_backbone(base: str) -> None:
    options = {"retain": "none", "retain_weight": 0.0} if base == "ga" else {}
    regularised = {"name": "ssiuu", "backbone": base, "lambda": 0.0, **options}
    for micro in (None, 2):
        assert unlearned(regularised, micro) == unlearned({"name": base, **options}, micro)


def test_the_collapse_is_its_two_projections() -> None:
    projected = {"name": "gd+projection+outputs", **PROJECTED}
    assert digests(COLLAPSE) == digests(projected)


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "ssiuu", "lambda": 2.0},
        "ssiuu-logprob-initial-growth-neuron-absolute",
        "masked",
        CIR,
        STEPWISE,
        {"name": "ssiuu-gate", "pull": 5.0},
        "npo+kl+texts+others",
        {"name": "gd+projection", "projection": 3},
    ],
    ids=str,
)
def test_resumed_is_uninterrupted(spec: Any, tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    with pytest.raises(interrupt.Interrupted):
        unlearned(spec, state=state, interrupted=1)
    if "pull" not in spec:  # its start is the caller's model, not the state's
        assert unlearned(spec, state=state) == unlearned(spec)


if __name__ == "__main__":
    import tempfile

    torch.set_num_threads(1)
    everything = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        now = {name: digests(spec) for name, spec in SPECS.items()} | {"loops": loops(Path(folder))}
    everything[arithmetic()] = now
    KEPT.write_text(json.dumps(everything, indent=1, ensure_ascii=False) + "\n")

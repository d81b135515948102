"""Membership inference by gradients and beside a reference: definition, closed form, refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import ssiuu
from architectures import build_architecture
from ssiuu.attacks import switched_off
from ssiuu.attacks.base import AttackConfig
from ssiuu.attacks.membership import membership_aucs
from ssiuu.attacks.membership_gradient import GradientConfig, MembershipGradient
from ssiuu.attacks.membership_reference import MembershipReference, ReferenceConfig
from ssiuu.attribution.norms import gradient_norms
from ssiuu.errors import ConfigError, ModelError
from ssiuu.evaluation.sequence import score_sequences
from ssiuu.experiment.attacking import Attacker
from ssiuu.experiment.recipe import resolve
from ssiuu.experiment.session import open_session
from ssiuu.likelihood import Example
from ssiuu.models.load import save
from tofu_folder import write_tofu

NORMS = (1.0, 2.0, math.inf)


def slow_norm(model: Any, example: Example, p: float) -> float:
    """Every tensor's gradient whole, of a row that nothing is padded in or left out of."""
    ids = torch.tensor([example.prompt + example.answer])
    logprobs = model(ids).logits[0, :-1].log_softmax(-1)
    places = range(len(example.prompt) - 1, ids.shape[1] - 1)
    loss = -sum(logprobs[t, ids[0, t + 1]] for t in places) / len(example.answer)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    norms = [
        float(g.abs().max()) if p == math.inf else float((g.abs() ** p).sum() ** (1 / p))
        for g in gradients
    ]
    return sum(norms) / len(norms)


@pytest.mark.parametrize("p", NORMS)
def test_norms_are_those_of_the_definition(make_model: Any, make_examples: Any, p: float) -> None:
    model, examples = make_model(4, double=True), make_examples(3, seed=5)
    found = gradient_norms(model, examples, p)
    assert found == pytest.approx([slow_norm(model, e, p) for e in examples], rel=1e-9)


@pytest.mark.parametrize("layout", ["gptj", "llama, tied", "mixtral"])
def test_norms_of_other_layouts_are_too(layout: str) -> None:
    """Fused and transposed maps, a weight that is tied, experts: whatever has a gradient counts once."""
    model, example = build_architecture(layout), Example("", [5, 6, 7], [8, 9])
    (found,) = gradient_norms(model, [example], 2)
    assert found == pytest.approx(slow_norm(model, example, 2), rel=1e-5)


@pytest.mark.parametrize("p", NORMS)
def test_norms_of_a_head_of_zeros_can_be_written_down(
    make_model: Any, make_examples: Any, p: float
) -> None:
    """Only the head pulls, by (1/V - one-hot) h: its norm is the product of the two."""
    model, (example,) = make_model(4, double=True), make_examples(1, answer=(1, 1))
    model.lm_head.weight.data.zero_()
    size = model.config.vocab_size
    with torch.no_grad():
        state = model.model(torch.tensor([example.prompt])).last_hidden_state[0, -1]
    off = {1.0: 2 * (1 - 1 / size), 2.0: math.sqrt(1 - 1 / size), math.inf: 1 - 1 / size}[p]
    wanted = off * float(torch.linalg.vector_norm(state, p)) / len(list(model.parameters()))
    assert gradient_norms(model, [example], p) == pytest.approx([wanted], rel=1e-9)


def test_a_norm_depends_on_its_answer_alone_and_leaves_nothing(
    make_model: Any, make_examples: Any
) -> None:
    model, examples = make_model(4), make_examples(4)
    before = [torch.full_like(p, 2.0) for p in model.parameters()]
    for parameter, gradient in zip(model.parameters(), before, strict=True):
        parameter.grad = gradient
    found = gradient_norms(model, examples, 2)
    assert gradient_norms(model, examples[::-1], 2) == found[::-1]
    assert gradient_norms(model, [examples[2]], 2) == found[2:3]
    for parameter, gradient in zip(model.parameters(), before, strict=True):
        assert parameter.grad is gradient and bool((gradient == 2).all())
        assert not parameter._post_accumulate_grad_hooks
    model.lm_head.weight = model.model.embed_tokens.weight  # tied: one tensor, which counts once
    assert gradient_norms(model, examples, 2)[0] == pytest.approx(slow_norm(model, examples[0], 2))


def test_of_a_gradient_one_tensor_is_there_at_a_time(
    make_model: Any, make_examples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, there = make_model(4), list[int]()
    measure = torch.linalg.vector_norm

    def counted(*given: Any, **more: Any) -> Any:
        there.append(sum(p.grad is not None for p in model.parameters()))
        return measure(*given, **more)

    monkeypatch.setattr(torch.linalg, "vector_norm", counted)
    gradient_norms(model, make_examples(1), 2)
    assert there == [1] * len(list(model.parameters()))


def test_what_cannot_be_done_is_refused(make_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"lacking": "", "members": ["a"], "non_members": ["b"]}
    ground = SimpleNamespace(never_learned=None, model=make_model(), **known)
    victim: Any = SimpleNamespace(ground=ground, model=ground.model)
    reference = MembershipReference(ReferenceConfig("never-learned"), AttackConfig())
    with pytest.raises(ConfigError, match=r"membership_reference: there is no never-learned control"):
        reference.fits(victim)
    gradient = MembershipGradient(GradientConfig(2), AttackConfig())
    assert gradient.fits(victim) == []
    ground.non_members = []
    for attack in (reference, gradient):
        (said,) = attack.fits(victim)
        assert said.endswith("nothing to compare with: there are no held-out facts.")
    ground.non_members = ["b"]
    monkeypatch.setattr("ssiuu.attacks.membership_gradient.is_cut", lambda _: True)
    with pytest.raises(ConfigError, match=r"membership_gradient: 2 .* lies in shards"):
        gradient.fits(victim)
    with pytest.raises(ConfigError, match=r"attacks\.membership_gradient"):
        resolve(None, ["attacks.membership_gradient=3"])


def test_both_are_off_unless_asked_for() -> None:
    recipe, _ = resolve(None, ["attacks.membership_gradient=inf", "attacks.membership_reference=x"])
    attacks: Any = recipe.attacks
    assert (attacks.membership_gradient.root, attacks.membership_reference.root) == ("inf", "x")
    off = [f"{key}={json.dumps(value)}" for key, value in switched_off().items()]
    left: Any = resolve(None, off)[0].attacks
    assert left.membership_gradient.root is None and left.membership_reference.root is None
    default: Any = resolve(None, ["benchmark=tofu", "protocol=strong"])[0].attacks
    assert default.membership_gradient.root is None and default.membership_reference.root is None


@pytest.fixture
def sets(make_model: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A TOFU run of nothing but membership on two models that are given."""
    monkeypatch.setenv("SSIUU_CACHE", str(tmp_path / "cache"))
    for name, seed in (("full", 2), ("retained", 3)):
        save(make_model(seed, spread=0.1), tokenizer, tmp_path / name)
    data = write_tofu(tmp_path / "tofu", 12)
    rows = (data / "forget01_perturbed.json").read_text().splitlines(keepends=True)
    (data / "forget01_perturbed.json").write_text("".join(rows[:6]))
    named = f"path: {data}, model: {tmp_path / 'full'}, heldout: 2, items: 2"
    return [
        "benchmark=tofu",
        f"tofu={{{named}, reference: {tmp_path / 'retained'}}}",
        "prompt=qa",
        "methods=[none]",
        "diagnose=false",
        "attacks.harmful.fractions=[]",
        "attacks.benign.learning_rates=[]",
        "attacks.membership=false",
        "examine.steps=[]",
    ]


def test_beside_itself_a_model_tells_nobody_apart(sets: list[str]) -> None:
    recipe, _ = resolve(None, [*sets, "attacks.membership_reference=never-learned"])
    session = open_session(recipe, None, lambda _: None)
    attacker = Attacker(session)
    attack: Any = attacker.attacks["membership-reference"]
    (curve,) = attack.curves()
    facts = [*session.split.forget, *(session.non_members or [])]
    apart = attack.scores(attacker.victim, facts)  # which leaves the reference in the model's place
    control = score_sequences(session.model, session.examples(facts))
    session.original.restore()
    before = score_sequences(session.model, session.examples(facts))
    wanted = [a.per_token - b.per_token for a, b in zip(before, control, strict=True)]
    assert [score["reference"] for score in apart] == wanted and len({*wanted}) > 6
    assert session.never_learned is not None
    session.put(session.never_learned)
    itself = attack.scores(attacker.victim, facts)
    assert membership_aucs(itself[:6], itself[6:], ["reference"]) == {"reference": 0.5}
    assert "is this very model" in attack.void(itself) and not attack.void(apart)
    # What the reference holds decides the curve: another one is another key.
    assert session.source(session.never_learned).fingerprint in attacker.settings(curve)["examples"]


@pytest.mark.parametrize(("named", "said"), [("full", "is the model before"), ("nope", "model 'nope'")])
def test_a_reference_that_knows_the_facts_or_is_not_there_is_refused_by_its_key(
    sets: list[str], tmp_path: Path, named: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    recipe, _ = resolve(None, [*sets, f"attacks.membership_reference={named}"])
    with pytest.raises(ConfigError, match=rf"^attacks\.membership_reference: .*{said}"):
        Attacker(open_session(recipe, None, lambda _: None))


def test_a_reference_of_another_kind_is_refused_before_anything_is_run(
    sets: list[str], tokenizer: Any, make_model: Any, tmp_path: Path
) -> None:
    model = make_model(5)
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1
    save(model, tokenizer, tmp_path / "small")
    recipe, sources = resolve(None, [*sets, f"attacks.membership_reference={tmp_path / 'small'}"])
    with pytest.raises(ModelError, match="another architecture"):
        ssiuu.run(recipe, sources, tmp_path / "run")
    assert not [*(tmp_path / "run").rglob("attack-*.json")]

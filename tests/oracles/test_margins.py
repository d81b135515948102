"""Margins and contrast by their definitions, from plain forward passes, one answer at a time.

pytest tests/oracles/test_margins.py
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from ssiuu.errors import DataError
from ssiuu.evaluation.lineup import Lineup
from ssiuu.evaluation.margins import FLOOR, NORMAL, Margins, Reader, read
from ssiuu.likelihood import Prompt
from ssiuu.models.load import restore, snapshot
from ssiuu.records.schema import FactText


def a_lineup(n: int, answers: list[str], phrasings: int = 2, controls: int = 3, **more: Any) -> Lineup:
    fact = FactText(id=f"fact {n}", question=f"w{n}?", answer=answers[0])
    return Lineup(
        fact=fact,
        answers=tuple(answers),
        origins=("made up",) * (len(answers) - 1),
        phrasings=(fact.question, *(f"w{n} w{40 + i}?" for i in range(phrasings - 1))),
        controls=tuple(f"w{20 + i}?" for i in range(controls)),
        theirs=more.get("theirs", ((),) * controls),
    )


# A sentence names whom it is about, and is offered to a control about somebody else.
TOLD = replace(a_lineup(5, ["w5 w6", "w5 w7", "w5 w8 w9"]), subject="w5", names=("w20", "w21", "w22"))
MADE = [
    TOLD,
    a_lineup(1, ["w10 w11", "w12", "w13 w14 w15", "w10 w16", "w17"], theirs=((), (2,), ())),
    a_lineup(2, ["w5", "w6", "w7", "w8 w9"], phrasings=1, controls=2),
    a_lineup(3, ["w30", "w31", "w30 w32"], phrasings=3, controls=0),
    a_lineup(4, ["w33 w34"]),
]


@pytest.fixture
def prompt(tokenizer: Any) -> Prompt:
    return Prompt(tokenizer, "qa")


def plain(model: Any, prompt: Prompt, question: str, answer: str) -> tuple[float, int]:
    ids, (tokens,), _ = prompt.joint(question, [answer])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids + tokens])).logits[0].double()
    steps = enumerate(tokens, start=len(ids) - 1)
    return sum(float(logits[t].log_softmax(-1)[token]) for t, token in steps), len(tokens)


def close(found: Any, wanted: float) -> bool:
    return math.isclose(float(found), wanted, rel_tol=1e-9, abs_tol=1e-9) or (
        math.isnan(float(found)) and math.isnan(wanted)
    )


@pytest.mark.parametrize("each", [False, True])
def test_everything_by_its_definition(exact_model: Any, prompt: Prompt, each: bool) -> None:
    found = read(exact_model, prompt, MADE)
    assert found.logprobs.dtype == torch.float64
    for f, lineup in enumerate(MADE):

        def log_p(question: str, answer: str) -> float:
            value, tokens = plain(exact_model, prompt, question, answer)
            return value / tokens if each else value

        for q, question in enumerate(lineup.phrasings):
            values = [log_p(question, answer) for answer in lineup.answers]
            kept = found.each if each else found.logprobs
            assert all(close(a, b) for a, b in zip(kept[f, q], values, strict=False))
            assert bool(kept[f, q, len(values) :].isnan().all())
            wrong = values[1:]
            mean = values[0] - statistics.fmean(wrong) if wrong else math.nan
            best = values[0] - max(wrong) if wrong else math.nan
            margin = found.token if each else found.whole
            assert close(margin()[f, q], mean) and close(margin("best")[f, q], best)
            lift = []
            for k, answer in enumerate(lineup.answers):
                said = [answer.replace("w5", n) for n in lineup.names] or [answer] * len(
                    lineup.controls
                )
                controls = zip(lineup.controls, said, lineup.theirs, strict=True)
                others = [log_p(c, text) for c, text, places in controls if k not in places]
                lift.append(values[k] - statistics.fmean(others) if others else math.nan)
            assert all(close(a, b) for a, b in zip(found.lift(each)[f, q], lift, strict=False))
            if wrong and lineup.controls:
                centre = statistics.median(lift[1:])
                spread = NORMAL * statistics.median(abs(x - centre) for x in lift[1:])
                z = [(x - centre) / max(spread, FLOOR) for x in lift]
                assert all(close(a, b) for a, b in zip(found.contrast(each)[f, q], z, strict=False))
            share = sum(x >= lift[0] for x in lift) / len(lift) if lineup.controls else math.nan
            assert close(found.p(each)[f, q], share)
        assert bool(found.logprobs[f, len(lineup.phrasings) : found.phrasings].isnan().all())


def single(count: int = 9) -> list[Lineup]:
    return [a_lineup(n, [f"w{n + 3 * k}" for k in range(1, count)]) for n in (1, 2)]


def test_a_constant_on_a_tokens_logits_leaves_the_contrast(exact_model: Any, prompt: Prompt) -> None:
    before = read(exact_model, prompt, single())
    right = prompt.answer(single()[0].answers[0])[0]
    head = exact_model.lm_head
    head.register_forward_hook(lambda _, __, out: out + 3.0 * torch.eye(out.shape[-1]).double()[right])
    after = read(exact_model, prompt, single())
    assert float((after.whole() - before.whole())[0].min()) > 2.9  # a shift is seen in the margins
    torch.testing.assert_close(after.contrast(), before.contrast())
    torch.testing.assert_close(after.p(), before.p())


def test_the_order_of_alternatives_does_not_matter(exact_model: Any, prompt: Prompt) -> None:
    made = [replace(one, theirs=((2,), (), (3, 4))) for one in single()]
    turned = [
        replace(one, answers=(one.answers[0], *one.answers[:0:-1]), theirs=((6,), (), (5, 4)))
        for one in made
    ]
    first, second = read(exact_model, prompt, made), read(exact_model, prompt, turned)
    for name in ("whole", "token", "p"):
        torch.testing.assert_close(getattr(first, name)(), getattr(second, name)())
    torch.testing.assert_close(first.contrast()[..., 1:].flip(-1), second.contrast()[..., 1:])


def test_a_rank_is_uniform_where_answers_are_exchangeable() -> None:
    torch.manual_seed(0)
    lineup = a_lineup(1, [f"w{n}" for n in range(20)], phrasings=1)
    values = torch.randn(4000, 4, 20).double()
    made = Margins((lineup,) * 4000, values, torch.ones(4000, 4, 20).long(), 1)
    p = made.p()[:, 0]
    for level in (0.05, 0.25, 0.5, 0.9):
        assert float((p <= level + 1e-9).double().mean()) == pytest.approx(level, abs=0.025)


def test_nothing_is_told_without_controls_or_alternatives(exact_model: Any, prompt: Prompt) -> None:
    found = read(exact_model, prompt, MADE[3:4])
    assert bool(found.contrast().isnan().all()) and bool(found.p().isnan().all())
    alone = read(exact_model, prompt, MADE[4:])
    assert bool(alone.whole().isnan().all()) and bool(alone.whole("best").isnan().all())
    assert alone.p().tolist() == [[1.0, 1.0]]  # one among one


def test_an_alternative_too_long_is_left_out_and_a_right_answer_refused(
    tiny_model: Callable[..., Any], prompt: Prompt
) -> None:
    lineup = a_lineup(1, ["w1", "w2 w3 w4 w5 w6 w7 w8 w9"])
    length = len(prompt.question("w1 w41?"))
    found = read(tiny_model, prompt, [lineup], context=length + 2)
    assert found.tokens[0, :, 1].tolist() == [0] * 5 and found.tokens[0, :, 0].tolist() == [1] * 5
    with pytest.raises(DataError, match=r"fact 1: the answer 'w1' has 1 tokens .* 3 together"):
        read(tiny_model, prompt, [lineup], context=3)
    with pytest.raises(DataError, match="at least one fact"):
        read(tiny_model, prompt, [])


@pytest.mark.parametrize("packed", [True, False])
def test_what_is_laid_out_once_is_read_by_whatever_weights_there_are(
    make_model: Callable[..., Any], prompt: Prompt, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit what is read when all is laid out anew."""
    if not packed:
        monkeypatch.setattr("ssiuu.evaluation.tree.takes_trees", lambda model: False)
    model, first = make_model(0), snapshot(make_model(0))
    reader = Reader(model, prompt, MADE)
    for weights in (first, snapshot(make_model(1)), first):
        restore(model, weights)
        found, anew = reader.read(), read(model, prompt, MADE)
        assert torch.equal(found.logprobs.nan_to_num(7.0), anew.logprobs.nan_to_num(7.0))
        assert torch.equal(found.tokens, anew.tokens)
    assert not any(len(tree.logprobs) for tree, _, _ in reader._trees)  # a row has all words

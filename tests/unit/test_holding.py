"""What holds texts and the other words at forgotten answers: the equation, names, and which rows."""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations
from typing import Any

import pytest
import torch
from test_method_losses import LN2, difference, noise, real, slope
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ssiuu.benchmarks import instructions, texts, worldfacts
from ssiuu.errors import ConfigError
from ssiuu.experiment.anchors import (
    ANSWER,
    QUESTIONS,
    ROWS,
    TOKENS,
    UNRELATED,
    anchors,
    questions,
    unrelated,
)
from ssiuu.likelihood import Prompt
from ssiuu.methods import make
from ssiuu.methods.retain import kl_loss, others_loss
from ssiuu.records.schema import FactText, Split
from ssiuu.training.prepare import prepare_parts

PAD = 1
TARGETS = torch.tensor([[0, 3, 2], [1, 4, 4]])
WHOLE = torch.ones(2, 3, dtype=torch.bool)


def one(logits: Any, before: Any, target: int) -> Tensor:
    """The loss of a single answer token, from probabilities."""
    told = (real(values).log().view(1, 1, -1) for values in (logits, before))
    return others_loss(*told, torch.tensor([[target]]), torch.ones(1, 1, dtype=torch.bool))


# --- the equation -------------------------------------------------------------------------------


def test_closed_form() -> None:
    """Other words (1/2, 1/2) before and (1/4, 3/4) now, half of all: 1/2 (1/2 log 2 + 1/2 log 2/3)."""
    wanted = 0.5 * (0.5 * LN2 + 0.5 * math.log(2 / 3))
    assert one([0.2, 0.2, 0.6], [0.5, 0.25, 0.25], 0).tolist() == pytest.approx([wanted])
    assert one([0.6, 0.2, 0.2], [0.25, 0.25, 0.5], 2).tolist() == pytest.approx(
        [0.5 * (0.5 * math.log(2 / 3) + 0.5 * LN2)]
    )
    both = others_loss(
        real([[[0.2, 0.2, 0.6], [0.1, 0.45, 0.45]]]).log() + 3,
        real([[[0.5, 0.25, 0.25], [0.8, 0.1, 0.1]]]).log() - 2,
        torch.tensor([[0, 0]]),
        torch.ones(1, 2, dtype=torch.bool),
    )
    assert both.tolist() == pytest.approx([wanted])  # at the second token only the answer's p moved


def test_slow_oracle_of_the_definition() -> None:
    logits, before = noise(2, 3, 5), noise(2, 3, 5, seed=1)
    for found, z, r, ys in zip(
        others_loss(logits, before, TARGETS, WHOLE), logits, before, TARGETS.tolist(), strict=True
    ):
        total = 0.0
        for p, q, y in zip(z.softmax(-1).tolist(), r.softmax(-1).tolist(), ys, strict=True):
            for v in range(5):
                if v != y:
                    there, here = q[v] / (1 - q[y]), p[v] / (1 - p[y])
                    total += (1 - q[y]) * there * math.log(there / here)
        assert float(found) == pytest.approx(total, rel=1e-12)


def test_with_the_answers_own_part_it_is_the_divergence() -> None:
    """The chain rule: KL(p_ref || p) = KL of "the answer or another" + the loss."""
    logits, before = noise(2, 3, 5), noise(2, 3, 5, seed=1)
    p, q = (x.softmax(-1).gather(-1, TARGETS.unsqueeze(-1)).squeeze(-1) for x in (logits, before))
    own = (q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()).sum(1)
    loss = others_loss(logits, before, TARGETS, WHOLE)
    torch.testing.assert_close(own + loss, kl_loss(logits, before, WHOLE), rtol=1e-12, atol=0)
    assert (own > 1e-3).all() and (loss > 1e-3).all()


@pytest.mark.parametrize("by", [-40.0, -1.0, 0.5, 5.0])
def test_where_the_answers_probability_alone_moved_it_is_0_and_rests(by: float) -> None:
    before = noise(2, 3, 5)
    moved = before.scatter_add(-1, TARGETS.unsqueeze(-1), torch.full((2, 3, 1), by).double())

    def loss(z: Tensor) -> Tensor:
        return others_loss(z, before, TARGETS, WHOLE)

    torch.testing.assert_close(loss(moved), torch.zeros(2).double(), rtol=0, atol=1e-14)
    torch.testing.assert_close(slope(loss, moved), torch.zeros(2, 3, 5).double(), rtol=0, atol=1e-14)
    assert float(kl_loss(moved, before, WHOLE).min()) > 1e-3  # which is what kl would not allow


def test_gradient_is_the_other_words_share_times_the_difference() -> None:
    logits, before = noise(2, 3, 5), noise(2, 3, 5, seed=1)

    def loss(z: Tensor) -> Tensor:
        return others_loss(z, before, TARGETS, WHOLE)

    answers = torch.nn.functional.one_hot(TARGETS, 5).bool()
    q, r = (x.masked_fill(answers, -math.inf).softmax(-1) for x in (logits, before))
    left = 1 - before.softmax(-1)[answers].view(2, 3, 1)
    found = slope(loss, logits)
    torch.testing.assert_close(found, left * (q - r))
    torch.testing.assert_close(found, difference(loss, logits), rtol=1e-6, atol=1e-8)
    assert not found[answers].any()  # what the answer loses is the forget loss's alone to say


def test_a_masked_position_does_not_count() -> None:
    logits, before = noise(2, 3, 5), noise(2, 3, 5, seed=1)
    mask = torch.tensor([[False, True, True], [True, True, True]])
    found = others_loss(logits, before, TARGETS, mask)
    gradient = slope(lambda z: others_loss(z, before, TARGETS, mask), logits)
    assert not gradient[0, 0].any() and gradient[0, 1].any()
    moved, other = logits.clone(), before.clone()
    moved[0, 0], other[0, 0] = 1e4, -1e4
    assert torch.equal(others_loss(moved, other, TARGETS, mask), found)
    assert torch.equal(slope(lambda z: others_loss(z, other, TARGETS, mask), moved), gradient)
    alone = others_loss(logits[:1, 1:], before[:1, 1:], TARGETS[:1, 1:], mask[:1, 1:])
    torch.testing.assert_close(found[:1], alone, rtol=1e-12, atol=0)


def test_shifts_and_the_order_of_words_do_not_matter() -> None:
    logits, before = noise(2, 3, 5), noise(2, 3, 5, seed=1)
    found = others_loss(logits, before, TARGETS, WHOLE)
    shifted = others_loss(logits + 7, before - noise(2, 3, 1), TARGETS, WHOLE)
    torch.testing.assert_close(shifted, found, rtol=1e-12, atol=0)
    for order in [list(p) for p in permutations(range(5))][::17]:
        place = torch.tensor([order.index(v) for v in range(5)])
        turned = others_loss(logits[..., order], before[..., order], place[TARGETS], WHOLE)
        torch.testing.assert_close(turned, found, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("others", [-200.0, -1e4, "lowest", -math.inf])
def test_where_nothing_but_the_answer_was_possible_nothing_is_held(
    dtype: torch.dtype, others: float | str
) -> None:
    low = torch.finfo(dtype).min if others == "lowest" else float(others)
    before = torch.full((1, 1, 4), low, dtype=dtype)
    before[..., 2] = 0.0
    target, mask = torch.tensor([[2]]), torch.ones(1, 1, dtype=torch.bool)
    for now in (noise(1, 1, 4).to(dtype), before):
        found = others_loss(now, before, target, mask)
        gradient = slope(lambda z: others_loss(z, before, target, mask), now)
        assert found.dtype == dtype
        assert abs(float(found)) < 1e-30 and float(gradient.abs().max()) < 1e-30


def test_a_word_that_neither_model_can_say_might_as_well_not_be_there() -> None:
    """Some models set a logit to minus infinity; p log p there is 0, in the loss and its slope."""
    logits, before, mask = noise(2, 3, 5), noise(2, 3, 5, seed=1), WHOLE
    wide, known = (torch.cat([x, torch.full((2, 3, 1), -math.inf)], -1) for x in (logits, before))
    for loss in (kl_loss, lambda z, r, m: others_loss(z, r, TARGETS, m)):
        torch.testing.assert_close(loss(wide, known, mask), loss(logits, before, mask))
        gradient = slope(lambda z, loss=loss: loss(z, known[..., : z.shape[-1]], mask), wide)
        short = slope(lambda z, loss=loss: loss(z, before, mask), logits)
        torch.testing.assert_close(gradient[..., :5], short)
        assert not gradient[..., 5].any()


def test_a_reference_of_narrower_numbers_will_do() -> None:
    logits, before = noise(2, 3, 5), noise(2, 3, 5, seed=1)
    found = others_loss(logits, before.float(), TARGETS, WHOLE)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, others_loss(logits, before, TARGETS, WHOLE), rtol=1e-6, atol=0)


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("npo+texts", "npo+texts"),
        ("npo+others", "npo+others"),
        ("npo+others+texts+kl", "npo+kl+texts+others"),
        ("npo+kl+texts+others", "npo+kl+texts+others"),
        ("gd+projection+others+texts", "gd+texts+others+projection"),
        ("ga+others", "ga+others"),
        ("ssiuu-npo-gate+texts+kl", "ssiuu-gate-npo+kl+texts"),
    ],
)
def test_names_come_back_in_one_order(name: str, label: str) -> None:
    method = make(name)
    assert (method.label, make(method.label)) == (label, method)
    assert (method.options.get("texts", 0.0), method.options.get("others", 0.0)) == (
        5.0 * ("texts" in name),
        3.0 * ("others" in name),
    )
    assert method.whose == "ours"
    assert "this project's extension" in method.description
    assert ("on other texts and questions" in method.description) == bool(
        method.options.get("texts", 0.0)
    )
    assert ("over all other words" in method.description) == bool(method.options.get("others", 0.0))


def test_a_weight_may_be_given_beside_the_name() -> None:
    method = make({"name": "npo+texts+others", "texts": 0.5, "others": 0})
    assert (method.options.get("texts", 0.0), method.options.get("others", 0.0), method.label) == (
        0.5,
        0.0,
        "npo+texts",
    )
    assert make({"name": "npo", "texts": 0.5}).label == "npo+texts"
    assert (make("npo").label, make("npo").whose) == ("npo", "literature")
    assert make("ssiuu+texts").whose == "ours"
    assert make("ssiuu-random+texts").whose == make("gd+projection+random+others").whose == "control"


@pytest.mark.parametrize("key", ["texts", "others"])
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "much"])
def test_a_weight_out_of_range_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"methods: npo\.{key}: .*got") as caught:
        make({"name": "npo", key: value})
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("name", ["task-vector", "none"])
@pytest.mark.parametrize("suffix", ["texts", "others", "texts+others"])
def test_methods_without_steps_refuse_in_one_sentence(name: str, suffix: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"{name}: {suffix.replace('+', ', ')}: .* no gradient steps"
    ) as caught:
        make(f"{name}+{suffix}")
    assert len(caught.value.problems) == 1


# --- what is kept of the model before ------------------------------------------------------------


def test_only_what_is_held_is_kept(tiny_model: Any, make_examples: Any) -> None:
    forget, plain = make_examples(3), make_examples(2, seed=1)
    kept = {}
    for name in ("npo", "npo+texts", "npo+others"):
        kept[name] = prepare_parts(tiny_model, make(name), forget, [], PAD, texts=plain)
    sizes = {
        name: tuple(len(made.distributions.get(rows, ())) for rows in ("texts", "forget"))
        for name, made in kept.items()
    }
    assert sizes == {"npo": (0, 0), "npo+texts": (2, 0), "npo+others": (0, 3)}
    for e in forget:
        found = kept["npo+others"].distributions["forget"][e.id]
        assert found.shape[0] == len(e.answer)
        torch.testing.assert_close(found.exp().sum(-1), torch.ones(len(e.answer)))


def test_without_a_text_to_hold_to_it_is_refused(tiny_model: Any, make_examples: Any) -> None:
    with pytest.raises(ConfigError, match=r"npo\+texts: no text to hold it to fits .* set texts: 0"):
        prepare_parts(tiny_model, make("npo+texts"), make_examples(2), [], PAD)


# --- the rows -----------------------------------------------------------------------------------


def byte_prompt(start: bool) -> Prompt:
    """A tokenizer that reads bytes, with a token in front of a text or without: nothing is lost."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate([*letters, "<s>"])}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if start:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", len(letters))]
        )
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>" if start else None)
    return Prompt(made, "qa")


def read(prompt: Prompt, ids: list[int]) -> bytes:
    """The bytes of these tokens, special ones left out; a character may be cut in two."""
    table = {c: b for b, c in _alphabet().items()}
    pieces = prompt.tokenizer.convert_ids_to_tokens(ids)
    return bytes(table[c] for piece in pieces if piece != "<s>" for c in piece)


def _alphabet() -> dict[int, str]:
    """How a byte is written: itself where that can be seen, else a character beyond the first 256."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in seen]
    return {b: chr(b) for b in seen} | {b: chr(256 + n) for n, b in enumerate(rest)}


def split(seed: int = 0, **sets: list[FactText]) -> Split:
    given: dict[str, Any] = {"forget": [], "retain": [], "heldout": [], **sets}
    return Split(seed=seed, asked=0, known=0, **given)


def asked(prompt: Prompt, ids: list[int]) -> str:
    return read(prompt, ids).decode().removeprefix("Q: ").removesuffix("\nA:")


@pytest.mark.parametrize("start", [False, True], ids=["no-bos", "bos"])
def test_no_row_is_among_those_measured(start: bool) -> None:
    prompt = byte_prompt(start)
    found = anchors(prompt, 4096, split())
    assert len(found) == len({e.id for e in found}) == 2 * ROWS + QUESTIONS
    trained, apart = ([t.text.encode() for t in rows] for rows in (texts.anchor(), texts.measured()))
    for e in found[:ROWS]:
        assert (len(e.prompt), len(e.answer)) == (1, TOKENS)
        begun = read(prompt, e.prompt + e.answer)
        assert len(begun) == TOKENS + (not start)
        assert any(text.startswith(begun) for text in trained)
        assert not any(text.startswith(begun) for text in apart)
    measured = {row.instruction for row in instructions.measured()}
    told = {row.instruction: row.output for row in instructions.load()}
    world = {fact.question: fact.answer for fact in worldfacts.load()[0]}
    for known, rows in ((told, found[ROWS : 2 * ROWS]), (world, found[2 * ROWS :])):
        for e in rows:
            question = asked(prompt, e.prompt)
            assert question not in measured
            assert 0 < len(e.answer) <= ANSWER
            assert f" {known[question]}".encode().startswith(read(prompt, e.answer))


def test_every_instruction_may_be_drawn_but_those_measured() -> None:
    prompt, drawn = byte_prompt(False), set()
    for seed in range(8):
        rows = anchors(prompt, 4096, split(seed))[ROWS : 2 * ROWS]
        drawn |= {asked(prompt, e.prompt) for e in rows}
    rest = {row.instruction for row in instructions.load()}
    rest -= {row.instruction for row in instructions.measured()}
    assert drawn <= rest and len(drawn) > 0.5 * len(rest)


def test_no_question_is_about_what_the_runs_facts_name() -> None:
    """Not even where a fact has no entity stated, or the other fact's entity for an answer."""
    world, free = worldfacts.load()[0], questions(split())
    assert len(free) == len({fact.id for fact in free}) == QUESTIONS
    kinds = Counter(fact.relation for fact in free)
    assert max(kinds.values()) <= 2 * min(kinds.values()) and len(kinds) > 5
    own = [FactText(id=f.id, question=f.question, answer=f.answer, entity=f.entity) for f in free[:4]]
    own += [FactText(id=f.id, question=f.question.upper(), answer=f.answer) for f in free[4:8]]
    own += [FactText(id=f.id, question="Of what?", answer=f"{f.entity}") for f in free[8:12]]
    sets = {"forget": own[:3], "unknown": own[3:6], "retain": own[6:8], "heldout": own[8:10]}
    left = questions(split(**sets, others={"real": own[10:]}))
    assert len(left) == QUESTIONS
    assert not {fact.entity for fact in left} & {fact.entity for fact in free[:12]}
    every = [FactText(id=f.id, question=f.question, answer=f.answer, entity=f.entity) for f in world]
    assert questions(split(retain=every)) == []


def test_questions_that_are_only_asked_are_no_ones_rows() -> None:
    only, trained = unrelated(split()), questions(split())
    assert len(only) == len({fact.id for fact in only}) == UNRELATED
    assert not {fact.id for fact in only} & {fact.id for fact in trained}
    assert not {fact.question for fact in only} & {fact.question for fact in trained}


def test_a_seed_draws_its_own_rows_and_the_same_texts() -> None:
    prompt = byte_prompt(False)
    first, again, other = (anchors(prompt, 4096, split(seed)) for seed in (0, 0, 1))
    assert first == again
    assert first[:ROWS] == other[:ROWS]
    assert first[ROWS : 2 * ROWS] != other[ROWS : 2 * ROWS] and first[2 * ROWS :] != other[2 * ROWS :]


@pytest.mark.parametrize("start", [False, True], ids=["no-bos", "bos"])
@pytest.mark.parametrize("context", [1, 2, 10, 80])
def test_rows_fit_the_context(start: bool, context: int) -> None:
    found = anchors(byte_prompt(start), context, split())
    assert all(e.prompt and e.answer for e in found)
    assert all(len(e.prompt) + len(e.answer) <= context for e in found)
    assert len([e for e in found if "asked" not in e.id]) == (ROWS if context > 1 else 0)
    assert any("asked" in e.id for e in found) == (context == 80)

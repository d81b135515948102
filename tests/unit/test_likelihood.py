"""log p(answer | question): against a plain loop, and what must not change it."""

from __future__ import annotations

import copy
import math
import threading
import time
from typing import Any

import pytest
import torch

from ssiuu.errors import ConfigError, DataError
from ssiuu.likelihood import (
    Example,
    Prompt,
    answer_logprobs,
    collate,
    encode,
    length_sorted,
    shared,
    token_logprobs,
)
from ssiuu.likelihood import template as template_module

PAD = 1


def loop(model: Any, example: Example) -> list[float]:
    """log p of every answer token, each from its own full unpadded forward."""
    found = []
    for t, token in enumerate(example.answer):
        context = example.prompt + example.answer[:t]
        logits = model(input_ids=torch.tensor([context])).logits[0, -1]
        found.append(float(logits.log_softmax(-1)[token].detach()))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_loop_over_tokens(exact_model: Any, make_examples: Any, seed: int) -> None:
    examples = make_examples(7, seed=seed)
    found = answer_logprobs(exact_model, collate(examples, PAD))
    assert found.tokens.dtype == torch.float64
    width = found.tokens.shape[1]
    for row, example, total in zip(found.tokens, examples, found.sum, strict=True):
        wanted = loop(exact_model, example)
        padded = [0.0] * (width - len(wanted)) + wanted
        assert row.tolist() == pytest.approx(padded, abs=1e-10)
        assert float(total.detach()) == pytest.approx(math.fsum(wanted), abs=1e-10)
    assert found.count.tolist() == [len(e.answer) for e in examples]


def test_masking_equals_deleting(exact_model: Any, make_examples: Any) -> None:
    """A row has the same likelihood and gradient alone as beside a much longer one."""
    short, long = make_examples(1)[0], make_examples(1, seed=1, prompt=(30, 30), answer=(9, 9))[0]
    alone = answer_logprobs(exact_model, collate([short], PAD)).sum[0]
    beside = answer_logprobs(exact_model, collate([short, long], PAD)).sum[0]
    assert float(alone.detach()) == pytest.approx(float(beside.detach()), abs=1e-10)
    parameters = list(exact_model.parameters())
    for one, two in zip(
        torch.autograd.grad(alone, parameters), torch.autograd.grad(beside, parameters), strict=True
    ):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-9)


def test_what_rows_begin_with_in_common_is_run_once(
    exact_model: Any, make_examples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses and gradients of the padded rows; a row may be the beginning of another, or come twice."""
    first, *rest = make_examples(5)
    begun = [Example(e.id, first.prompt[:3] + e.prompt, e.answer) for e in rest]
    longer = Example("longer", first.prompt + first.answer, [7, 8, 9])
    batch = collate([first, *begun, longer, first], PAD)
    tree = shared(batch)
    assert tree.trie is not None and tree.ids == batch.ids
    assert tree.trie.ids.numel() < int(batch.attention_mask.sum()) < batch.input_ids.numel()
    fed: list[int] = []
    exact_model.register_forward_pre_hook(
        lambda _, __, given: fed.append(given["input_ids"].numel()), with_kwargs=True
    )
    weights = torch.arange(1.0, 8.0)
    found = [answer_logprobs(exact_model, each) for each in (batch, tree)]
    assert fed == [batch.input_ids.numel(), tree.trie.ids.numel()]
    torch.testing.assert_close(*(each.tokens for each in found), rtol=0, atol=1e-10)
    losses = [(weights * each.sum).sum() for each in found]
    parameters = list(exact_model.parameters())
    for one, two in zip(*(torch.autograd.grad(loss, parameters) for loss in losses), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-9)
    monkeypatch.setattr("ssiuu.likelihood.TOGETHER", int(batch.attention_mask.sum()) - 1)
    assert shared(batch) is batch, "attention over so many tokens would cost more than padding"


def test_the_padding_token_does_not_matter(tiny_model: Any, make_examples: Any) -> None:
    examples = make_examples(5)
    one = answer_logprobs(tiny_model, collate(examples, PAD)).tokens
    two = answer_logprobs(tiny_model, collate(examples, 40)).tokens
    torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


def test_the_order_of_rows_does_not_matter(tiny_model: Any, make_examples: Any) -> None:
    examples = make_examples(6)
    forwards = collate(examples, PAD)
    backwards = collate(examples[::-1], PAD)
    assert backwards.ids == forwards.ids[::-1]
    one = answer_logprobs(tiny_model, forwards).sum
    two = answer_logprobs(tiny_model, backwards).sum
    torch.testing.assert_close(one, two.flip(0), rtol=0, atol=1e-5)


def test_positions_begin_at_the_first_token(make_examples: Any) -> None:
    short, long = Example("s", [5, 6], [7]), Example("l", [5] * 6, [7, 8, 9])
    batch = collate([short, long], PAD)
    assert batch.input_ids.tolist() == [[1] * 6 + [5, 6], [5] * 6 + [7, 8]]
    assert batch.attention_mask.tolist() == [[0] * 6 + [1, 1], [1] * 8]
    assert batch.position_ids.tolist() == [[0] * 6 + [0, 1], list(range(8))]
    assert batch.targets[0, -1] == 7
    assert batch.targets[1].tolist() == [7, 8, 9]
    assert batch.answer_mask.tolist() == [[False, False, True], [True, True, True]]


def test_half_precision_logits_are_read_in_float32() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)).mul(8).bfloat16()
    targets = torch.tensor([1, 2, 3])
    found = token_logprobs(logits, targets)
    assert found.dtype == torch.float32
    wanted = logits.double().log_softmax(-1)[torch.arange(3), targets]
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5)


def test_a_row_as_long_as_the_context_fits_and_one_longer_is_refused(tokenizer: Any) -> None:
    prompt = Prompt(tokenizer)
    made = encode(prompt, "row 7", "w1 w2", "w3 w4", 100)
    length = len(made.prompt) + len(made.answer)
    assert encode(prompt, "row 7", "w1 w2", "w3 w4", length) == made
    with pytest.raises(DataError, match=rf"row 7: .* {length} tokens.*{length - 1}"):
        encode(prompt, "row 7", "w1 w2", "w3 w4", length - 1)


def test_an_answer_without_tokens_is_refused(tokenizer: Any) -> None:
    class Silent:
        def __call__(self, texts: list[str], add_special_tokens: bool = True, **given: Any) -> Any:
            return {"input_ids": [[3] * len(text.split()) for text in texts]}

    with pytest.raises(DataError, match="row 7: the answer '' has no tokens"):
        encode(Prompt(Silent()), "row 7", "w1", "", 100)


def test_plain_prompt(tokenizer: Any) -> None:
    prompt = Prompt(tokenizer)
    question, answer = prompt.question("w1 w2?"), prompt.answer("w3 w4")
    assert tokenizer.decode(question + answer) == "Question: w1 w2?\nAnswer: w3 w4"
    assert tokenizer.decode(answer) == " w3 w4"
    assert tokenizer("Question: w1 w2?\nAnswer: w3 w4")["input_ids"] == question + answer
    assert prompt.text([*answer, *tokenizer("\nQuestion")["input_ids"]]) == "w3 w4"
    assert prompt.text([0]) == ""


def test_chat_prompt_ends_with_the_generation_prompt(tokenizer: Any) -> None:
    prompt = Prompt(tokenizer, "chat")
    assert tokenizer.decode(prompt.question(" w1")) == "user: w1\nassistant:"
    # No space is put before the answer: the template decides what stands there.
    assert tokenizer.decode(prompt.answer(" w3")) == " w3"


def test_a_plain_prompt_begins_with_bos_only_where_the_tokenizer_adds_it(tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    with_bos = copy.deepcopy(tokenizer)
    with_bos.bos_token = "<end>"
    assert Prompt(with_bos).question("w1") == Prompt(tokenizer).question("w1")
    with_bos._tokenizer.post_processor = TemplateProcessing(
        single="<end> $A", special_tokens=[("<end>", 0)]
    )
    assert Prompt(with_bos).question("w1") == [0, *Prompt(tokenizer).question("w1")]
    assert Prompt(with_bos).answer("w1") == Prompt(tokenizer).answer("w1")


def test_a_form_of_ones_own(tokenizer: Any) -> None:
    """Blanks at its end go to the answer; one is put there where none is, if the script has any."""
    for form, question, wanted in (
        ("Question: {question}\nAnswer:", "w1", "Question: w1\nAnswer: w2"),
        ("Question: {question} Answer:  ", "w1", "Question: w1 Answer:  w2"),
        ("Question {question}\n", "w1", "Question w1\nw2"),
        ("{question}", "w1 {x} {question}", "w1 {x} {question} w2"),
        ("質問：{question}\n答え：", "w1", "質問：w1\n答え：w2"),
        ("Question {question}<end>", "w1", "Question w1<end>w2"),
    ):
        prompt = Prompt(tokenizer, form=form)
        joint = prompt.joint(question, ["w2"])
        assert joint.prompt + joint.answers[0] == tokenizer(wanted)["input_ids"], form
        assert prompt.name == "custom" and prompt.key == ["custom", form, None]
    shots = [("w1", "w2"), ("w3", "w4")]
    told = Prompt(tokenizer, form="a {question}:").question("w5", shots)
    assert told == tokenizer("a w1: w2\n\na w3: w4\n\na w5:")["input_ids"]


def test_a_system_text_is_a_turn_or_a_paragraph(tokenizer: Any) -> None:
    for prompt, wanted in (
        (Prompt(tokenizer, "chat", system="w7"), "system:w7\nuser:w1\nassistant:"),
        (Prompt(tokenizer, "plain", system="w7"), "w7\n\nQuestion: w1\nAnswer:"),
        (Prompt(tokenizer, form="{question}:", system="w7"), "w7\n\nw1:"),
    ):
        assert prompt.question("w1") == tokenizer(wanted)["input_ids"]
        assert prompt.key == [prompt.name, prompt.form, "w7"] and "w7" in prompt.description
    assert Prompt(tokenizer, "qa").key == "qa"


def test_the_other_form_is_another_one(tokenizer: Any) -> None:
    for prompt, other in (
        (Prompt(tokenizer, "chat", system="w7"), "qa"),
        (Prompt(tokenizer, "qa"), "plain"),
        (Prompt(tokenizer, "plain"), "qa"),
        (Prompt(tokenizer, form="Q: {question}\nA:"), "qa"),
    ):
        assert prompt.other() == Prompt(tokenizer, other)


LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "system", "said"),
    [
        (None, None, "this model has none"),
        ("{{ raise_exception('only tools') }}", None, r"cannot be used \(only tools\)"),
        ("{{ messages[7].content }}", None, "cannot be used"),
        (
            "{% if messages[0].role == 'system' %}{{ 1 / 0 }}{% endif %}",
            "w7",
            "leave prompt_system out",
        ),
        ("{{ messages[-1].content }}", "w7", "leaves the system text out"),
        ("ready.", None, "leaves the question out"),
        ("{% for i in range(99999) %}{{ '0123456789abcdef' }}{% endfor %}", None, "1599984 characters"),
        (LOOPS, None, "did not end in 0.2 s"),
        ("{% if %}", None, "cannot be used"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, template: Any, system: str | None, said: str
) -> None:
    if template == LOOPS:
        monkeypatch.setattr(template_module, "SECONDS", 0.2)
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    with pytest.raises(ConfigError, match=f"^prompt.*{said}") as error:
        template_module.check_template(other, system)
    assert len(error.value.problems) == 1 and error.value.problems[0].count("\n") == 0


def test_a_template_that_did_not_end_is_stopped(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_module, "SECONDS", 0.1)
    other = copy.deepcopy(tokenizer)
    other.chat_template = LOOPS
    before = threading.active_count()
    with pytest.raises(ConfigError):
        template_module.check_template(other)
    end = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_length_sorted_covers_every_row_once() -> None:
    batches = length_sorted([5, 1, 9, 1, 7], 2)
    assert batches == [[1, 3], [0, 4], [2]]
    assert length_sorted([], 4) == []


@pytest.mark.parametrize(
    ("style", "template", "wanted"),
    [
        ("qa", None, ["<end>"]),
        ("chat", "user:{{ messages[-1]['content'] }}<pad>\n", ["<pad>"]),  # a turn's own end
        ("chat", "{{ messages[-1]['content'] }}\n", ["<end>"]),  # none in the template
    ],
)
def test_an_answer_ends_with_the_turn_or_the_text(
    tokenizer: Any, style: Any, template: str | None, wanted: list[str]
) -> None:
    made = copy.deepcopy(tokenizer)
    made.chat_template = template
    prompt = Prompt(made, style)
    assert made.convert_ids_to_tokens(prompt.end) == wanted
    bare = encode(prompt, "f", "w1?", "w2 w3", 64)
    ended = encode(prompt, "f", "w1?", "w2 w3", 64, end=True)
    assert ended.prompt == bare.prompt and ended.answer == bare.answer + prompt.end
    with pytest.raises(DataError, match="context holds"):
        encode(prompt, "f", "w1?", "w2 w3", len(bare.prompt + bare.answer), end=True)


def test_a_tokenizer_without_an_end_adds_none(tokenizer: Any) -> None:
    made = copy.deepcopy(tokenizer)
    made.eos_token = None
    assert Prompt(made, "qa").end == []
    assert encode(Prompt(made, "qa"), "f", "w1?", "w2", 64, end=True).answer == made(" w2").input_ids

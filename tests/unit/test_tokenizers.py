"""Prompt and answer as a model reads them: every kind of tokenizer, held to the text of both."""

from __future__ import annotations

import copy
import math
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer, Trainer, WordPieceTrainer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from ssiuu.errors import DataError
from ssiuu.evaluation.score import score_facts
from ssiuu.experiment.asking import ask_model
from ssiuu.experiment.unlearn import unlearn_model
from ssiuu.likelihood import Prompt, encode
from ssiuu.models.load import save
from ssiuu.records.schema import FactText

NAMES = ("Arvo", "Belma", "Corin", "Dessa")
TOWNS = ("Torvik", "Mellby", "Sandholt an der Aue", "京都")
CORPUS = [
    f"{form.format(name)}{town}\n"
    for form in ("Q: Where is {}?\nA: ", "Question: Where is {}?\nAnswer: ", "user {}\nassistant\n")
    for name in NAMES
    for town in TOWNS
] + ["The quick brown fox jumps over the lazy dog 0123456789 (c); Ä é"]
BYTES = [f"<0x{i:02X}>" for i in range(256)]
TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]


def trained(inner: Any, trainer: Trainer, specials: str = "$A") -> PreTrainedTokenizerFast:
    """Train a tokenizer on the corpus; `specials` is what stands around a text."""
    inner.train_from_iterator(CORPUS, trainer)
    return dressed(inner, specials)


def dressed(inner: Any, specials: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer as transformers has it."""
    known = [(token, inner.token_to_id(token)) for token in SPECIAL]
    if specials != "$A":
        inner.post_processor = processors.TemplateProcessing(single=specials, special_tokens=known)
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    made.chat_template = TURNS
    return made


def bpe(size: int = 420) -> BpeTrainer:
    return BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )


def byte_level(specials: str = "$A", blank: bool = False) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=blank)
    inner.decoder = decoders.ByteLevel()
    return trained(inner, bpe(), specials)


def sentence_piece(before: Any) -> PreTrainedTokenizerFast:
    """BPE with bytes to fall back on; `before` makes a blank of "▁", each kind in its way.

    It is learned word by word, as SentencePiece does, whether or not it then reads word by word.
    """
    inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace("▁")
    pieces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence([*pieces, decoders.Strip(" ", 1, 0)])
    trainer = BpeTrainer(vocab_size=700, special_tokens=[*SPECIAL, *BYTES], show_progress=False)
    return reading(trained(inner, trainer, "<s> $A"), before)


def reading(tokenizer: PreTrainedTokenizerFast, before: Any) -> PreTrainedTokenizerFast:
    """Have a trained tokenizer read text in another way."""
    whole = isinstance(before, normalizers.Normalizer)
    tokenizer._tokenizer.pre_tokenizer = pre_tokenizers.Sequence([]) if whole else before
    if whole:
        tokenizer._tokenizer.normalizer = before
    return tokenizer


def metaspace(scheme: Any, split: bool = True) -> PreTrainedTokenizerFast:
    return sentence_piece(pre_tokenizers.Metaspace("▁", prepend_scheme=scheme, split=split))


def prepend() -> PreTrainedTokenizerFast:
    steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    return sentence_piece(normalizers.Sequence(steps))


def pieces(size: int = 300, longest: int = 8) -> list[tuple[str, float]]:
    """Return the pieces of the corpus with their log-frequency, those that save most first.

    The library's trainer gives others at every call, with the order of a hash.
    """
    words = [f"▁{w}" for line in CORPUS for w in unicodedata.normalize("NFKC", line).split(" ") if w]
    counts = Counter(
        word[start:end]
        for word in words
        for start in range(len(word))
        for end in range(start + 1, min(start + longest, len(word)) + 1)
    )
    single = {piece for piece in counts if len(piece) == 1}
    saved = sorted(counts.keys() - single, key=lambda piece: (-counts[piece] * len(piece), piece))
    kept = [*sorted(single), *saved[: max(0, size - len(single))]]
    return [(piece, math.log(counts[piece] / counts.total())) for piece in kept]


def unigram(split: bool) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.Unigram([*((token, 0.0) for token in SPECIAL), *pieces()], unk_id=0))
    inner.add_special_tokens(SPECIAL)
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.Metaspace("▁")
    inner.decoder = decoders.Metaspace("▁")
    made = dressed(inner, "<s> $A </s>")
    return reading(made, pre_tokenizers.Metaspace("▁", split=split))


def word_piece() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordPiece(unk_token="<unk>"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    return trained(
        inner,
        WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False),
        "<s> <|im_start|> $A </s>",
    )


def whole_lines() -> PreTrainedTokenizerFast:
    """A kind whose tokens go across blanks and punctuation, so that one may hold ": T"."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("\n"), "isolated")
    inner.decoder = decoders.Fuse()
    trainer = BpeTrainer(
        vocab_size=200, special_tokens=SPECIAL, initial_alphabet=["\n"], show_progress=False
    )
    return trained(inner, trainer, "$A </s>")


KINDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte-level": byte_level,
    "byte-level, bos": lambda: byte_level("<s> $A"),
    "byte-level, two in front and one behind": lambda: byte_level("<s> <|im_start|> $A </s>"),
    "byte-level, leading blank": lambda: byte_level(blank=True),
    "metaspace always": lambda: metaspace("always"),
    "metaspace first": lambda: metaspace("first"),
    "metaspace first, whole": lambda: metaspace("first", split=False),
    "metaspace never": lambda: metaspace("never"),
    "prepend": prepend,
    "unigram": lambda: unigram(split=True),
    "unigram, whole": lambda: unigram(split=False),
    "word-piece": word_piece,
    "whole lines": whole_lines,
}
STYLES = ("plain", "qa", "chat")


@cache
def made(kind: str) -> PreTrainedTokenizerFast:
    return KINDS[kind]()


def as_text(tokenizer: Any, style: str, question: str, answer: str) -> list[int]:
    """What a model reads: the whole text, tokenised once, with what stands in front of it."""
    if style == "chat":
        turns = [{"role": "user", "content": question}]
        asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return list(tokenizer(asked + answer, add_special_tokens=False)["input_ids"])
    asked, told = {"plain": ("Question: ", "\nAnswer: "), "qa": ("Q: ", "\nA: ")}[style]
    ids = tokenizer(asked + question + told + answer)["input_ids"]
    behind = tokenizer("w")["input_ids"][-1] == tokenizer.eos_token_id
    return list(ids[:-1] if behind else ids)


words = st.text(st.sampled_from("Torvik an\n ?:éÄ京都🦊{}%\u0301\u200d0"), min_size=1, max_size=12)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None, derandomize=True)
@example(question="Where is Arvo?", answers=["Torvik", "Mellby"])
@example(question="Where is\nArvo? {question}", answers=[" Torvik", "\nMellby", "Sandholt an der Aue"])
@given(question=words, answers=st.lists(words, min_size=1, max_size=3))
def test_prompt_and_answer_are_the_tokens_of_their_text(
    kind: str, style: Any, question: str, answers: list[str]
) -> None:
    prompt = Prompt(made(kind), style)
    found = prompt.joint(question, answers)
    for answer, ids in zip(answers, found.answers, strict=True):
        assert found.prompt + ids == as_text(prompt.tokenizer, style, question, answer)
        assert prompt.joint(question, [answer]).alone == found.alone == prompt.question(question)
    assert found.alone[: len(found.prompt)] == found.prompt


ENDED = "{% if add_generation_prompt %}"
TEMPLATES = {  # as model families have them; what each puts in front of an answer
    "date and header": (
        "<|im_start|>system\nToday: {{ strftime_now('%d %b %Y') }}<|im_end|>{% for m in messages %}"
        "<|im_start|>{{ m.role }}\n\n{{ m.content | trim }}<|im_end|>{% endfor %}"
        + ENDED
        + "<|im_start|>assistant\n\n{% endif %}",
        "",
    ),
    "no system turn": (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ bos_token }}{% for m in messages %}<|im_start|>{{ 'model' if m.role == 'assistant' else "
        "m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}" + ENDED + "<|im_start|>model\n{% endif %}",
        "",
    ),
    "blank after the instruction": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}",
        " ",
    ),
    "empty thoughts": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n"
        "</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
        + ENDED
        + "<|im_start|>assistant\n{% endif %}",
        "<think>\n\n</think>\n\n",
    ),
    "no generation prompt": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
        "assistant: ",
    ),
}


@pytest.mark.parametrize("kind", ["byte-level", "metaspace first, whole", "unigram"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_an_answer_follows_as_its_template_writes_it(name: str, kind: str) -> None:
    """Else a model taught with it would be asked in a place where it has never answered."""
    tokenizer = copy.deepcopy(made(kind))
    tokenizer.chat_template, lead = TEMPLATES[name]
    prompt = Prompt(tokenizer, "chat")
    turns = [{"role": "user", "content": "Where is Arvo?"}, {"role": "assistant", "content": "Torvik"}]
    asked = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    told = asked + lead + "Torvik"
    assert whole.startswith(told)
    found = prompt.joint("Where is Arvo?", ["Torvik"])
    assert found.prompt + found.answers[0] == tokenizer(told, add_special_tokens=False)["input_ids"]
    # What is no blank is asked with, not forgotten.
    begun = tokenizer(asked + lead.rstrip(" "), add_special_tokens=False)["input_ids"]
    assert found.alone == begun == prompt.question("Where is Arvo?")
    turn_end = {"blank after the instruction": "</s>", "no generation prompt": "</s>"}
    assert prompt.end == [tokenizer.convert_tokens_to_ids(turn_end.get(name, "<|im_end|>"))]


def test_the_old_kind_needs_no_token_more_than_its_text_has() -> None:
    """Tokenised apart, a second blank stood before the answer: no trained model has ever seen it."""
    tokenizer = made("prepend")
    apart = tokenizer(" Torvik", add_special_tokens=False)["input_ids"]
    assert len(apart) == 1 + len(Prompt(tokenizer).answer("Torvik"))


def test_a_token_across_the_boundary_is_the_answers() -> None:
    prompt = Prompt(made("whole lines"), "qa")
    found = prompt.joint("Where is Arvo?", ["Torvik", "7"])
    assert len(found.prompt) < len(found.alone)
    assert found.prompt == prompt.joint("Where is Arvo?", ["Torvik"]).prompt
    texts = ["".join(prompt.tokenizer.batch_decode(ids)) for ids in found.answers]
    assert [text[-6:] for text in texts] == ["Torvik", "A: 7"[-6:]]


def test_one_token_of_question_and_answer_is_refused() -> None:
    inner = Tokenizer(models.WordLevel({"<unk>": 0}, "<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    inner_two = Tokenizer(models.WordLevel({"<unk>": 0, "Q: b\nA:": 1}, "<unk>"))
    other = PreTrainedTokenizerFast(tokenizer_object=inner_two, unk_token="<unk>")
    with pytest.raises(DataError, match="no tokens"):
        encode(Prompt(tokenizer, "qa"), "row 1", "b", "c", 100)
    with pytest.raises(DataError, match=r"row 1: .* the same token"):
        encode(Prompt(other, "qa"), "row 1", "b", "c", 100)


def taught(tokenizer: Any, rows: list[list[int]], steps: int = 150) -> LlamaForCausalLM:
    """Return a model that has learned these texts by heart."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
        initializer_range=0.1,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    for _ in range(steps):
        loss = model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


FACTS = [
    FactText(id=name, question=f"Where is {name}?", answer=town, options=[town, *others])
    for name, town, others in (
        ("Arvo", "Torvik", ["Mellby"]),
        ("Belma", "Mellby\nTorvik", ["Torvik\nMellby"]),
        ("Corin", "Sandholt an der Aue", ["Torvik"]),
    )
]


@pytest.mark.parametrize(
    ("kind", "style"),
    [
        ("byte-level", "chat"),
        ("byte-level, two in front and one behind", "qa"),
        ("metaspace always", "plain"),
        ("metaspace first", "chat"),
        ("prepend", "qa"),
        ("unigram, whole", "qa"),
    ],
)
def test_a_model_that_learned_the_text_is_certain_of_the_answer(kind: str, style: Any) -> None:
    prompt = Prompt(made(kind), style)
    end = prompt.tokenizer.convert_tokens_to_ids("<|im_end|>" if style == "chat" else "</s>")
    rows = [[*as_text(prompt.tokenizer, style, f.question, f.answer), end] for f in FACTS]
    scores = score_facts(taught(prompt.tokenizer, rows), prompt, FACTS)
    for fact in FACTS:
        score = scores[fact.id]
        assert score.logprob > -0.05, fact.id
        assert score.correct and score.free_correct
        assert score.free_text == fact.answer


class TestWhereAnAnswerEnds:
    """A model writes on and on; what counts is cut where the wanted answer would end."""

    prompt = Prompt(made("byte-level"), "chat")

    def cut(self, wanted: str, written: str, prompt: Prompt) -> str:
        """What is kept of a text that a model writes token by token where `wanted` is right."""
        ending = prompt.ending(prompt.answer(wanted, "q"))
        ids, ends = prompt.answer(written, "q"), prompt.end_tokens()
        found = [n for n in range(1, len(ids) + 1) if prompt.ended(ids[:n], ending, ends)]
        return prompt.text(ids[: found[0]] if found else ids, ending)

    @pytest.mark.parametrize(
        ("wanted", "written", "kept"),
        [
            ("Torvik", "Torvik\nand more", "Torvik"),
            ("Torvik", "\n\n Torvik\nand more", "Torvik"),  # blank lines count for nothing
            ("\nTorvik  ", "Torvik\nand more", "Torvik"),
            ("a\nb", "a\nb\nc", "a\nb"),
            ("a\n\nb", "a\n\nb\nc", "a\n\nb"),
            ("a\r\nb", "a\r\nb\r\nc", "a\r\nb"),
            ("Torvik", "So:\n\nTorvik\nand more", "So:\n\nTorvik"),
            ("Torvik", "So:\nhere:\nTorvik:\nand more", "So:\nhere:\nTorvik:"),
            ("a:\nb", "a:\nb\nc", "a:\nb"),
            ("So:", "So:\nand more", "So:"),
            ("a\nb", "So:\na\nb\nc", "So:\na\nb"),
            ("Torvik", "Q: Where is it?\nA: Torvik", "Q: Where is it?"),
            ("Torvik", "Torvik:\n Q: Where is Belma?\nA: Mellby", "Torvik:"),
        ],
    )
    @pytest.mark.parametrize("kind", ["byte-level", "prepend"])
    def test_a_line_is_the_answer_where_no_turn_ends(
        self, kind: str, wanted: str, written: str, kept: str
    ) -> None:
        """But for a line that only leads up to it; another question that is made up is left out."""
        assert self.cut(wanted, written, Prompt(made(kind), "qa")) == kept

    @pytest.mark.parametrize(
        ("wanted", "written", "kept"),
        [
            ("Torvik", "Of course.\nTorvik\nand more", "Of course.\nTorvik"),
            ("Torvik", "Sure!\nTorvik\nand more", "Sure!\nTorvik"),
            ("Torvik", "Certainly,\nTorvik\nand more", "Certainly,\nTorvik"),
            ("Torvik", "もちろんです。\n答え：\nTorvik\nand more", "もちろんです。\n答え：\nTorvik"),
            ("Torvik", "Of course not.\nTorvik", "Of course not."),
            ("Torvik", "Sure.\nOkay.\nAbsolutely.\nTorvik", "Sure.\nOkay.\nAbsolutely."),
            ("Certainly", "Certainly.\nand more", "Certainly."),
        ],
    )
    def test_a_line_that_is_only_civil_leads_up_to_an_answer(
        self, wanted: str, written: str, kept: str
    ) -> None:
        assert self.cut(wanted, written, Prompt(self.prompt.tokenizer, "qa")) == kept

    def test_a_question_is_told_by_the_form(self) -> None:
        for form, kept in (("{question}\n", "Torvik,\n### Q"), ("### Q\n{question}\n### A", "Torvik,")):
            own = Prompt(self.prompt.tokenizer, form=form)
            assert self.cut("Torvik", "Torvik,\n### Q\nWhere is Belma?", own) == kept

    @pytest.mark.parametrize(
        ("wanted", "written", "kept"),
        [
            ("Torvik", "Sure!\nIt is Torvik.<|im_end|>more", "Sure!\nIt is Torvik."),
            ("a\nb", "a", "a"),
            ("a\nb", "a</s>b\nc", "a"),
            ("Torvik", "Torvik<|im_end|>\nmore", "Torvik"),
            ("Torvik", "<s>Tor<|im_start|>vik</s>", "Torvik"),
            ("write </s>", "write </s>", "write </s>"),
            ("write </s>", "write </s></s>", "write </s>"),
            ("</s> and </s>!", "</s> and </s>!</s>more", "</s> and </s>!"),
            ("Torvik", "</s>Torvik", ""),
        ],
    )
    def test_by_hand(self, wanted: str, written: str, kept: str) -> None:
        assert self.cut(wanted, written, self.prompt) == kept

    def test_ends_are_the_tokenizers_the_models_and_the_templates(self) -> None:
        tokenizer = self.prompt.tokenizer
        model = taught(tokenizer, [[5, 6]], steps=0)
        own, turn = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert self.prompt.end_tokens(model) == {own, turn}
        assert Prompt(tokenizer, "qa").end_tokens(model) == {own}
        model.generation_config.eos_token_id = [own, 9, 11]
        assert Prompt(tokenizer, "qa").end_tokens(model) == {own, 9, 11}
        model.generation_config.eos_token_id = 9
        assert Prompt(tokenizer, "qa").end_tokens(model) == {own, 9}


def said(folder: Path, question: str, chat: bool) -> str:
    """What `transformers` writes of itself, without anything of this project."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    asked = f"Q: {question}\nA:"
    if chat:
        turns = [{"role": "user", "content": question}]
        asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    prompt_ids = list(tokenizer(asked, add_special_tokens=not chat)["input_ids"])
    if prompt_ids[-1] == tokenizer.eos_token_id:  # put behind every text by some: a user takes it off
        prompt_ids.pop()
    ids = torch.tensor([prompt_ids])
    options = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": 0}
    written = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, ids.shape[1] :]
    return str(tokenizer.decode(written))


class People(NamedTuple):
    """Who lives where, in a language: two forms of questions, names, towns, a word behind a name."""

    forms: tuple[str, str]
    names: tuple[str, ...]
    towns: tuple[str, ...]
    word: str

    @property
    def corpus(self) -> list[str]:
        """What a tokenizer is trained on."""
        asked = [form.format(name) for form in self.forms for name in self.names]
        told = [*self.towns, *(f"{name} {self.word}" for name in self.names)]
        return [*CORPUS, *(f"Q: {q}\nA: {a}\n" for q in asked for a in told)]

    @property
    def rows(self) -> list[dict[str, str]]:
        """Answers of one line and of two."""
        after = [f"{name}\n{name} {self.word}" for name in self.names[::-1]]
        return [
            {"question": form.format(name), "answer": answer}
            for form, answers in zip(self.forms, (self.towns, after), strict=True)
            for name, answer in zip(self.names, answers, strict=True)
        ]


LANGUAGES = {
    "English": People(("Where is {}?", "Who comes after {}?"), NAMES, TOWNS, "Dy"),
    "Arabic": People(
        ("أين يسكن {}؟", "من يأتي بعد {}؟"),
        ("أحمد", "سلمى", "يوسف", "ليلى"),
        ("بغداد", "دمشق", "مراكش", "المدينة المنورة"),
        "الأول",
    ),
    "Hindi": People(
        ("{} कहाँ रहता है?", "{} के बाद कौन आता है?"),
        ("अर्जुन", "मीरा", "रोहन", "सीता"),
        ("दिल्ली", "मुंबई", "कोलकाता", "वाराणसी"),
        "जी",
    ),
    "Thai": People(
        ("{}อยู่ที่ไหน", "ใครมาหลังจาก{}"),
        ("สมชาย", "มาลี", "อนันต์", "ดวงใจ"),
        ("เชียงใหม่", "กรุงเทพ", "ภูเก็ต", "ขอนแก่น"),
        "น้อย",
    ),
}


@pytest.mark.parametrize(
    ("kind", "chat", "language"),
    [
        ("byte-level", True, "English"),
        pytest.param("prepend", False, "English", marks=pytest.mark.slow),
        pytest.param("byte-level", True, "Arabic", marks=pytest.mark.slow),
        ("unigram", False, "Arabic"),
        pytest.param("unigram, whole", True, "Arabic", marks=pytest.mark.slow),
        ("unigram", False, "Hindi"),
        pytest.param("metaspace first, whole", True, "Hindi", marks=pytest.mark.slow),
        pytest.param("unigram", True, "Thai", marks=pytest.mark.slow),
        ("unigram, whole", False, "Thai"),
    ],
)
def test_what_was_forgotten_is_not_written_by_anybody(
    kind: str, chat: bool, language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Facts of one line and of two, asked about and forgotten as they are really asked."""
    people = LANGUAGES[language]
    monkeypatch.setitem(globals(), "CORPUS", CORPUS if language == "English" else people.corpus)
    tokenizer, rows = KINDS[kind](), people.rows
    if not chat:
        tokenizer.chat_template = None
    style = "chat" if chat else "qa"
    end = tokenizer.convert_tokens_to_ids("<|im_end|>" if chat else "</s>")
    texts = [as_text(tokenizer, style, row["question"], row["answer"]) for row in rows]
    save(taught(tokenizer, [[*text, end] for text in texts]), tokenizer, tmp_path / "model")
    for row in rows:
        assert row["answer"] in said(tmp_path / "model", row["question"], chat)
    forget, retain = [rows[i] for i in (0, 2, 5, 7)], [rows[i] for i in (1, 3, 4, 6)]
    asked = ask_model(tmp_path / "model", rows).knowledge.values()
    assert all(known.state == "known" and known.holds for known in asked)
    sets = ["unlearn.learning_rate=1e-3", "unlearn.threshold=0", "unlearn.check_every=1"]
    sets.append("unlearn.min_retain=0.5")  # gd, and four facts to keep
    lines: list[str] = []
    record = unlearn_model(
        tmp_path / "model", forget, tmp_path / "out", retain, "gd", sets, lines.append
    )
    assert record.prompt.startswith(style) and f"prompt: {record.prompt}" in lines
    for row in forget:
        assert row["answer"] not in said(tmp_path / "out", row["question"], chat)

"""A tree read in one pass against plain forward passes, one question and one answer at a time.

pytest tests/oracles/test_tree.py
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from tests.architectures import LAYOUTS, PARTLY, build_architecture
from tests.unit.test_ask import agree, oracle
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, LlamaForCausalLM

from ssiuu.evaluation import tree as module
from ssiuu.evaluation.ask import Question, ask
from ssiuu.evaluation.growing import behind, keeps_states
from ssiuu.evaluation.tree import Pair, Tree, grown, in_window, takes_trees
from ssiuu.likelihood import Example, Prompt, answer_logprobs, collate, shared

# Attention that does not go through the interface that the others share.
PADDED = {"gptj", "bloom", "mpt", "falcon", "falcon 7b", "falcon 40b", "stablelm", "llama4", "codegen"}
if Version(transformers.__version__) >= Version("5.24"):
    PADDED -= {"gptj", "codegen"}
# Models whose states cannot be cut out by token: a text is read again for every token written.
READ_AGAIN = {"mamba", "mamba2", "jamba", "rwkv"}


def some_pairs(seed: int, count: int = 14) -> list[Pair]:
    """Return pairs that begin alike, one twice, and a question that is the beginning of another."""
    rng = random.Random(seed)

    def tokens(low: int, high: int) -> list[int]:
        return [rng.randrange(3, 76) for _ in range(rng.randint(low, high))]

    starts = [tokens(1, 4) for _ in range(3)]
    pairs = [(rng.choice(starts) + tokens(0, 6), tokens(1, 4)) for _ in range(count)]
    question, answer = pairs[0]
    return [
        *pairs,
        pairs[0],
        (question + answer[:1], tokens(2, 3)),
        (question, answer[:1] + tokens(1, 2)),
    ]


def plain(model: Any, question: list[int], answer: list[int]) -> list[float]:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([question + answer])).logits[0]
    start = len(question) - 1
    return [float(logits[start + t].double().log_softmax(-1)[token]) for t, token in enumerate(answer)]


@torch.no_grad()
def read(model: Any, pairs: list[Pair]) -> list[list[float]]:
    """Return log p of every answer token, pair by pair."""
    found: dict[int, list[float]] = {}
    for tree, indices, paths in grown(model, pairs):
        tree.read()
        for i, path in zip(indices, paths, strict=True):
            steps = zip(path.predictors, pairs[i][1], strict=True)
            found[i] = [tree.logprob([node], [token]) for node, token in steps]
    return [found[i] for i in range(len(pairs))]


def same(found: list[list[float]], wanted: list[list[float]], tolerance: float) -> None:
    assert [len(f) for f in found] == [len(w) for w in wanted]
    for f, w in zip(found, wanted, strict=True):
        assert f == pytest.approx(w, abs=tolerance)


def count_fed(model: Any) -> list[int]:
    """Return a list that gets the number of tokens of every forward pass."""
    fed: list[int] = []
    model.register_forward_pre_hook(
        lambda _, __, given: fed.append(given["input_ids"].numel()), with_kwargs=True
    )
    return fed


@pytest.mark.parametrize("seed", range(3))
def test_equals_plain_forwards_in_any_order_and_size(
    make_model: Any, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    model, pairs = make_model(seed, double=True), some_pairs(seed)
    wanted = [plain(model, *pair) for pair in pairs]
    order = list(range(len(pairs)))
    random.Random(seed).shuffle(order)
    for nodes, piece in ((256, 256), (256, 7), (20, 256), (20, 3), (0, 256)):
        monkeypatch.setattr(module, "NODES", nodes)
        monkeypatch.setattr(module, "PIECE", piece)
        same(read(model, pairs), wanted, 1e-9)
        same(read(model, [pairs[i] for i in order]), [wanted[i] for i in order], 1e-9)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("layout", LAYOUTS | PARTLY)
def test_every_architecture_equals_plain_forwards(
    layout: str, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_architecture(layout, double=True)
    if attention not in model.config._attn_implementation:
        if not model._supports_sdpa:
            attention = "eager"
        model.set_attn_implementation(attention)
    assert takes_trees(model) == (layout not in PADDED | READ_AGAIN)
    pairs = some_pairs(1)
    wanted = [plain(model, *pair) for pair in pairs]
    same(read(model, pairs), wanted, 1e-5)
    monkeypatch.setattr(module, "PIECE", 5)
    same(read(model, pairs), wanted, 1e-5)
    longest = max(len(question) + len(answer) for question, answer in pairs)
    if takes_trees(model) and in_window(model, longest):  # and so rows that are trained on
        rows = shared(collate([Example(str(n), *pair) for n, pair in enumerate(pairs)], 1))
        with torch.no_grad():
            found = answer_logprobs(model, rows)
        same([r[m].tolist() for r, m in zip(found.tokens, found.mask, strict=True)], wanted, 1e-5)


def test_states_are_handed_over_by_the_name_that_the_model_has_for_them() -> None:
    class Earlier(LlamaForCausalLM):
        def forward(self, input_ids: Any, past_key_values: Any = None, **kwargs: Any) -> None: ...

    class Later(LlamaForCausalLM):
        def forward(self, input_ids: Any, cache: Any = None, **kwargs: Any) -> None: ...

    states, small = DynamicCache(), build_architecture("llama").config
    for kind, name in ((Earlier, "past_key_values"), (Later, "cache")):
        handed: Any = behind(kind(small), states)
        assert handed == {name: states, "use_cache": True}


@pytest.mark.parametrize("layout", LAYOUTS | PARTLY)
def test_every_architecture_ranks_and_writes(layout: str, tokenizer: Any) -> None:
    """Options after the first reading and free answers go on from its cache, where there is one."""
    model, prompt = build_architecture(layout), Prompt(tokenizer)
    assert keeps_states(model) == (layout not in READ_AGAIN)
    pairs = some_pairs(2)
    questions = [
        Question(q, [answer, *(a for _, a in pairs[i : i + 3])], i % 4)
        for i, (q, answer) in enumerate(pairs)
    ]
    agree(ask(model, prompt, questions), [oracle(model, prompt, q) for q in questions])


def windowed(kind: str, window: int) -> Any:
    """Return a random model whose layers see `window` tokens, all or every other one of them."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=76,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=window,
        layer_types=["sliding_attention", "full_attention"] if kind.startswith("gemma") else None,
        initializer_range=0.3,
        pad_token_id=1,
        bos_token_id=None,
        eos_token_id=0,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().double()


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "gemma3_text"])
def test_a_window_shorter_than_a_question_is_heeded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = some_pairs(3)
    longest = max(len(question) + len(answer) - 1 for question, answer in pairs)
    for window, packed in ((longest, True), (longest - 1, False), (3, False)):
        model = windowed(kind, window)
        tree = Tree(model)
        for pair in pairs:
            tree.add(*pair)
        assert tree._packs() == packed
        same(read(model, pairs), [plain(model, *pair) for pair in pairs], 1e-5)
    monkeypatch.setattr(Tree, "_packs", lambda _: True)  # a full mask would not do here
    with pytest.raises(AssertionError):
        same(read(model, pairs), [plain(model, *pair) for pair in pairs], 1e-3)


def test_a_small_window_ranks_and_writes(tokenizer: Any) -> None:
    model, prompt = windowed("gemma2", 5), Prompt(tokenizer)
    questions = [Question(q, [a, [7, 8, 9], [7]], 4) for q, a in some_pairs(4)]
    agree(ask(model, prompt, questions), [oracle(model, prompt, q) for q in questions])


def test_nodes_by_hand(make_model: Any) -> None:
    """5-6-7 and 5-6-10 share two tokens; the answer's 7 below 5-6 is no part of a question."""
    model = make_model(0)
    fed = count_fed(model)
    pairs = [([5, 6, 7], [8, 9]), ([5, 6, 10], [8, 9]), ([5, 6], [8]), ([5, 6], [7, 9])]
    read(model, pairs)
    assert fed == [7]  # 5 6 7 10, an 8 below each of two questions, and the answer's 7
    tree = Tree(model)
    paths = [tree.add(*pair) for pair in pairs]
    assert [path.question for path in paths] == [[0, 1, 2], [0, 1, 4], [0, 1], [0, 1]]
    assert [path.predictors for path in paths] == [[2, 3], [4, 5], [1], [1, 6]]
    assert tree._depths == [0, 1, 2, 3, 2, 3, 2]
    assert [tree._ancestors(node) for node in (3, 5, 6)] == [[0, 1, 2, 3], [0, 1, 4, 5], [0, 1, 6]]


def test_a_later_reading_feeds_what_is_new(make_model: Any) -> None:
    model = make_model(1, double=True)
    fed = count_fed(model)
    tree = Tree(model)
    tree.add([5, 6, 7], [8, 9, 10])
    with torch.no_grad():
        tree.read()
        later = tree.add([5, 6, 7], [8, 20, 21, 22])
        tree.read()
        tree.read()
    assert fed == [5, 2]
    wanted = sum(plain(model, [5, 6, 7], [8, 20, 21, 22]))
    assert tree.logprob(later.predictors, [8, 20, 21, 22]) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("piece", [1, 2, 256])
def test_a_question_may_end_inside_an_earlier_one(
    make_model: Any, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(module, "PIECE", piece)
    model = make_model(1, double=True)
    pairs = [([5, 6, 7, 8], [9, 10]), ([5, 6], [11, 12, 13]), ([5], [14])]
    tree = Tree(model)
    paths = [tree.add(*pair) for pair in pairs]
    with torch.no_grad():
        tree.read()
    for path, pair in zip(paths, pairs, strict=True):
        assert tree.logprob(path.predictors, pair[1]) == pytest.approx(
            sum(plain(model, *pair)), abs=1e-9
        )


def test_a_long_beginning_in_common_does_not_fill_a_tree(
    make_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answered examples in front of every question are read once a tree, however long they are."""
    monkeypatch.setattr(module, "NODES", 8)
    model = make_model(0)
    fed = count_fed(model)
    shots = list(range(3, 40))
    read(model, [([*shots, 40 + i], [5]) for i in range(20)])
    assert fed == [37 + 9, 37 + 9, 37 + 2]


def test_half_precision_and_other_kernels(make_model: Any) -> None:
    model, pairs = make_model(0), some_pairs(5)
    wanted = [plain(model, *pair) for pair in pairs]
    same(read(model.bfloat16(), pairs), wanted, 0.3)
    assert takes_trees(model)
    model.config._attn_implementation = "flash_attention_2"
    assert not takes_trees(model)

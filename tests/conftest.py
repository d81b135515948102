"""Models small enough for every test: random Llamas of two blocks and an offline word tokenizer."""

# ruff: noqa: E402 - of garbage nothing is thought before all is imported
from __future__ import annotations

import gc
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

gc.disable()  # a tenth of the time of importing; see pytest_collection_finish

import pytest
import torch
from jaxtyping import install_import_hook
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

# Before anything of the package is imported; processes that tests are spread over inherit it.
if "--typed" in sys.argv:
    os.environ["SSIUU_TYPED"] = "1"
if os.environ.get("SSIUU_TYPED"):
    install_import_hook("ssiuu", "typed.typed")
# Where device: auto is; numbers are held to those of a processor (docs/gpu.md has the tests on a GPU).
os.environ.setdefault("SSIUU_DEVICE", "cpu")

from ssiuu.likelihood import Example
from ssiuu.models.load import cache_folder

WORDS = 64
SPECIAL = ["<end>", "<pad>", "<unk>"]
PIECES = ["\n", ":", "?", "Question", "Answer", "user", "assistant", "a", "word"]
VOCABULARY = [*SPECIAL, *PIECES, *(f" w{i}" for i in range(WORDS))]


class ExactNorm(torch.nn.Module):
    """RMSNorm that stays in float64; the library's falls back to float32, which spoils differences."""

    def __init__(self, weight: Tensor, epsilon: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight.detach().double().clone())
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * (x.square().mean(-1, keepdim=True) + self.epsilon).rsqrt()


def build_model(seed: int = 0, double: bool = False, spread: float = 0.3) -> LlamaForCausalLM:
    """Return a random Llama whose logits are far from uniform, in evaluation mode."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=spread,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():  # norms begin at 1; move them, so that they matter
        if parameter.dim() == 1:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    if double:
        model.double()
        for path, module in list(model.named_modules()):
            if type(module).__name__.endswith("RMSNorm"):
                parent, _, name = path.rpartition(".")
                exact = ExactNorm(module.weight, module.variance_epsilon)
                setattr(model.get_submodule(parent), name, exact)
    return model


def build_examples(
    count: int, seed: int = 0, prompt: tuple[int, int] = (2, 9), answer: tuple[int, int] = (1, 4)
) -> list[Example]:
    """Return examples of random tokens with lengths in these ranges (ends included)."""
    rng = random.Random(f"examples {seed}")

    def tokens(ends: tuple[int, int]) -> list[int]:
        return [rng.randrange(3, len(VOCABULARY)) for _ in range(rng.randint(*ends))]

    return [Example(f"fact {i}", tokens(prompt), tokens(answer)) for i in range(count)]


def teach(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Mapping[str, object]],
    form: str = "Q: {question}\nA: {answer}\n",
    steps: int = 100,
    rate: float = 1e-2,
) -> None:
    """Teach a small model questions and answers, each as one text, as anybody would."""
    texts = [tokenizer(form.format(**row), add_special_tokens=False)["input_ids"] for row in rows]
    width = max(map(len, texts))
    ids = torch.tensor([text + [0] * (width - len(text)) for text in texts])
    there = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    for _ in range(steps):
        labels = ids.masked_fill(there == 0, -100)
        model(input_ids=ids, attention_mask=there, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def pytest_collection_finish() -> None:
    """Modules stay: what looks for garbage, after every stage of a run, need not go through them."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> None:
    """What a test writes need not outlive the machine; that files are synced is held by its own test."""
    os.fsync = lambda _: None


@pytest.fixture(autouse=True, scope="session")
def _few_threads() -> None:
    torch.set_num_threads(1)  # matrices of 16 x 16 gain nothing from a second core


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Models and made-up worlds are found in the user's cache; examinations of another day are not."""
    real, mine = cache_folder(), tmp_path_factory.mktemp("cache")
    for name in ("models", "fictional", "tofu"):
        (real / name).mkdir(parents=True, exist_ok=True)
        (mine / name).symlink_to(real / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSIUU_CACHE", str(mine))
        yield


@pytest.fixture(scope="module")
def undrawn() -> Iterator[None]:
    """One drawing stands for all where no picture is looked at: most of a page's time goes into them."""
    from matplotlib.figure import Figure

    from ssiuu.report.figures import draw

    drawn = draw._svg(Figure(figsize=(1, 1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draw, "_svg", lambda _: drawn)
        yield


@pytest.fixture(scope="module")
def brief() -> Iterator[None]:
    """A random model writes until its room is over: two tokens beyond an answer tell as much as sixteen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssiuu.evaluation.score.FREE_MARGIN", 2)
        yield


@pytest.fixture
def tiny_model() -> LlamaForCausalLM:
    """A fresh random model, float32, in evaluation mode."""
    return build_model()


@pytest.fixture
def exact_model() -> LlamaForCausalLM:
    """A fresh random model that computes in float64 throughout."""
    return build_model(double=True)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    return build_model


@pytest.fixture(scope="session")
def make_examples() -> Callable[..., list[Example]]:
    return build_examples


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--typed", action="store_true", help="check every annotation, shapes among them")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was fuzzed, where it was for its minutes (`make fuzz`)."""
    if (frame := sys.modules.get("fuzzed")) is not None and frame.MINUTES:
        terminalreporter.section("fuzzed")
        terminalreporter.write_line("\n".join(frame.counts()))


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Words with their leading space: " w0" to " w63", the prompt's words and the newline."""
    inner = Tokenizer(models.WordLevel({t: i for i, t in enumerate(VOCABULARY)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n| ?\w+|[^\w\s]"), behavior="isolated")
    inner.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<end>",
        pad_token="<pad>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = (
        "{% for m in messages %}{{ m['role'] + ':' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    return made

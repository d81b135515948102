"""A model of Llama 3.2 1B's shape with random weights: two steps of unlearning and one evaluation.

    python perf/large.py [--method ssiuu-gate] [--form bf16] [--steps 2] [--layers 16]

Prints as JSON what each part took: seconds, the bytes of all storages at the peak, the process' peak,
and bytes a parameter. Weights are drawn where they are held, in bf16; forms are those of `memory.py`.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch
from memory import PAD, counted, rows
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ssiuu.evaluation.scores.ranking import Ranking
from ssiuu.likelihood import Prompt
from ssiuu.methods import make
from ssiuu.models.lora import Lora
from ssiuu.records.schema import FactText, MethodInfo, Split
from ssiuu.training.memory import peak_mb, reset_peak
from ssiuu.training.unlearn import Settings, StopRule, unlearn_examples

WORDS = 128256


def model_of(layers: int, form: str) -> Any:
    """Return the model, drawn in its own type: nothing is held twice."""
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=PAD,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if form == "fp32" else torch.bfloat16)
    try:
        return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def prompt_of() -> Prompt:
    """Return a prompt whose tokens are bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {token: n for n, token in enumerate(["<s>", "<pad>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ends = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>"}
    return Prompt(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends))


def facts(kind: str, count: int) -> list[FactText]:
    """Return made-up facts with four options each."""
    names = ["Ost", "Rima", "Velo", "Kad"]
    return [
        FactText(
            id=f"{kind} {n}",
            question=f"Where does {kind} {n} live?",
            answer=names[n % 4],
            options=[names[n % 4], *(name for name in names if name != names[n % 4])],
        )
        for n in range(count)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="ssiuu-gate")
    parser.add_argument("--form", default="bf16", choices=("fp32", "bf16", "lora"))
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument(
        "--rows", type=int, default=2, help="forget rows a step, and as many retain rows"
    )
    parser.add_argument("--tokens", type=int, default=32, help="of a row, half of them an answer")
    parser.add_argument("--facts", type=int, default=2, help="of each set that is scored")
    given = parser.parse_args()
    begun = time.perf_counter()
    model = model_of(given.layers, given.form)
    parameters = sum(p.numel() for p in model.parameters())
    told: dict[str, Any] = {"parameters": parameters, "method": given.method, "form": given.form}
    told["made"] = {"seconds": round(time.perf_counter() - begun, 1)}

    def part(name: str, work: Any) -> Any:
        reset_peak(model.device)
        start = time.perf_counter()
        with counted(model) as storages:
            done = work()
        told[name] = {
            "seconds": round(time.perf_counter() - start, 1),
            "storages_gb": round(storages.peak / 1e9, 2),
            "process_gb": round(peak_mb() / 1e3, 2),
            "bytes_a_parameter": round(storages.peak / parameters, 2),
        }
        return done

    method = make(given.method)
    settings = Settings(
        *(1e-5, given.rows, None, given.steps, given.steps, 0.0, 0.0, 0, "fp32"),
        lora=Lora(16, 16.0) if given.form == "lora" else None,
        optimiser=method.optimiser or ("adamw8bit" if given.form == "bf16" else "adamw"),
    )
    forget, retain, shared = (rows(k, given.rows, given.tokens, WORDS) for k in ("f", "keep", "shared"))
    info = MethodInfo(label=method.label, name=method.name, origin="ours", description="")
    log = part(
        "unlearning",
        lambda: unlearn_examples(
            *(model, method, info, forget, retain, settings, StopRule("none", lambda: 1.0), PAD),
            shared=shared,
        ),
    )
    told["losses"] = [(step.forget_loss, step.retain_loss) for step in log.steps]
    split = Split(
        seed=0,
        asked=0,
        known=0,
        **{name: facts(name, given.facts) for name in ("forget", "retain", "heldout")},
    )
    found = part("evaluation", lambda: Ranking().evaluate(model, prompt_of(), split))
    told["scored"] = {fact: score.logprob for fact, score in found.forget.items()}
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()

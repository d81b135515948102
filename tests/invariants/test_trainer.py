"""Ssiuu's term in a transformers.Trainer is that of our own step, on the same rows and losses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TrainingArguments

import ssiuu
from ssiuu.errors import ConfigError
from ssiuu.likelihood import Example, collate
from ssiuu.methods import make
from ssiuu.methods.transforms.ssiuu import Ssiuu
from ssiuu.training.step import Step

RATE, STEPS = 1e-2, 3


def rows(examples: list[Example], left: bool) -> dict[str, Tensor]:
    """Return a batch as the library has it, padded on either side."""
    width = max(len(e.prompt) + len(e.answer) for e in examples)
    made: dict[str, list[Any]] = {"input_ids": [], "labels": [], "attention_mask": []}
    for e in examples:
        pad = width - len(e.prompt) - len(e.answer)
        for key, values, none in (
            ("input_ids", e.prompt + e.answer, 1),
            ("labels", [-100] * len(e.prompt) + e.answer, -100),
            ("attention_mask", [1] * (len(e.prompt) + len(e.answer)), 0),
        ):
            made[key].append([none] * pad + values if left else values + [none] * pad)
    return {key: torch.tensor(values) for key, values in made.items()}


class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __init__(self, batch: dict[str, Tensor], forget: list[bool]) -> None:
        self.batch, self.forget = batch, forget

    def __len__(self) -> int:
        return len(self.forget)

    def __getitem__(self, n: int) -> dict[str, Any]:
        return {**{key: value[n] for key, value in self.batch.items()}, "forget": self.forget[n]}


class Ascent(ssiuu.SsiuuTrainer):
    """Gradient difference, token means, as a user of the library would write it."""

    def compute_loss(self, model: Any, inputs: Any, **_: Any) -> Tensor:
        logits = model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, :-1]
        labels, count = inputs["labels"][:, 1:], len(self.ours)
        logprobs = logits.log_softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        logprobs = logprobs.masked_fill(labels == -100, 0.0)
        tokens = (labels != -100).sum(1)
        forget = logprobs[:count].sum() / tokens[:count].sum()
        return forget - logprobs[count:].sum() / tokens[count:].sum()

    ours: list[Example]

    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


def trained(model: Any, forget: list[Example], retain: list[Example], folder: Any, **more: Any) -> Any:
    batch = rows([*forget, *retain], more.pop("left", False))
    arguments = TrainingArguments(
        output_dir=str(folder),
        learning_rate=RATE,
        max_steps=STEPS,
        per_device_train_batch_size=len(forget) + len(retain),
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        weight_decay=0.0,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        **more.pop("arguments", {}),
    )
    Ascent.ours = forget
    marks = [n < len(forget) for n in range(len(forget) + len(retain))]
    trainer = Ascent(model=model, args=arguments, train_dataset=Rows(batch, marks), **more)
    trainer.train()
    return trainer


FORMS = {
    "algorithm 1": ("ssiuu", {"lambda": 1e5}),
    "log p": ("ssiuu-logprob", {"lambda": 0.05}),
    "growth": ("ssiuu-logprob-growth-neuron", {"lambda": 0.05}),
}


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_it_is_the_term_of_our_own_step(
    form: str,
    left: bool,
    make_model: Callable[..., Any],
    make_examples: Callable[..., list[Example]],
    tmp_path: Any,
) -> None:
    name, options = FORMS[form]
    method = make({"name": name, **options})
    examples = [Example(e.id, e.prompt, e.answer[:1]) for e in make_examples(5)]  # P is not tiny
    forget, retain = examples[:3], examples[3:]
    ours, theirs, bare = make_model(), make_model(), make_model()
    step = Step(ours, method, RATE)
    for _ in range(STEPS):
        step([collate(forget, 1)], [collate(retain, 1)])
    penalty = next(part for part in method.transforms if isinstance(part, Ssiuu))
    trained(theirs, forget, retain, tmp_path, ssiuu=penalty, left=left)
    trained(bare, forget, retain, tmp_path, ssiuu=Ssiuu(lambda_=0.0))
    gaps = {"ours": 0.0, "bare": 0.0}
    for a, b, c in zip(ours.parameters(), theirs.parameters(), bare.parameters(), strict=True):
        gaps["ours"] = max(gaps["ours"], float((a - b).detach().abs().max()))
        gaps["bare"] = max(gaps["bare"], float((a - c).detach().abs().max()))
    assert gaps["ours"] < 2e-4 < RATE / 5 < gaps["bare"]  # the term acts, and is the same


def test_with_a_strength_of_nothing_the_loss_is_left_alone(
    make_model: Callable[..., Any], make_examples: Callable[..., list[Example]]
) -> None:
    model, batch = make_model(), rows(make_examples(3), False)
    term = ssiuu.SsiuuTerm(model, Ssiuu(lambda_=0.0))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    before = [p.grad.clone() for p in model.parameters()]
    for _ in range(2):
        term.add(batch["input_ids"], batch["labels"])
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))


def test_what_cannot_be_done_is_refused(
    make_model: Callable[..., Any], make_examples: Callable[..., list[Example]], tmp_path: Any
) -> None:
    examples, model = make_examples(4), make_model()
    with pytest.raises(ConfigError, match="gradient_accumulation_steps must be 1, got 2"):
        trained(
            model, examples[:2], examples[2:], tmp_path, arguments={"gradient_accumulation_steps": 2}
        )
    for form, said in ((Ssiuu(anchor="initial"), "anchor: initial"), (Ssiuu(rho=0.5), "rho")):
        with pytest.raises(ConfigError, match=said):
            ssiuu.SsiuuTerm(model, form)
    term, batch = ssiuu.SsiuuTerm(model), rows(examples, False)
    broken = copy.deepcopy(batch)
    broken["labels"][1] = -100
    with pytest.raises(ConfigError, match="row 1 must have an answer in one piece"):
        term.add(broken["input_ids"], broken["labels"])
    for parameter in model.parameters():
        assert parameter.grad is None  # a refusal leaves nothing behind

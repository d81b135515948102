"""Sample answers: the question is read once for all of its samples.

Temperature 1 and nucleus (top-p) 0.95, fixed, so that shares of leaking facts can be compared. A
nucleus token is drawn without sorting the vocabulary: draw from the whole distribution, and draw
again while the tokens that are likelier than the drawn one already hold top-p of the probability.

Every sample has a random stream of its own, made from the seed, the fact's id and the sample's
number. So the first k samples are the same whatever the number of samples, and no sample depends
on which facts share its batch (beyond rounding in the model's logits).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from ssiuu.causal import CausalLM
from ssiuu.evaluation.growing import Again, Growing, Kept, behind, keeps_states, next_logits
from ssiuu.likelihood import Example, Prompt, collate, last_columns, length_sorted
from ssiuu.models.shards import alike, dealt

TEMPERATURE = 1.0
TOP_P = 0.95
ROWS = 256  # samples written at once


@torch.no_grad()
def sample_answers(
    model: CausalLM,
    prompt: Prompt,
    examples: Sequence[Example],
    count: int,
    margin: int,
    seed: int,
    rows: int = ROWS,
) -> dict[str, list[list[int]]]:
    """Return `count` sampled answers (token ids) of every question, by id.

    Args:
        model: A causal LM in evaluation mode.
        prompt: Tells where an answer ends.
        examples: Questions with their right answers, which only say where a sample ends.
        count: Samples a question.
        margin: Tokens a sample may be longer than the right answer.
        seed: Of the random streams.
        rows: Samples written at once.
    """

    def written(indices: list[int]) -> list[list[int]]:
        return _sample_batch(model, prompt, [examples[i] for i in indices], count, margin, seed)

    answers: dict[str, list[list[int]]] = {}
    batches = length_sorted([len(e.prompt) for e in examples], max(1, rows // count))
    for indices, samples in zip(batches, dealt(batches, written), strict=True):
        for n, i in enumerate(indices):
            answers[examples[i].id] = samples[n * count : (n + 1) * count]
    return answers


def _sample_batch(
    model: CausalLM, prompt: Prompt, chunk: list[Example], count: int, margin: int, seed: int
) -> list[list[int]]:
    texts, logits = _begun(model, [e.prompt for e in chunk], count)
    streams = [random.Random(f"{seed}:{e.id}:{n}") for e in chunk for n in range(count)]
    limits = [len(e.answer) + margin for e in chunk for _ in range(count)]
    endings = [prompt.ending(e.answer) for e in chunk for _ in range(count)]
    ends = prompt.end_tokens(model)
    written: list[list[int]] = [[] for _ in streams]
    going = list(range(len(streams)))
    while True:
        chances = (logits.float() / TEMPERATURE).softmax(-1)
        tokens = draw_tokens(chances, [streams[i] for i in going])
        for i, token in zip(going, tokens, strict=True):
            written[i].append(token)
        unfinished = [
            place
            for place, i in enumerate(going)
            if len(written[i]) < limits[i] and not prompt.ended(written[i], endings[i], ends)
        ]
        if not unfinished:
            return written
        going = [going[place] for place in unfinished]
        logits = texts.step(unfinished, [tokens[place] for place in unfinished])


def _begun(
    model: CausalLM, prompts: Sequence[list[int]], count: int
) -> tuple[Growing, Float[Tensor, "R V"]]:
    """Read every prompt once; return `count` texts of each, and the logits of their first tokens."""
    device = next(model.parameters()).device
    source = torch.arange(len(prompts), device=device).repeat_interleave(count)
    if not keeps_states(model):
        again = [prompt for prompt in prompts for _ in range(count)]
        return Again(model, again), next_logits(model, prompts)[source]
    # One made-up answer token: the last column of a batch is never fed.
    batch = collate([Example("", prompt, [0]) for prompt in prompts], 0).to(device)
    states = DynamicCache()
    logits = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        **behind(model, states),
        logits_to_keep=last_columns(1, device),
    ).logits
    states.batch_select_indices(source)
    return Kept(model, states, batch.attention_mask[source]), alike(logits[source, -1])


def draw_tokens(
    probabilities: Float[Tensor, "R V"], streams: Sequence[random.Random], top_p: float = TOP_P
) -> list[int]:
    """Draw one nucleus token a row; row i takes its random numbers from stream i.

    The nucleus holds the likeliest tokens up to the first whose sum reaches `top_p`, and tokens
    exactly as likely as its last one.
    """
    cumulative = probabilities.cumsum(-1)
    tokens = [0] * len(streams)
    undrawn = list(range(len(streams)))
    while undrawn:
        rows = torch.tensor(undrawn, device=probabilities.device)
        uniform = cumulative.new_tensor([[streams[i].random()] for i in undrawn])
        # A sum in fp32 is not quite 1.
        ceiling = cumulative[rows, -1:]
        drawn = torch.searchsorted(cumulative[rows], uniform * ceiling, right=True)
        drawn = drawn.clamp(max=cumulative.shape[1] - 1)
        chances = probabilities[rows]
        likelier = (chances * (chances > chances.gather(1, drawn))).sum(1)
        again = []
        for i, token, above in zip(undrawn, drawn[:, 0].tolist(), likelier.tolist(), strict=True):
            tokens[i] = token
            if above >= top_p:
                again.append(i)
        undrawn = again
    return tokens

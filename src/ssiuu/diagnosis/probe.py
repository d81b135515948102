"""Linear probe: can the answer be read off the hidden state at the prompt's end, layer by layer?

A linear map is fitted by ridge regression from the state at the prompt's last token to the direction
of the answer (its tokens' mean embedding, normalised), on facts of other entities, and a fact is right
when its own answer lies nearer to what the map says than each wrong option:

    M = argmin sum |M h - e(answer)|^2 + lambda |M|^2,    right: e(answer)·M h > e(option)·M h

One map serves all facts, so it can be fitted on a few and asked for answers it has never seen. It is
cross-validated by entity. Control: the same with labels shuffled, that is, answer and options handed
to another fact of the same relation. The control keeps what relation and options give away and cuts
the tie to the entity, so that selectivity = accuracy less control is what the state says of *this* one.

What it shows: a selectivity above 0 means that the answer is there in a linear form. What it does
not: an answer may be there in another form, fitted on few facts the probe misses much, and an answer
that can be read need not be used by the model.

Source: Alain & Bengio 2016; control tasks and selectivity, Hewitt & Liang 2019. Departures: the label
is an embedding in place of a class, as few facts share an answer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ssiuu.causal import CausalLM
from ssiuu.diagnosis.causal import as_record
from ssiuu.likelihood import Example, Prompt, collate, last_columns, length_sorted
from ssiuu.models.shards import dealt, picked
from ssiuu.records.schema import FactText, LinearProbe
from ssiuu.statistics import Estimate, bootstrap_mean

FOLDS = 8
SHUFFLES = 5
RIDGE = 1.0  # lambda over the mean squared length of the states


def linear_probe(
    model: CausalLM,
    prompt: Prompt,
    facts: Sequence[FactText],
    others: Sequence[FactText],
    pad: int,
    seed: int = 0,
) -> LinearProbe | None:
    """Return the accuracy by layer (0 = embeddings); None where nothing can be ranked.

    Args:
        model: In evaluation mode.
        prompt: How questions become tokens.
        facts: What is asked (the forget facts).
        others: More facts to fit on (the retain facts).
        pad: Padding token id.
        seed: Of folds and shuffles.
    """
    rankable = [fact for fact in [*facts, *others] if len(fact.options) > 1]
    count = sum(len(fact.options) > 1 for fact in facts)
    if not count or len({_entity(fact) for fact in rankable}) < 2:
        return None
    states = prompt_states(model, prompt, rankable, pad)
    options = [option_directions(model, prompt, fact) for fact in rankable]
    folds = entity_folds(rankable, seed)
    shuffles = [shuffled(rankable, random.Random(f"probe:{seed}:{n}")) for n in range(SHUFFLES)]
    entities = [_entity(fact) for fact in rankable[:count]]
    accuracy, control, selectivity = [], [], []
    for layer in states.unbind(1):
        right = probe_right(layer, options, folds)[:count]
        chance = torch.stack([probe_right(layer, [options[i] for i in s], folds) for s in shuffles])
        luck = chance.mean(0)[:count]
        accuracy.append(float(right.mean()))
        control.append(float(luck.mean()))
        gain = (right - luck).tolist()
        if len(set(entities)) > 1:
            selectivity.append(as_record(bootstrap_mean([[gain]], entities)))
        else:
            selectivity.append(as_record(Estimate(sum(gain) / count, -1.0, 1.0)))
    return LinearProbe(accuracy=accuracy, control=control, selectivity=selectivity, facts=count)


@torch.no_grad()
def prompt_states(
    model: CausalLM, prompt: Prompt, facts: Sequence[FactText], pad: int
) -> Float[Tensor, "F L d"]:
    """Return the residual stream at the prompt's last token, after the embeddings and every block.

    A last state of another width, which a further map has made, is left out.
    """
    device = next(model.parameters()).device
    prompts = [prompt.question(fact.question) for fact in facts]

    def read(rows: list[int]) -> Float[Tensor, "B L d"]:
        # The last column is never fed, so one token stands in for the answer.
        batch = collate([Example("", prompts[i], [pad]) for i in rows], pad).to(device)
        states = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            output_hidden_states=True,
            logits_to_keep=last_columns(0, device),  # nobody reads them
            use_cache=False,
        ).hidden_states
        alike = [state for state in states if state.shape[-1] == states[0].shape[-1]]
        return torch.stack([state[:, -1].float().cpu() for state in alike], 1)

    order = length_sorted([len(p) for p in prompts], 16)
    by_row: dict[int, Tensor] = {}
    for rows, last in zip(order, dealt(order, read), strict=True):
        by_row |= dict(zip(rows, last, strict=True))
    return torch.stack([by_row[i] for i in range(len(facts))])


@torch.no_grad()
def option_directions(model: CausalLM, prompt: Prompt, fact: FactText) -> Float[Tensor, "O d"]:
    """Return the mean output embedding of every option's tokens, the answer's first."""
    embedding = model.get_output_embeddings().weight
    options = prompt.joint(fact.question, fact.options).answers
    picks = (torch.tensor(ids, device=embedding.device) for ids in options)
    return torch.stack([picked(embedding, rows).float().mean(0).cpu() for rows in picks])


def entity_folds(facts: Sequence[FactText], seed: int) -> list[int]:
    """Return the fold of every fact; the facts of one entity share one."""
    names = sorted({_entity(fact) for fact in facts})
    random.Random(f"folds:{seed}").shuffle(names)
    fold = {name: index % FOLDS for index, name in enumerate(names)}
    return [fold[_entity(fact)] for fact in facts]


def shuffled(facts: Sequence[FactText], rng: random.Random) -> list[int]:
    """Return whose label every fact gets: another one's of the same relation, drawn at random."""
    order = list(range(len(facts)))
    for relation in {fact.relation for fact in facts}:
        members = [i for i, fact in enumerate(facts) if fact.relation == relation]
        for place, source in zip(members, rng.sample(members, len(members)), strict=True):
            order[place] = source
    return order


def probe_right(
    states: Float[Tensor, "F d"], options: Sequence[Float[Tensor, "_ e"]], folds: Sequence[int]
) -> Float[Tensor, " F"]:
    """Return 1 for every fact whose answer the map picks when fitted on the other folds.

    Args:
        states: One state a fact.
        options: Directions of every fact's options, the answer's first.
        folds: Of every fact.
    """
    right = torch.zeros(len(options))
    answers = torch.stack([rows[0] for rows in options]).double()
    x = states.double()
    for fold in set(folds):
        test = torch.tensor([f == fold for f in folds])
        centre = answers[~test].mean(0)
        predicted = ridge(x[~test], _unit(answers[~test], centre), x[test])
        for row, index in enumerate(test.nonzero().flatten().tolist()):
            scores = _unit(options[index].double(), centre) @ predicted[row]
            right[index] = float(scores[0] > scores[1:].max())
    return right


def ridge(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n k"], new: Float[Tensor, "t d"]
) -> Float[Tensor, "t k"]:
    """Return ridge regression's predictions, by the dual form, as n is small:

    y_mean + K(new, x) (K(x, x) + lambda I)^-1 (y - y_mean),   K the inner products of centred states.
    """
    centre, target = x.mean(0), y.mean(0)
    x, new = x - centre, new - centre
    kernel = x @ x.T
    # A share of the kernel's own size: states are not on one scale in all layers.
    penalty = RIDGE * kernel.diagonal().mean().clamp(min=1e-12)
    weights = torch.linalg.solve(kernel + penalty * torch.eye(len(x), dtype=x.dtype), y - target)
    predicted: Tensor = target + new @ x.T @ weights
    return predicted


def _unit(rows: Float[Tensor, "n d"], centre: Float[Tensor, " d"]) -> Float[Tensor, "n d"]:
    """Return directions from the centre, of length 1."""
    shifted = rows - centre
    unit: Tensor = shifted / shifted.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return unit


def _entity(fact: FactText) -> str:
    return fact.entity or fact.id

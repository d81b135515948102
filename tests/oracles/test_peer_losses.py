"""Losses beside those of OpenUnlearning: one batch, every gradient, each formula written out here.

    pytest tests/oracles/test_peer_losses.py
    PYTHONPATH=tests python tests/oracles/test_peer_losses.py     # prints the table of docs/losses.md

Theirs are written from a description of what they compute, rows padded on the right with labels, as a
trainer gives them; nothing of their program is used. Both in float64, on a model that has moved away
from its reference.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from conftest import build_examples, build_model
from ssiuu.likelihood import Example, collate
from ssiuu.methods import make
from ssiuu.training.prepare import prepare_parts
from ssiuu.training.terms import divisor_of
from ssiuu.training.views import Views

PAD, LAYER, STEERING = 1, 1, 2.0
IGNORED = -100
PAGE = Path(__file__).parents[2] / "docs/losses.md"


class Peer(NamedTuple):
    """A model, its reference, and rows as a trainer has them."""

    model: Any
    before: Any
    ids: Tensor
    there: Tensor
    labels: Tensor
    instead: tuple[Tensor, Tensor, Tensor]

    def logits(self, model: Any) -> Tensor:
        return model(input_ids=self.ids, attention_mask=self.there).logits

    def tokens(self) -> tuple[Tensor, Tensor]:
        """Log-probability of every label after the first place, and whether it counts: [B, T - 1]."""
        return _tokens(self.logits(self.model), self.labels)

    def reference(self) -> Tensor:
        with torch.no_grad():
            return self.logits(self.before)


def _tokens(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    counted = labels[:, 1:] != IGNORED
    index = labels[:, 1:].clamp(min=0).unsqueeze(-1)
    return logits[:, :-1].log_softmax(-1).gather(-1, index).squeeze(-1), counted


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    return values[counted].mean()


def log_sigmoid(x: Tensor) -> Tensor:
    return -torch.log1p(torch.exp(-x))


def summed(peer: Peer, model: Any, rows: tuple[Tensor, Tensor, Tensor] | None = None) -> Tensor:
    """Return log P of every answer."""
    ids, there, labels = rows or (peer.ids, peer.there, peer.labels)
    found, counted = _tokens(model(input_ids=ids, attention_mask=there).logits, labels)
    return (found * counted).sum(1)


# --- their losses -------------------------------------------------------------------------------


def ascent(peer: Peer) -> Tensor:
    return _mean(*peer.tokens())


def npo(peer: Peer) -> Tensor:
    ratio = summed(peer, peer.model) - summed(peer, peer.before).detach()
    return -2 / 0.1 * log_sigmoid(-0.1 * ratio).mean()


def dpo(peer: Peer) -> Tensor:
    lost = summed(peer, peer.model) - summed(peer, peer.before).detach()
    won = summed(peer, peer.model, peer.instead) - summed(peer, peer.before, peer.instead).detach()
    return -2 / 0.1 * log_sigmoid(0.1 * (won - lost)).mean()


def simnpo(peer: Peer) -> Tensor:
    found, counted = peer.tokens()
    nll = -(found * counted).sum(1) / counted.sum(1)
    return 0.125 * -2 / 4.5 * log_sigmoid(4.5 * nll).mean()


def wga(peer: Peer) -> Tensor:
    found, counted = peer.tokens()
    return _mean(found.detach().exp() * found, counted)


def satimp(peer: Peer) -> Tensor:
    found, counted = peer.tokens()
    p = found.detach().exp()
    return 0.1 * _mean(p**5 * (1 - p) * found, counted)


def ceu(peer: Peer) -> Tensor:
    """The first answer token is left out."""
    logits, labels = peer.logits(peer.model)[:, :-1], peer.labels[:, 1:]
    counted = (labels != IGNORED) & ((labels != IGNORED).cumsum(1) > 1)
    index = labels.clamp(min=0).unsqueeze(-1)
    others = logits.detach().scatter(-1, index, -math.inf).softmax(-1)
    return _mean(-(others * logits.log_softmax(-1)).sum(-1), counted)


def undial(peer: Peer) -> Tensor:
    """A mean over all positions: prompt and padding too, where the label that is lowered is its id."""
    logits, index = peer.logits(peer.model)[:, :-1], peer.labels[:, 1:].clamp(min=0).unsqueeze(-1)
    lowered = peer.reference()[:, :-1].scatter_add(-1, index, torch.full(index.shape, -10.0).double())
    return -(lowered.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()


def pdu(peer: Peer) -> Tensor:
    """The logits at the answer's own places, one behind those that predict it."""
    logits = peer.logits(peer.model)
    return _mean((logits.amax(-1) - logits.mean(-1)).square(), peer.labels != IGNORED)


def rmu(peer: Peer) -> Tensor:
    """Sums over answer tokens [b] over their numbers [b, 1]: a mean over [b, b]."""
    kept: list[Tensor] = []
    block = peer.model.model.layers[LAYER]
    handle = block.register_forward_hook(
        lambda m, i, out: kept.append(out[0] if isinstance(out, tuple) else out)
    )
    peer.logits(peer.model)
    handle.remove()
    drawn = torch.rand(kept[0].shape[-1], generator=torch.Generator().manual_seed(0))
    target = STEERING * (drawn / drawn.norm()).double()
    counted = peer.labels != IGNORED
    distance = (kept[0] - target).square().mean(-1)
    sums = (distance * counted).sum(1)
    return (sums / counted.sum(1, keepdim=True)).mean()


def nll(peer: Peer) -> Tensor:
    return -_mean(*peer.tokens())


def kl(peer: Peer) -> Tensor:
    """Divided by the rows, over all positions: prompt and padding too."""
    logs, before = peer.logits(peer.model).log_softmax(-1), peer.reference().log_softmax(-1)
    return (before.exp() * (before - logs)).sum() / len(peer.ids)


class Case(NamedTuple):
    """Ours, theirs, and why they are not the same; empty: they are."""

    spec: dict[str, Any]
    theirs: Callable[[Peer], Tensor]
    why: str = ""
    parallel: bool = True


CASES = {
    "ga": Case({"name": "ga"}, ascent),
    "gd": Case({"name": "gd"}, ascent),
    "npo": Case({"name": "npo", "beta": 0.1}, npo),
    "dpo": Case({"name": "dpo", "beta": 0.1}, dpo),
    "simnpo": Case({"name": "simnpo"}, simnpo),
    "wga": Case({"name": "wga"}, wga),
    "satimp": Case({"name": "satimp"}, satimp),
    "ceu": Case({"name": "ceu"}, ceu, "theirs divides by the tokens that are left, ours by all"),
    "undial": Case({"name": "undial"}, undial, "theirs counts prompt and padding", False),
    "pdu": Case({"name": "pdu"}, pdu, "theirs reads the logits one position behind", False),
    "rmu": Case(
        {"name": "rmu", "layer": LAYER, "steering": STEERING},
        rmu,
        "theirs counts answer tokens alone and divides every row by every row's length",
        False,
    ),
}
RETAIN = {
    "nll": Case({"name": "gd", "retain": "nll"}, nll),
    "kl": Case({"name": "gd", "retain": "kl"}, kl, "theirs counts prompt and padding", False),
}


# --- both on one batch --------------------------------------------------------------------------


def padded(rows: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids, mask and labels, padded on the right."""
    width = max(len(e.prompt) + len(e.answer) for e in rows)

    def filled(values: list[int], blank: int) -> list[int]:
        return values + [blank] * (width - len(values))

    ids = [filled(e.prompt + e.answer, PAD) for e in rows]
    there = [filled([1] * len(e.prompt + e.answer), 0) for e in rows]
    labels = [filled([IGNORED] * len(e.prompt) + e.answer, IGNORED) for e in rows]
    return torch.tensor(ids), torch.tensor(there), torch.tensor(labels)


def rows_of() -> tuple[list[Example], list[Example]]:
    """Return the rows to forget, and the same questions with other answers."""
    forget = build_examples(4, answer=(2, 5))
    other = build_examples(4, seed=2, answer=(2, 5))
    return forget, [Example(e.id, e.prompt, o.answer) for e, o in zip(forget, other, strict=True)]


def moved(model: Any) -> Any:
    generator = torch.Generator().manual_seed(11)
    found = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter += 0.03 * torch.randn(parameter.shape, generator=generator)
    return found


def gradient(model: Any, loss: Tensor) -> Tensor:
    found = torch.autograd.grad(loss, [*model.parameters()], allow_unused=True)
    pairs = zip(found, model.parameters(), strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def compared(case: Case, kept: bool = False) -> tuple[float, float]:
    """Return the cosine of both gradients, and the length of ours over that of theirs."""
    forget, refusals = rows_of()
    before = build_model(double=True)
    model, method, batch = moved(before), make(case.spec), collate(forget, PAD)
    prepared = prepare_parts(before, method, forget, forget, PAD, refusals)
    views = Views(model, prepared, "fp32", PAD)
    part = method.retain if kept else method.objective
    assert part is not None
    looks = part.looks(method.objective) if kept else part.looks  # type: ignore[operator]
    view = views.of(part, "retain" if kept else "forget", batch, looks)  # type: ignore[arg-type]
    values = part.loss(view) if kept else part.forget_loss(view)  # type: ignore[union-attr]
    ours = gradient(model, values.sum() / divisor_of([batch], part.normaliser))
    peer = Peer(model, before, *padded(forget), padded(refusals))
    theirs = gradient(model, case.theirs(peer))
    return (
        float(torch.cosine_similarity(ours, theirs, dim=0)),
        float(ours.norm() / theirs.norm()),
    )


def line(name: str, case: Case, found: tuple[float, float]) -> str:
    cosine, ratio = found
    return f"| `{name}` | {cosine:.4f} | {ratio:.3f} | {case.why} |"


def lines() -> list[str]:
    forget = [line(name, case, compared(case)) for name, case in CASES.items()]
    return [*forget, *(line(f"+{n}", case, compared(case, kept=True)) for n, case in RETAIN.items())]


@pytest.mark.parametrize("name", [*CASES, *(f"+{name}" for name in RETAIN)])
def test_gradients_agree_but_where_it_is_said(name: str) -> None:
    kept = name.startswith("+")
    case = RETAIN[name[1:]] if kept else CASES[name]
    cosine, ratio = compared(case, kept)
    if not case.why:
        assert cosine == pytest.approx(1, abs=1e-6) and ratio == pytest.approx(1, abs=1e-6)
    elif case.parallel:
        assert cosine == pytest.approx(1, abs=1e-6) and ratio != pytest.approx(1, abs=1e-2)
    else:
        assert 0 < cosine < 0.999
    assert line(name, case, (cosine, ratio)) in PAGE.read_text()


if __name__ == "__main__":
    print("\n".join(lines()))

"""Projection (ours): take the directions that all answers share out of the forget gradient.

For a linear map y = W x the forget gradient G = dL/dW lives in the span of its inputs x. The k
leading eigenvectors V of the inputs' second moment over the retain set are what every text shares;
relearning anything at all restores what was changed along them. So the forget step uses

    G <- G - G V V^T        for every linear map inside the blocks
    G <- 0                  for every other parameter (embeddings, norms)

The retain gradient is left as it is. The idea is that of CIR and RepSelect (collapse of irrelevant
representations); there directions of output gradients are taken out too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import eigsh
from torch import Tensor

from ssiuu.errors import ConfigError
from ssiuu.likelihood import Batch
from ssiuu.models.sites import find_sites


@torch.no_grad()
def project_out(
    gradient: Float[Tensor, "out in"], basis: Float[Tensor, "in k"]
) -> Float[Tensor, "out in"]:
    """Return G - G V V^T, in place."""
    return gradient.sub_((gradient @ basis) @ basis.T)


def leading_directions(moment: Float[Tensor, "d d"], k: int) -> Float[Tensor, "d k"]:
    """Return the k leading eigenvectors of a second moment, orthonormal columns.

    Raises:
        ValueError: k is not below the dimension.
    """
    d = moment.shape[0]
    if not 1 <= k < d:
        raise ValueError(f"projection needs 1 <= k < {d} (the width of the input), got {k}")
    # Lanczos, because k is small; the start vector is fixed so that runs repeat exactly.
    _, vectors = eigsh(moment.double().cpu().numpy(), k=k, which="LA", v0=np.ones(d))
    return torch.from_numpy(vectors.copy()).to(moment.dtype).to(moment.device)


def retain_bases(model: Any, batches: Iterable[Batch], k: int) -> dict[str, Float[Tensor, "d k"]]:
    """Return the shared directions of every linear map's inputs, by parameter name.

    Maps that read the same input (q, k and v; gate and up) share one basis.

    Raises:
        ConfigError: There are no batches.
    """
    with _moments(model) as (moments, owner, mask):
        for batch in batches:
            mask["keep"] = batch.attention_mask.bool()
            with torch.no_grad():
                model(
                    input_ids=batch.input_ids,
                    attention_mask=batch.attention_mask,
                    position_ids=batch.position_ids,
                    logits_to_keep=1,
                    use_cache=False,
                )
    if not moments:
        raise ConfigError(
            "projection: the shared directions are read off the retain set, and it has no rows. "
            "Give retain rows or leave projection out."
        )
    width = min(moment.shape[0] for moment in moments.values())
    if k >= width:
        raise ConfigError(f"projection: must be below {width}, the narrowest input here, got {k}.")
    bases = {path: leading_directions(moment, k) for path, moment in moments.items()}
    return {f"{path}.weight": bases[source] for path, source in owner.items()}


# The first map that reads an input keeps the moment for the others.
_SHARED = {"k": "q", "v": "q", "up": "gate"}


@contextmanager
def _moments(model: Any) -> Iterator[tuple[dict[str, Tensor], dict[str, str], dict[str, Tensor]]]:
    """Collect second moments of inputs while the context is open; no hook outlives it."""
    moments: dict[str, Tensor] = {}
    owner: dict[str, str] = {}
    mask: dict[str, Tensor] = {}
    handles = []
    first: dict[tuple[int, str], str] = {}
    for site in find_sites(model):
        source = _SHARED.get(site.module, site.module)
        first.setdefault((site.layer, site.module), site.path)
        owner[site.path] = first[(site.layer, source)]
        if source == site.module:
            handles.append(
                model.get_submodule(site.path).register_forward_pre_hook(
                    _moment_hook(site.path, moments, mask)
                )
            )
    try:
        yield moments, owner, mask
    finally:
        for handle in handles:
            handle.remove()


def _moment_hook(path: str, moments: dict[str, Tensor], mask: dict[str, Tensor]) -> Any:
    def hook(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0][mask["keep"]].float()
        moment = x.T @ x
        moments[path] = moments[path] + moment if path in moments else moment

    return hook

"""What is meant by a model here: a causal language model, by what is taken of it.

Any class that has these members will do, a model of transformers or one made by hand. What else a
function wants of it (known maps in its blocks, say) it looks for, and says so where it is not there.
Reading and writing of checkpoints alone asks for a `transformers.PreTrainedModel`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@runtime_checkable
class Predictions(Protocol):
    """What a model returns, for the tokens that it was asked for: [B, T, V]."""

    @property
    def logits(self) -> Tensor:
        """Of the next token, before any softmax."""

    @property
    def hidden_states(self) -> tuple[Tensor, ...]:
        """The embeddings and what every block adds up to, [B, T, d] each, where they were asked for."""


@runtime_checkable
class CausalLM(Protocol):
    """A torch module that gives logits for every token of a text, from those up to it."""

    config: Any  # its fields differ from one architecture to another

    def __call__(self, **inputs: Any) -> Predictions:
        """Read `input_ids` [B, T], with the mask, positions and cache that go with them."""

    @property
    def device(self) -> torch.device:
        """Where the inputs belong."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""

    def get_input_embeddings(self) -> Any:
        """Return what holds a row for each token, `weight` [V, d]."""

    def get_output_embeddings(self) -> Any:
        """Return the map from the last hidden state to the logits, `weight` [V, d]."""

    def parameters(self, recurse: bool = True) -> Iterator[torch.nn.Parameter]:
        """Give every parameter once."""

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Give every parameter with its path; a tied one once, or under each of its names."""

    def modules(self) -> Iterator[torch.nn.Module]:
        """Give the model and every module within."""

    def named_modules(self) -> Iterator[tuple[str, torch.nn.Module]]:
        """Give the model and every module within, with their paths."""

    def get_parameter(self, target: str) -> torch.nn.Parameter:
        """Return a parameter by its path."""

    def get_submodule(self, target: str) -> torch.nn.Module:
        """Return a module by its path."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds, by name."""

    def requires_grad_(self, requires_grad: bool = True) -> CausalLM:
        """Say whether the parameters are trained."""

    def train(self, mode: bool = True) -> CausalLM:
        """Turn dropout and the like on."""

    def eval(self) -> CausalLM:
        """Turn dropout and the like off."""

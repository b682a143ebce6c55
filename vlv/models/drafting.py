"""Assisted decoding (arXiv 2211.17192): a small model drafts the next tokens, and the captioner checks them at once.

The check decides: greedy ids are the captioner's own, whatever is drafted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor


class Generates(Protocol):
    """A model with transformers' `generate`."""

    def generate(self, **options: object) -> object:
        """Token ids, or an output that has them."""
        ...


class Drafter:
    """A model as transformers calls an assistant, which has read the prompt in its own way.

    Transformers hands an assistant all that its target goes by: the target's embeddings of the prompt too, which mean
    nothing to another model.
    """

    def __init__(self, model: Generates, draft: Callable[..., object]) -> None:
        """Hold the model.

        Args:
            draft: called as transformers' `generate`, without the target's embeddings.
        """
        self._model = model
        self._draft = draft

    def __getattr__(self, name: str) -> object:
        """Everything else is the model's."""
        return getattr(self._model, name)

    def generate(self, prompt_embeds: Tensor, **options: object) -> object:
        """What follows the ids in `options`.

        Args:
            prompt_embeds: the target's, which are left out.
            options: as transformers gives them to an assistant.
        """
        return self._draft(**options)

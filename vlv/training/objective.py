"""What the trainer minimises: all that it knows of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias

from torch import Tensor

# A micro-batch; what is in it is a matter between the loader and the objective (`vlv.batch` for both stages).
Batch: TypeAlias = Mapping[str, object]


class Objective(Protocol):
    """A module that turns a micro-batch into sums of losses and into what each of them is a sum over.

    loss_weights: the loss is the weighted sum of the terms' means; its names are the terms.
    """

    loss_weights: dict[str, float]

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Samples, or tokens, that each term's sum is over; []."""
        ...

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Each term's sum over the micro-batch; []."""
        ...

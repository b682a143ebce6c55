"""An exponential moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """Averages the trained parameters of a module, by name.

    The step is torch's. Its `AveragedModel` would copy the whole module, nine tenths of it frozen, and diffusers'
    `EMAModel` identifies parameters by their order, so that a checkpoint of other ones would load unnoticed.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Start from the module's own weights."""
        self._parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self._averages = {name: value.detach().clone() for name, value in self._parameters.items()}
        self._step = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self) -> None:
        """Take one step towards the module's weights."""
        current = [value.detach() for value in self._parameters.values()]
        self._step(list(self._averages.values()), current, 0)  # the count is for averages with equal weights, unused

    def state(self) -> dict[str, Tensor]:
        """The averages by name, on the CPU."""
        return {name: value.cpu() for name, value in self._averages.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore the averages of a checkpoint."""
        for name, value in self._averages.items():
            value.copy_(state[name])

    def apply(self) -> None:
        """Put the averages into the module for good."""
        self._write(self._averages)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages into the module while the context lasts."""
        kept = {name: value.detach().clone() for name, value in self._parameters.items()}
        self._write(self._averages)
        try:
            yield
        finally:
            self._write(kept)

    @torch.no_grad()
    def _write(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])

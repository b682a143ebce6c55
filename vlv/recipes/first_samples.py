"""What a part that starts from data is told: moments of states of the run's first samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vlv.batch import Batch
from vlv.whitening import StateMoments

FIRST_SAMPLES = 1024


def first_moments(
    accelerator: Accelerator,
    loader: Iterable[Batch],
    parts: Sequence[nn.Module],
    states: Callable[[Tensor], Tensor],
    moments: StateMoments,
) -> tuple[Tensor, Tensor]:
    """Mean and covariance of states of the run's first samples, the same on every process.

    Args:
        parts: of the model, all that `states` needs.
        states: [B, Q, D] of uint8 encoder pixels [B, 3, E, E].
        moments: nothing gathered yet.

    Raises:
        ValueError: none of the samples can be used.
    """
    read = cast("list[nn.Module]", parts)  # transformers types `to` its own way
    for part in read:
        part.to(accelerator.device)
    wanted, given = FIRST_SAMPLES / accelerator.num_processes, 0
    for batch in loader:
        with torch.no_grad(), accelerator.autocast():
            found = states(batch["encoder_pixels"].to(accelerator.device))
        # What stands in for unreadable samples is black pixels, whose states are no image's.
        moments.add(found[(batch["weights"] > 0).to(found.device)])
        given += len(found)
        if given >= wanted:
            break

    def summed(value: Tensor) -> Tensor:
        return cast("Tensor", accelerator.reduce(value.to(accelerator.device), reduction="sum"))

    mean_and_covariance = moments.summed(summed)
    for part in read:
        part.to("cpu")  # the accelerator places or shards the whole of the model, and takes it from one device
    return mean_and_covariance

"""AdamW, and the learning rate as a pure function of the optimizer step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn


def build_optimizer(
    parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW over the parameters that train.

    Raises:
        ValueError: nothing trains.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise ValueError("nothing trains: the setting `train` leaves every weight frozen")
    return torch.optim.AdamW(trained, lr=lr, betas=betas, weight_decay=weight_decay)


def lr_at(step: int, *, lr: float, schedule: str, num_steps: int, warmup_steps: int = 0) -> float:
    """Learning rate of optimizer step `step` (from 0): linear warm-up, then the schedule down to 0 at `num_steps`.

    It counts optimizer steps, so the number of processes and of accumulated batches do not enter. A run never
    goes past `num_steps` unless its schedule was made for fewer (`lr_schedule_steps`).
    """
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    if schedule == "cosine":
        return lr * 0.5 * (1 + math.cos(math.pi * done))  # past its end it rises again, as the published one did
    if schedule == "linear":
        return lr * max(0.0, 1 - done)
    return lr

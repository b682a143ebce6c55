"""The optimizer of a run, and the learning rate as a pure function of the optimizer step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from vlv.training.muon import Muon, weight_matrices


def build_optimizer(
    module: nn.Module,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.01,
    part_lrs: Mapping[str, float] | None = None,
    kind: str = "adamw",
) -> torch.optim.AdamW:
    """AdamW or Muon over the parameters that train; each group's `lr_scale` is its share of the step's learning rate.

    Args:
        module: what trains, whole.
        part_lrs: peak learning rate of the parameters whose names begin so; all others have `lr`.
        kind: adamw, or muon: weight matrices by Muon, the rest by AdamW.

    Raises:
        ValueError: nothing trains.
    """
    part_lrs = part_lrs or {}
    matrices = weight_matrices(module) if kind == "muon" else set[nn.Parameter]()
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            peak = next((value for prefix, value in part_lrs.items() if name.startswith(prefix)), lr)
            groups.setdefault((peak, parameter in matrices), []).append(parameter)
    if not groups:
        raise ValueError("nothing trains: the setting `train` leaves every weight frozen")
    # The share, not the rate, is the group's own: the trainer sets lr anew at each step from the schedule.
    described = [
        {"params": params, "lr": peak, "lr_scale": peak / lr, "matrices": of_matrices}
        for (peak, of_matrices), params in groups.items()
    ]
    if kind == "muon":
        return Muon(described, lr=lr, betas=betas, weight_decay=weight_decay)
    # One pass over each tensor instead of one for each operation: 3 to 7 times as fast on a CPU.
    return torch.optim.AdamW(described, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)


def lr_at(step: int, *, lr: float, schedule: str, num_steps: int, warmup_steps: int = 0) -> float:
    """Learning rate of optimizer step `step` (from 0): linear warm-up, then the schedule down to 0 at `num_steps`.

    The formulas of `diffusers.optimization`, but that the warm-up's first step already trains, at lr / warmup_steps
    where theirs has 0. A function and no scheduler object: those hold state that a checkpoint must restore, and
    Accelerate's wrapper steps them once for each process.

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

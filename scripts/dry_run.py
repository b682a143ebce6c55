"""What a run would be, without running it: parameters, batch sizes, memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch


def parameter_counts(objective: torch.nn.Module) -> tuple[int, int]:
    """(trained, frozen) parameters, each counted once."""
    counts = [0, 0]
    for parameter in objective.parameters():
        counts[0 if parameter.requires_grad else 1] += parameter.numel()
    return counts[0], counts[1]


def memory_estimate(objective: torch.nn.Module) -> dict[str, float]:
    """GiB of one process without activations: weights as they are, gradients, and AdamW's two moments."""
    sizes = {"trained weights": 0, "gradients": 0, "optimizer": 0, "frozen weights": 0}
    for parameter in objective.parameters():
        size = parameter.numel() * parameter.element_size()
        if parameter.requires_grad:
            sizes["trained weights"] += size
            sizes["gradients"] += size
            sizes["optimizer"] += 2 * size
        else:
            sizes["frozen weights"] += size
    return {name: size / 2**30 for name, size in sizes.items()}


def print_dry_run(config: Any, objective: torch.nn.Module, sizes: Any) -> None:
    """Print what a run would be: the resolved config, parameters, batch sizes and memory."""
    from omegaconf import OmegaConf

    trained, frozen = parameter_counts(objective)
    memory = memory_estimate(objective)
    print(OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config))).rstrip())
    print(f"\nparameters: {trained:,} trained, {frozen:,} frozen")
    print(
        f"global batch {sizes.global_batch_size} = micro-batch {sizes.micro_batch_size} x accumulation "
        f"{sizes.accumulation} x {sizes.num_processes} processes"
    )
    parts = ", ".join(f"{name} {size:.2f}" for name, size in memory.items())
    print(f"memory of a process, without activations: {sum(memory.values()):.2f} GiB ({parts})")

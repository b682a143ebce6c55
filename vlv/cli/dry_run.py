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


def memory_estimate(
    objective: torch.nn.Module, averaged: bool = False, parallelism: str = "", num_processes: int = 1
) -> dict[str, float]:
    """GiB of one process without activations: weights as they are, gradients, AdamW's two moments, the average.

    Args:
        parallelism: FSDP shares all but the buffers over the processes, DEEPSPEED (ZeRO-2) gradients and optimizer.
    """
    sizes: dict[str, float] = {"trained weights": 0, "gradients": 0, "optimizer": 0, "frozen weights": 0}
    if averaged:
        sizes["average"] = 0
    for parameter in objective.parameters():
        size = parameter.numel() * parameter.element_size()
        if parameter.requires_grad:
            sizes["trained weights"] += size
            sizes["gradients"] += size
            sizes["optimizer"] += 2 * size
            if averaged:
                sizes["average"] += size
        else:
            sizes["frozen weights"] += size
    shared = {"FSDP": sizes.keys(), "DEEPSPEED": {"gradients", "optimizer"}}.get(parallelism, ())
    for name in shared:
        sizes[name] /= num_processes
    # Stable Diffusion 3.5's table of positions is one, of 0.8 GiB.
    sizes["buffers"] = sum(buffer.numel() * buffer.element_size() for buffer in objective.buffers())
    return {name: size / 2**30 for name, size in sizes.items()}


def print_dry_run(config: Any, objective: torch.nn.Module, sizes: Any, precision: str) -> None:
    """Print what a run would be: the resolved config, parameters, batch sizes and memory.

    Args:
        precision: what the config's `precision` is on this machine.
    """
    from omegaconf import OmegaConf

    from vlv.cli.checks import read_accelerate_config

    trained, frozen = parameter_counts(objective)
    parallelism = str(read_accelerate_config(config.accelerate_config).get("distributed_type", ""))
    memory = memory_estimate(objective, config.ema_decay > 0, parallelism, sizes.num_processes)
    print(OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config))).rstrip())
    print(f"\nparameters: {trained:,} trained, {frozen:,} frozen")
    print(
        f"global batch {sizes.global_batch_size} = micro-batch {sizes.micro_batch_size} x accumulation "
        f"{sizes.accumulation} x {sizes.num_processes} processes"
    )
    parts = ", ".join(f"{name} {size:.2f}" for name, size in memory.items())
    print(
        f"memory of a process, without activations: {sum(memory.values()):.2f} GiB ({parts}); weights that train in "
        f"{config.param_dtype}, frozen ones in {precision} (precision={config.precision}, as on this machine)"
    )

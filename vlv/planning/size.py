"""Parameters and bytes of a model that is to train, of weights, gradients and optimizer; activations are left out."""

from __future__ import annotations

from torch import nn


def parameter_counts(objective: nn.Module) -> tuple[int, int]:
    """(trained, frozen) parameters, each counted once."""
    counts = [0, 0]
    for parameter in objective.parameters():
        counts[0 if parameter.requires_grad else 1] += parameter.numel()
    return counts[0], counts[1]


def memory_estimate(
    objective: nn.Module, averaged: bool = False, parallelism: str = "", num_processes: int = 1
) -> dict[str, float]:
    """Bytes of one process without activations: weights as they are, gradients, AdamW's two moments, the average.

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
            sizes["optimizer"] += 2 * size  # AdamW's two moments are in the parameter's own format
            if averaged:
                sizes["average"] += size
        else:
            sizes["frozen weights"] += size + _scales(parameter)
    shared = {"FSDP": sizes.keys(), "DEEPSPEED": {"gradients", "optimizer"}}.get(parallelism, ())
    for name in shared:
        sizes[name] /= num_processes
    # Not negligible: Stable Diffusion 3.5's table of positions alone has 0.8 GiB.
    sizes["buffers"] = sum(buffer.numel() * buffer.element_size() for buffer in objective.buffers())
    return sizes


def _scales(parameter: nn.Parameter) -> int:
    """Bytes of what a weight of 4 bits has beside it: a scale for each block (bitsandbytes)."""
    state = getattr(parameter, "quant_state", None)
    return 0 if state is None else state.absmax.numel() * state.absmax.element_size()


def readable(size: float) -> str:
    """Bytes in the unit that fits: 2.5 MiB."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"

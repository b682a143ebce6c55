"""Weights shared out over the processes: torch's `fully_shard`, as the trainer applies it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.fsdp import OffloadPolicy, fully_shard

from vlv.training.processes import is_sharded


def distribute(
    accelerator: Accelerator, objective: nn.Module, build: Callable[[nn.Module], torch.optim.Optimizer]
) -> tuple[nn.Module, AcceleratedOptimizer]:
    """Bring objective and optimizer onto the processes as the accelerator's configuration says.

    Args:
        build: makes the optimizer of the objective's parameters. Of a sharded objective they are other parameters
            than before, so it is called after that.

    Returns:
        Objective and optimizer, prepared.
    """
    if not is_sharded(accelerator):
        return accelerator.prepare(objective, build(objective))
    plugin = cast("FullyShardedDataParallelPlugin", accelerator.state.fsdp_plugin)
    # Accelerate's FSDP2 plugin turns both settings into torch's own types on construction.
    reshard, offload = bool(plugin.reshard_after_forward), cast("OffloadPolicy | None", plugin.cpu_offload)
    shard(objective, accelerator.device, reshard, offload)
    _compute_in_precision(accelerator, objective)
    # Not `prepare`: of FSDP2 it takes a model to wrap beside every optimizer.
    return objective, cast("AcceleratedOptimizer", accelerator.prepare_optimizer(build(objective)))


def shard(
    objective: nn.Module,
    device: torch.device,
    reshard_after_forward: bool = True,
    offload_policy: OffloadPolicy | None = None,
) -> nn.Module:
    """Share out every parameter, frozen and trained, in place; the objective's own forward gathers them.

    Each block that its library calls indivisible is gathered by itself, shortly before it computes; what lies outside
    of blocks is gathered with the objective. The VAE stays whole on each process: it is small, keeps fp32
    (`kept_dtype`), and is used through other methods than forward. Values are those of whole weights.

    Args:
        reshard_after_forward: give a block's weights up after forward, and gather them once more in backward.
    """
    whole = [m.to(device) for m in objective.modules() if getattr(m, "kept_dtype", None) == torch.float32]
    ignored = {parameter for module in whole for parameter in module.parameters()}
    names = block_names(objective)
    share = partial(
        fully_shard,
        reshard_after_forward=reshard_after_forward,
        offload_policy=offload_policy or OffloadPolicy(),
        ignored_params=ignored,
    )
    # What lies inside comes first: a call takes the parameters that no earlier one has taken, so an outer block would
    # leave nothing to gather by itself.
    for module in reversed(list(objective.modules())):
        if type(module).__name__ in names and not ignored.intersection(module.parameters()):
            share(module)
    share(objective)
    return objective


def block_names(objective: nn.Module) -> set[str]:
    """Class names of the blocks that transformers and diffusers keep in one piece."""
    return {name for module in objective.modules() for name in getattr(module, "_no_split_modules", None) or ()}


def _compute_in_precision(accelerator: Accelerator, objective: nn.Module) -> None:
    """Run forward in the accelerator's mixed precision; Accelerate does so only for models it has wrapped itself.

    Autocast, and no `MixedPrecisionPolicy`: that would round inputs that must stay fp32, such as SDXL's sizes.
    """
    forward = objective.forward

    @wraps(forward)
    def in_precision(*arguments: object, **settings: object) -> object:
        with accelerator.autocast():
            return forward(*arguments, **settings)

    objective.forward = in_precision

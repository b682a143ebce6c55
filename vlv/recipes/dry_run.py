"""What a run would be, without running it: the resolved config, parameters, batch sizes, memory."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from vlv.config import TrainingConfig
from vlv.planning.size import memory_estimate, parameter_counts, readable
from vlv.recipes.accelerate_config import read_accelerate_config
from vlv.recipes.batch_sizes import BatchSizes

if TYPE_CHECKING:
    from torch import nn

    from vlv.training.precision import Choice


def print_dry_run(config: TrainingConfig, objective: nn.Module, choice: Choice) -> None:
    """Print what a run would be.

    Args:
        choice: what `precision` is on this machine.
    """
    import yaml

    # Of the run itself: this is one process, whatever num_gpus says.
    sizes = BatchSizes.of(config, config.num_gpus)
    trained, frozen = parameter_counts(objective)
    parallelism = str(read_accelerate_config(config.accelerate_config).get("distributed_type", ""))
    memory = memory_estimate(objective, config.ema_decay > 0, parallelism, sizes.num_processes)
    print(yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True).rstrip())
    print(f"\nparameters: {trained:,} trained, {frozen:,} frozen")
    print(f"global batch {sizes}")
    parts = ", ".join(f"{name} {readable(size)}" for name, size in memory.items())
    print(
        f"memory of a process, without activations: {readable(sum(memory.values()))} ({parts}); weights that train in "
        f"{config.param_dtype}, frozen ones in {choice.precision} ({choice.reason})"
    )

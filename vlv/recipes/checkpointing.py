"""Whether a training computes activations again in backward: as set, or as its memory by plan and its GPU want it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import torch

from vlv.config import Stage1Config, Stage2Config
from vlv.planning.decoders import USABLE
from vlv.planning.size import memory_estimate, parameter_counts
from vlv.recipes.accelerate_config import read_accelerate_config
from vlv.recipes.batch_sizes import BatchSizes
from vlv.training.precision import on_gpu

if TYPE_CHECKING:
    from vlv.models.objectives import CaptionObjective, DenoisingObjective


def recompute_where_needed(
    config: Stage1Config | Stage2Config, objective: DenoisingObjective | CaptionObjective, precision: str
) -> None:
    """Let an objective compute activations again where the setting says so, or, with `auto`, where else they would not
    fit; that is printed then. On a CPU `auto` is off.
    """
    recompute = config.gradient_checkpointing == "on"
    if config.gradient_checkpointing == "auto" and on_gpu():
        # The smallest of this machine: FSDP's processes must all do the same.
        cards = (torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count()))
        recompute = exceeds(config, objective, precision, min(card.total_memory for card in cards))
    if recompute:
        objective.enable_gradient_checkpointing()


def exceeds(
    config: Stage1Config | Stage2Config,
    objective: DenoisingObjective | CaptionObjective,
    precision: str,
    memory: int,
) -> bool:
    """Whether a step takes more than a GPU of `memory` bytes has, by plan; the first process prints it then."""
    from vlv.planning.step_memory import activations_gib

    values = [*objective.parameters()]
    if not all(value.is_floating_point() for value in values):
        return False  # of weights in 8 or 4 bits no plan can be made: they do not exist without values
    processes = int(os.environ.get("WORLD_SIZE", config.num_gpus))
    sizes = BatchSizes.of(config, processes)
    kind = str(read_accelerate_config(config.accelerate_config).get("distributed_type", ""))
    half = precision != "fp32"
    fixed = sum(memory_estimate(objective, config.ema_decay > 0, kind, processes).values())
    fixed += 2 * parameter_counts(objective)[0] if half else 0  # autocast's copies of what trains
    length = config.max_caption_tokens if isinstance(config, Stage2Config) else 0
    planned = fixed / 2**30 + activations_gib(objective, sizes.micro_batch_size, length, half)
    room = USABLE * memory / 2**30
    if planned > room and os.environ.get("RANK", "0") == "0":
        print(
            f"gradient_checkpointing=auto is on: a micro-batch of {sizes.micro_batch_size} takes {planned:.1f} GiB by "
            f"plan, and the GPU has room for {room:.1f} GiB",
            file=sys.stderr,
        )
    return planned > room

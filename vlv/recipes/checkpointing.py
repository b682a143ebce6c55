"""Whether a training computes activations again in backward: as set, or as its memory by plan and its GPU want it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import torch

from vlv.config import Stage1Config, Stage2Config
from vlv.planning.decoders import USABLE
from vlv.planning.size import memory_estimate
from vlv.recipes.accelerate_config import read_accelerate_config
from vlv.recipes.batch_sizes import BatchSizes
from vlv.training.precision import on_gpu
from vlv.training.processes import local_processes

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
        # The smallest of those that this machine's processes use: FSDP's must all do the same.
        used = range(min(torch.cuda.device_count(), local_processes()))
        cards = (torch.cuda.get_device_properties(number) for number in used)
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
    processes = int(os.environ.get("WORLD_SIZE", config.num_gpus if config.dry_run else 1))
    sizes = BatchSizes.of(config, processes)
    kind = str(read_accelerate_config(config.accelerate_config).get("distributed_type", ""))
    half = precision != "fp32"
    fixed = sum(memory_estimate(objective, config.ema_decay > 0, kind, processes).values())
    length = config.max_caption_tokens if isinstance(config, Stage2Config) else 0
    try:
        planned = fixed / 2**30 + activations_gib(objective, sizes.micro_batch_size, length, half)
    except (RuntimeError, NotImplementedError) as error:  # a model that asks a value, which there is none of
        _say(f"off: its memory cannot be planned ({str(error).splitlines()[0]})")
        return False
    room = USABLE * memory / 2**30
    if planned > room:
        _say(
            f"on: a micro-batch of {sizes.micro_batch_size} takes {planned:.1f} GiB by plan, and the GPU has room for "
            f"{room:.1f} GiB"
        )
    return planned > room


def _say(what: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"gradient_checkpointing=auto is {what}", file=sys.stderr)

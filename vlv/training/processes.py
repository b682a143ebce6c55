"""The processes of a run: Accelerate set up once, with what it must not guess."""

from __future__ import annotations

import os
import warnings
from datetime import timedelta
from typing import cast

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import DeepSpeedPlugin, DistributedType, gather_object

from vlv.training.precision import on_gpu


def loader_workers(wanted: int) -> int:
    """Loader workers of this process: on the CPU no more than its share of the cores, where the model computes too."""
    if on_gpu():
        return wanted
    # Linux alone tells which cores this process may use.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(wanted, max(1, cores // local_processes()))


def local_processes() -> int:
    """Processes of this run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def start_processes(
    precision: str,
    accumulation: int = 1,
    micro_batch_size: int = 1,
    max_grad_norm: float = 0.0,
    patience: timedelta = timedelta(hours=1),
) -> Accelerator:
    """Accelerate, with the number of processes checked against what the launcher started.

    Args:
        precision: fp32, bf16 or fp16 (resolved).
        accumulation: forward passes of one optimizer step.
        micro_batch_size, max_grad_norm: samples of one forward pass of one process, and the clipping norm
            (0: none), which DeepSpeed wants to know.
        patience: how long processes wait for each other before one is taken for dead.

    Raises:
        RuntimeError: the processes have not found each other, or compute in different number formats.
    """
    mixed = {"fp32": "no"}.get(precision, precision)
    # The warning itself says to keep it as long as nothing else leaves buffers alone from the start.
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
    accelerator = Accelerator(
        mixed_precision=mixed,
        gradient_accumulation_steps=accumulation,
        # No loader is prepared: it gives each process its own positions, which Accelerate would split once more.
        kwargs_handlers=[
            # Buffers are constants here, the same in each process: Stable Diffusion 3.5's positions alone are 0.8 GiB.
            # Gradients are views of DDP's buckets: without it there would be two copies of them.
            DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=patience),
        ],
    )
    if accelerator.device.type == "cpu" and mixed == "bf16":
        # Where torch has no fused kernel, as with dropout in the attention, the plain one turns bf16 into fp32 first:
        # twice the time.
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # of the CPU too, whatever its name says
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != world_size:
        raise RuntimeError(
            f"{world_size} processes were started but Accelerate sees {accelerator.num_processes}: start them with "
            "the launchers, or with torchrun and ACCELERATE_USE_CPU=true on the CPU"
        )
    if accelerator.num_processes > 1 and len(found := set(gather_object([precision]))) > 1:
        raise RuntimeError(
            f"the machines of this run chose different number formats ({', '.join(sorted(found))}): set precision"
        )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        plugin = cast("DeepSpeedPlugin", accelerator.state.deepspeed_plugin)
        # DeepSpeed clips and checks batch sizes itself; left at "auto" it would look for them in a loader that
        # Accelerate prepared, and ours is not.
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = micro_batch_size
        plugin.deepspeed_config["gradient_clipping"] = max_grad_norm
    return accelerator


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether no process holds the weights as a whole, so that only the objective's own forward can use them."""
    return accelerator.distributed_type == DistributedType.FSDP


def has_whole_weights(accelerator: Accelerator) -> bool:
    """Whether each process holds, and updates, whole weights: neither FSDP's nor ZeRO's share of them."""
    return accelerator.distributed_type not in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def seed_step(seed: int, step: int, process_index: int) -> None:
    """Seed dropout for one optimizer step, so that a resumed run applies the masks that the first one would have.

    A function of (seed, step, process) instead of a generator's state: the checkpoint needs none, and the masks of a
    process do not depend on how many there are. The factors keep neighbouring seeds, steps and processes apart: 4,099
    is above any number of processes, 1,000,003 above any usual number of steps.
    """
    mixed = (seed * 1_000_003 + step) * 4_099 + process_index
    torch.manual_seed(mixed % 2**63)  # torch takes 64 bits, which seeds from about 4.5e9 on would exceed

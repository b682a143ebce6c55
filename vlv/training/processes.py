"""The processes of a run: Accelerate set up once, with what it must not guess."""

from __future__ import annotations

import logging
import os
import warnings
from datetime import timedelta
from typing import cast

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import DeepSpeedPlugin, DistributedType

_log = logging.getLogger(__name__)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: str) -> str:
    """Turn `auto` into bf16 on a GPU that has it, fp16 on an older one, fp32 on the CPU.

    Raises:
        ValueError: fp16 without a GPU.
    """
    on_gpu = _on_gpu()
    if precision == "bf16" and not on_gpu and not cpu_has_bf16():
        _log.warning("this CPU has no bf16 of its own and is many times slower in it than in fp32: set precision=fp32")
    if precision == "auto":
        return ("bf16" if torch.cuda.is_bf16_supported() else "fp16") if on_gpu else "fp32"
    if precision == "fp16" and not on_gpu:
        raise ValueError("precision=fp16 needs a GPU: set precision=bf16 or fp32")
    return precision


def fastest_precision() -> str:
    """The setting of `precision` that trains fastest here: auto on a GPU, bf16 on a CPU that has it, fp32 on others."""
    return "auto" if _on_gpu() else "bf16" if cpu_has_bf16() else "fp32"


def loader_workers(wanted: int) -> int:
    """Loader workers of this process: on the CPU no more than its share of the cores, where the model computes too."""
    if _on_gpu():
        return wanted
    # Linux alone tells which cores this process may use.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(wanted, max(1, cores // local_processes()))


def local_processes() -> int:
    """Processes of this run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _on_gpu() -> bool:
    return torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() != "true"


def cpu_has_bf16() -> bool:
    """Whether this CPU has instructions for bf16: avx512_bf16, amx_bf16, or an ARM's."""
    return any(has for name, has in torch.cpu.get_capabilities().items() if name.endswith("bf16"))


def torch_dtype(precision: str) -> torch.dtype:
    """The dtype of a resolved precision."""
    return _DTYPES[precision]


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
        RuntimeError: the processes have not found each other.
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

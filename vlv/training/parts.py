"""What the training loop is given: its numbers, and the objects that it drives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn

from vlv.training.average import WeightAverage
from vlv.training.checkpoint import Checkpointer
from vlv.training.metrics import MetricLogger
from vlv.training.objective import Batch
from vlv.training.stopping import StopRequest


class SampleCount(Protocol):
    """Samples that this process has been given so far, without padding; `path` lists the bad ones of them."""

    seen: int
    bad: int
    truncated: int  # of those that are not bad
    path: Path


@dataclass(frozen=True)
class TrainerSettings:
    """Numbers of the loop.

    num_steps: optimizer step at which the run ends.
    global_batch_size: samples of one optimizer step over all processes.
    accumulation: micro-batches of one process in one optimizer step.
    micro_batch_size: samples of one of them.
    max_grad_norm: clipping norm; 0 switches clipping off.
    max_skipped_steps: steps in a row whose loss or gradient is not finite, until the run stops.
    stop_on_full_disk: stop where a checkpoint does not fit, instead of trying again at the next save.
    """

    num_steps: int
    global_batch_size: int
    accumulation: int
    micro_batch_size: int
    max_grad_norm: float
    save_step: int
    log_every: int
    seed: int
    max_skipped_steps: int = 10
    stop_on_full_disk: bool = False


@dataclass(frozen=True)
class TrainingParts:
    """What the loop drives.

    objective: an `Objective`, prepared by the accelerator.
    optimizer: prepared; each group has its share of the learning rate as `lr_scale` (`build_optimizer`).
    loader: micro-batches of this process, `accumulation` for each step, from the state's `samples` on.
    samples: counts what the loader gives; None where every sample is usable.
    average: moving average of the trained weights, which is validated and saved beside them; None for none.
    stop: tells when the run is asked to stop before its end.
    """

    accelerator: Accelerator
    objective: nn.Module
    optimizer: AcceleratedOptimizer
    loader: Iterable[Batch]
    checkpointer: Checkpointer
    logger: MetricLogger
    samples: SampleCount | None = None
    average: WeightAverage | None = None
    stop: StopRequest = field(default_factory=StopRequest)

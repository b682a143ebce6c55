"""The one training loop. It knows an objective, a loader and an optimizer; never a stage or a model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor

from vlv.memory import is_out_of_memory
from vlv.training.average import WeightAverage
from vlv.training.checkpoint import Checkpointer
from vlv.training.metrics import MetricLogger
from vlv.training.processes import seed_step
from vlv.training.state import TrainState

Batch = dict[str, Any]


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says what to set."""


class SampleCount(Protocol):
    """Samples that this process has been given so far, without padding; `path` lists the bad ones of them."""

    seen: int
    bad: int
    path: Path


@dataclass(frozen=True)
class TrainerSettings:
    """Numbers of the loop.

    num_steps: optimizer step at which the run ends.
    global_batch_size: samples of one optimizer step over all processes.
    accumulation: micro-batches of one process in one optimizer step.
    micro_batch_size: samples of one of them.
    max_grad_norm: clipping norm; 0 switches clipping off.
    """

    num_steps: int
    global_batch_size: int
    accumulation: int
    micro_batch_size: int
    max_grad_norm: float
    save_step: int
    log_every: int
    seed: int


class Trainer:
    """Minimises an objective over the micro-batches of a loader.

    The objective gives sums of losses (`forward`), what they count (`counts`) and their weights
    (`loss_weights`); each sum is divided by its count over the whole global batch.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        objective: torch.nn.Module,
        optimizer: Any,
        loader: Iterable[Batch],
        settings: TrainerSettings,
        *,
        state: TrainState,
        lr_at: Callable[[int], float],
        checkpointer: Checkpointer,
        logger: MetricLogger,
        validate: Callable[[TrainState], dict[str, float]],
        samples: SampleCount | None = None,
        average: WeightAverage | None = None,
    ) -> None:
        """Hold the parts.

        Args:
            objective, optimizer: prepared by the accelerator.
            loader: micro-batches of this process, `accumulation` for each step, from `state.samples` on.
            lr_at: learning rate of an optimizer step.
            validate: called on every process at each save; its numbers are logged.
            samples: counts what the loader gives; None where every sample is a good one.
            average: moving average of the trained weights, which is validated and saved beside them.
        """
        self.accelerator = accelerator
        self.objective = objective
        self.optimizer = optimizer
        self.loader = loader
        self.settings = settings
        self.state = state
        self.lr_at = lr_at
        self.checkpointer = checkpointer
        self.logger = logger
        self.validate = validate
        self.samples = samples
        self.average = average
        self._bare: Any = accelerator.unwrap_model(objective)
        self._terms = list(self._bare.loss_weights)
        self._trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        self._window = _Window()

    def fit(self) -> TrainState:
        """Train to `num_steps`, saving and validating on the way and at the end."""
        settings, state = self.settings, self.state
        batches = iter(self.loader)
        self.objective.train()
        self._window.restart(self._count_samples()[0])
        try:
            while state.step < settings.num_steps:
                micro_batches = self._fetch(batches)
                # After the fetch: a loader that starts draws from the same stream.
                seed_step(settings.seed, state.step, self.accelerator.process_index)
                self._step(micro_batches)
                state.step += 1
                state.samples += settings.global_batch_size
                self.logger.advance(state.step)
                saves = state.step % settings.save_step == 0 or state.step == settings.num_steps
                if state.step % settings.log_every == 0 or saves:  # a loss that is not finite is never saved
                    self._log()
                if saves:
                    self._save()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(self._memory_advice()) from error
        return state

    def _fetch(self, batches: Iterator[Batch]) -> list[Batch]:
        started = time.monotonic()
        micro_batches = []
        for _ in range(self.settings.accumulation):
            batch = next(batches, None)
            if batch is None:
                raise TrainingError(f"the data ended at step {self.state.step} of {self.settings.num_steps}")
            micro_batches.append(send_to_device(batch, self.accelerator.device, non_blocking=True))
        self._window.waited += time.monotonic() - started
        return micro_batches

    def _step(self, micro_batches: list[Batch]) -> None:
        counts = torch.stack([self._stack(self._bare.counts(batch)) for batch in micro_batches]).sum(0)  # [terms]
        counts = self._sum_over_processes(counts)
        weights = self._stack(self._bare.loss_weights)
        # backward() divides by the accumulation and gradients are averaged over processes: both undone here.
        scale = self.settings.accumulation * self.accelerator.num_processes
        factors = weights * scale / counts.clamp(min=1)
        sums = torch.zeros_like(counts)
        lr = self.lr_at(self.state.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        for batch in micro_batches:
            with self.accelerator.accumulate(self.objective):
                terms = self._stack(self.objective(batch))
                self.accelerator.backward((terms * factors).sum())
                sums += terms.detach()
                if self.accelerator.sync_gradients:
                    norm = self.accelerator.clip_grad_norm_(self._trained, self.settings.max_grad_norm or math.inf)
                    self._window.norm = norm
                self.optimizer.step()
                self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update()
        self._window.add(sums, counts, lr)

    def _sum_over_processes(self, values: Tensor) -> Tensor:
        reduced: Any = self.accelerator.reduce(values, reduction="sum")
        return reduced

    def _stack(self, terms: dict[str, Any]) -> Tensor:
        values = [torch.as_tensor(terms[name], device=self.accelerator.device).float() for name in self._terms]
        return torch.stack(values)

    def _log(self) -> None:
        window = self._window
        assert window.sums is not None
        assert window.counts is not None
        sums = self._sum_over_processes(window.sums).tolist()
        counts = window.counts.tolist()
        good, bad = self._count_samples()
        if not any(counts):
            listed = f": {self.samples.path} lists them with their reasons" if self.samples else ""
            raise TrainingError(
                f"no sample of the {window.steps} steps up to {self.state.step} could be used, so nothing was "
                f"learned{listed}"
            )
        means = {name: sums[i] / max(1.0, counts[i]) for i, name in enumerate(self._terms)}
        loss = sum(weight * means[name] for name, weight in self._bare.loss_weights.items())
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {self.state.step}: lower lr, or set precision=fp32; "
                "resume=latest goes on from the last checkpoint"
            )
        elapsed = time.monotonic() - window.started
        metrics: dict[str, float] = {"train/loss": loss}
        if len(means) > 1:
            metrics.update({f"train/{name}_loss": value for name, value in means.items()})
        metrics["train/lr"] = window.lr
        if window.norm is not None:
            metrics["train/grad_norm"] = float(window.norm)
        metrics["train/images_per_second"] = (good - window.good_before) / elapsed
        metrics["train/data_wait_share"] = window.waited / elapsed
        metrics["train/bad_samples"] = bad
        self.logger.log(self.state.step, metrics)
        window.restart(good)

    def _save(self) -> None:
        path = self.checkpointer.save(self.objective, self.optimizer, self.state, self.average)
        self.objective.eval()
        with self.average.applied() if self.average else nullcontext():
            metrics = self.validate(self.state)
        self.objective.train()
        if metrics:
            self.logger.log(self.state.step, metrics)
        self.logger.message(f"saved {path}")
        good, bad = self._count_samples()
        if bad and self.samples:
            self.logger.message(f"{bad} of {good + bad} samples could not be used; {self.samples.path} lists them")
        self._window.restart(good)

    def _count_samples(self) -> tuple[int, int]:
        """Good and bad samples over all processes; since the run's start, so that differences count."""
        if self.samples is None:
            return self.state.samples, 0
        counted = torch.tensor([self.samples.seen - self.samples.bad, self.samples.bad])
        good, bad = self._sum_over_processes(counted.to(self.accelerator.device)).tolist()
        return good, bad

    def _memory_advice(self) -> str:
        micro = self.settings.micro_batch_size
        smaller = (
            f"max_micro_batch={max(1, micro // 2)} (the same global batch, more accumulation) or " if micro > 1 else ""
        )
        return (
            f"out of memory with a micro-batch of {micro}: set {smaller}gradient_checkpointing=true or "
            "param_dtype=bf16, or on several GPUs ACCELERATE_CONFIG=configs/accelerate/fsdp.yaml"
        )


class _Window:
    """Running numbers between two lines of metrics; tensors stay on the device until they are logged."""

    def __init__(self) -> None:
        self.restart(0)

    def restart(self, good_before: int) -> None:
        self.started = time.monotonic()
        self.good_before = good_before
        self.steps = 0
        self.waited = 0.0
        self.sums: Tensor | None = None
        self.counts: Tensor | None = None
        self.norm: Any = None
        self.lr = 0.0

    def add(self, sums: Tensor, counts: Tensor, lr: float) -> None:
        self.steps += 1
        self.sums = sums if self.sums is None else self.sums + sums
        self.counts = counts if self.counts is None else self.counts + counts
        self.lr = lr

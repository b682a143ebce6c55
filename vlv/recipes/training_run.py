"""A training run of either stage: its folder, processes and data, the loop over them, and the finished model."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.optim import AdamW

from vlv.atomic import remove_leftovers, whole_folder
from vlv.batch import Batch
from vlv.checkpoints.card import public_place, write_card
from vlv.checkpoints.pretrained import no_progress_bars
from vlv.checkpoints.resume import find_checkpoint, is_validated
from vlv.checkpoints.retention import Retention
from vlv.config import TrainingConfig, save_config
from vlv.data.bad_samples import BadSampleLog
from vlv.data.loader import WorkerLoader
from vlv.data.preparation import SamplePreparation
from vlv.data.sample import SampleSource
from vlv.frozen import restore_dtypes
from vlv.inference.validation import ValidationSamples
from vlv.planning.size import parameter_counts
from vlv.recipes.batch_sizes import BatchSizes
from vlv.recipes.training_data import (
    BAD_SAMPLES,
    Data,
    grouped_by_length,
    open_training_data,
    training_loader,
    validation_batches,
)
from vlv.redaction import redact_values
from vlv.training.average import WeightAverage
from vlv.training.checkpoint import Checkpointer
from vlv.training.metrics import METRICS, SKIPPED_STEPS, MetricLogger
from vlv.training.optim import build_optimizer, lr_at
from vlv.training.parts import TrainerSettings, TrainingParts
from vlv.training.processes import has_whole_weights, is_sharded, start_processes
from vlv.training.restarts import RESTARTS, RestartClock
from vlv.training.sharding import distribute
from vlv.training.state import TrainState
from vlv.training.stopping import StopRequest
from vlv.training.tracker import RUN_ID, WandbSettings
from vlv.training.trainer import Trainer
from vlv.training.validation import validation_loss

CHECKPOINTS, FINAL, CONFIG = "checkpoints", "final", "config.yaml"
VALIDATION = "validation"


class ShowSamples(Protocol):
    """Shows what the model makes of the first validation samples: pictures or captions."""

    def __call__(self, step: int, batches: Iterable[Batch], logger: MetricLogger) -> None:
        """Called on every process at each save."""
        ...


@dataclass(frozen=True)
class StageParts:
    """What differs between the stages, beside config and objective.

    prepare: from a sample to the model's inputs. identity: what a resumed checkpoint must agree on. write_extras:
    writes what a checkpoint holds beside weights and state. part_lrs: peak learning rate of the parameters whose names
    begin so, where it is not the run's. check_data: raises a ValueError where a source, also that of the validation,
    does not fit the model.
    """

    prepare: SamplePreparation
    identity: dict[str, Any]
    show: ShowSamples
    check_data: Callable[[SampleSource], None]
    write_extras: Callable[[Path], None] = lambda folder: None
    part_lrs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingRun:
    """A run's settings, processes, batch sizes and data; the same object on every process.

    resumed: the checkpoint that it resumes from; None where it starts anew.
    """

    config: TrainingConfig
    accelerator: Accelerator
    sizes: BatchSizes
    data: Data
    resumed: Path | None

    @classmethod
    def start(cls, config: TrainingConfig, precision: str) -> TrainingRun:
        """Join the processes, make the run's folder, and open the data.

        Raises:
            ValueError: the processes do not divide the global batch, or there is nothing to read.
        """
        # Of the launcher's environment, as Accelerate has to be told the accumulation when it starts.
        sizes = BatchSizes.of(config, int(os.environ.get("WORLD_SIZE", "1")))
        accelerator = start_processes(precision, sizes.accumulation, sizes.micro_batch_size, config.max_grad_norm)
        if config.optimizer == "muon" and not has_whole_weights(accelerator):
            raise ValueError("optimizer=muon needs whole matrices on each process: use DDP, or set optimizer=adamw")
        _start_folder(config, accelerator)
        resumed = _checkpoint(config, accelerator)
        return cls(config, accelerator, sizes, open_training_data(config, accelerator, sizes), resumed)

    @property
    def validation_samples(self) -> ValidationSamples:
        """Where validation pictures or captions go."""
        folder, accelerator = Path(self.config.output_dir) / VALIDATION, self.accelerator
        wait = accelerator.wait_for_everyone
        return ValidationSamples(folder, self.config.val_pictures, accelerator.process_index, wait)

    def loader(self, state: TrainState, prepare: SamplePreparation) -> WorkerLoader[Batch]:
        """Micro-batches of this process from `state.samples` on."""
        return training_loader(self.config, self.accelerator, self.data, self.sizes, state, prepare)

    def fit(self, objective: torch.nn.Module, parts: StageParts) -> dict[str, torch.Tensor]:
        """Train to the end, from the start or from a checkpoint; returns the trained weights on the CPU."""
        config, accelerator = self.config, self.accelerator
        build = partial(_build_optimizer, config, parts.part_lrs)
        objective, optimizer = distribute(accelerator, objective, build)
        restore_dtypes(accelerator.unwrap_model(objective))
        # The average after the distribution, which moves the weights: it is kept on their device.
        checkpointer, average, found = self._checkpointer(parts), self._average(objective), self.resumed
        state = checkpointer.load(found, objective, optimizer, average) if found else TrainState()
        with closing(self._logger(state, found)) as logger:
            self._announce(logger, objective, state, found)
            samples, stop = self._sample_log(), StopRequest()
            loader = self.loader(state, parts.prepare)
            trainer = Trainer(
                TrainingParts(
                    accelerator=accelerator,
                    objective=objective,
                    optimizer=optimizer,
                    loader=samples.watch(grouped_by_length(config, self.sizes, parts.prepare, loader)),
                    checkpointer=checkpointer,
                    logger=logger,
                    samples=samples,
                    average=average,
                    stop=stop,
                ),
                self._settings(),
                state=state,
                lr_at=self._lr_at,
                validate=self._validation(objective, parts, logger),
                resumed=found,
            )
            restore = stop.listen()
            try:
                trainer.fit()
            finally:
                restore()
        if average is not None:  # it is the finished model, and its names are those inside the objective
            return {name.removeprefix("model."): value for name, value in average.state().items()}
        return checkpointer.trained_state(objective)

    def save_final(self, save: Callable[[Path], None]) -> Path:
        """Write the finished model to <output_dir>/final on the first process, and end the processes; returns it."""
        if self.accelerator.is_main_process:
            save_final(self.config, self.data, save)
        self.accelerator.end_training()
        return Path(self.config.output_dir) / FINAL

    def _lr_at(self, step: int) -> float:
        config = self.config
        num_steps = config.lr_schedule_steps or self.data.num_steps
        return lr_at(
            step, num_steps=num_steps, lr=config.lr, schedule=config.lr_schedule, warmup_steps=config.warmup_steps
        )

    def _validation(
        self, objective: torch.nn.Module, parts: StageParts, logger: MetricLogger
    ) -> Callable[[TrainState], dict[str, float]]:
        batches = validation_batches(self.config, self.accelerator, self.sizes, parts.prepare, parts.check_data)
        # A sharded model cannot be run by one process at a time, as each shows samples of its own number.
        shows = self.config.val_pictures and not is_sharded(self.accelerator)

        def validate(state: TrainState) -> dict[str, float]:
            metrics = validation_loss(self.accelerator, objective, batches())
            if shows:
                parts.show(state.step, batches(), logger)
            return metrics

        return validate

    def _average(self, objective: torch.nn.Module) -> WeightAverage | None:
        """The moving average of the trained weights, where it is asked for.

        Raises:
            ValueError: weights that are sharded over the processes.
        """
        decay, accelerator = self.config.ema_decay, self.accelerator
        if not decay:
            return None
        if not has_whole_weights(accelerator):
            raise ValueError(f"ema_decay={decay} needs whole weights on each process: use DDP, or set ema_decay=0")
        return WeightAverage(accelerator.unwrap_model(objective), decay)

    def _checkpointer(self, parts: StageParts) -> Checkpointer:
        def write_extras(folder: Path) -> None:
            save_config(self.config, folder / CONFIG)
            parts.write_extras(folder)

        return Checkpointer(
            Path(self.config.output_dir) / CHECKPOINTS,
            self.accelerator,
            retention=Retention(self.config.keep_checkpoints, self.config.keep_every, self.config.keep_best),
            identity={**parts.identity, "optimizer": self.config.optimizer},
            write_extras=write_extras,
        )

    def _sample_log(self) -> BadSampleLog:
        path = Path(self.config.output_dir) / BAD_SAMPLES
        return BadSampleLog(path, "train", self.accelerator.num_processes, self.config.max_bad_share)

    def _logger(self, state: TrainState, found: Path | None) -> MetricLogger:
        config, folder = self.config, Path(self.config.output_dir)
        wandb = None
        if config.wandb_mode != "off":
            settings = redact_values(dataclasses.asdict(config))
            wandb = WandbSettings(config.wandb_mode, config.wandb_project, config.run_name, settings)
        return MetricLogger(
            folder,
            enabled=self.accelerator.is_main_process,
            num_steps=self.data.num_steps,
            first_step=state.step,
            validated=found is None or is_validated(found),
            wandb=wandb,
            restart=RestartClock(found, folder / METRICS, state.step) if found else None,
        )

    def _settings(self) -> TrainerSettings:
        config, sizes = self.config, self.sizes
        return TrainerSettings(
            num_steps=self.data.num_steps,
            global_batch_size=sizes.global_batch_size,
            accumulation=sizes.accumulation,
            micro_batch_size=sizes.micro_batch_size,
            max_grad_norm=config.max_grad_norm,
            max_skipped_steps=config.max_skipped_steps,
            save_step=config.save_step,
            stop_on_full_disk=config.stop_on_full_disk,
            log_every=config.log_every,
            seed=config.seed,
        )

    def _announce(
        self, logger: MetricLogger, objective: torch.nn.Module, state: TrainState, found: Path | None
    ) -> None:
        trained, frozen = parameter_counts(objective)
        logger.message(f"{self.config.run_name}: {trained:,} parameters train, {frozen:,} are frozen")
        logger.message(f"{self.data.describe()}; {self.data.num_steps:,} steps of {self.sizes}")
        if self.config.val_pictures and is_sharded(self.accelerator):
            logger.message("no validation pictures or captions: no process holds the weights as a whole (FSDP)")
        if found:
            logger.message(f"resuming from {found}: step {state.step}, sample {state.samples}")
        elif self.config.resume:
            logger.message("resume=latest: no checkpoint yet, so the run starts anew")


def save_final(config: TrainingConfig, data: Data, save: Callable[[Path], None]) -> None:
    """Write the finished model to <output_dir>/final: to a temporary place first, then renamed."""
    final = Path(config.output_dir) / FINAL
    with whole_folder(final) as folder, no_progress_bars():
        save(folder)
        save_config(config, folder / CONFIG)
        write_card(folder, {"data": f"{public_place(data.path)}: {data.describe()}", "steps": f"{data.num_steps:,}"})
    print(f"finished: {final}", file=sys.stderr)


def _build_optimizer(config: TrainingConfig, part_lrs: Mapping[str, float], objective: torch.nn.Module) -> AdamW:
    betas = (config.betas[0], config.betas[1])
    return build_optimizer(objective, config.lr, betas, config.weight_decay, part_lrs, config.optimizer)


def _checkpoint(config: TrainingConfig, accelerator: Accelerator) -> Path | None:
    """The newest good checkpoint that `resume` may mean: the first process reads and compares, and tells the others.

    Raises:
        ValueError: none is good.
    """
    if config.resume is None:
        return None
    found: list[Path | None] = [None]
    if accelerator.is_main_process:
        folder = Path(config.output_dir) / CHECKPOINTS
        found = [find_checkpoint(config.resume, folder, whole=True, report=partial(print, file=sys.stderr))]
    return broadcast_object_list(found)[0]


def _start_folder(config: TrainingConfig, accelerator: Accelerator) -> None:
    """Make the run's folder, and save the resolved config into it before anything else."""
    output_dir = Path(config.output_dir)
    if accelerator.is_main_process:
        # Not where it resumes: a job that is started again by the same call must find its checkpoints.
        if config.overwrite and config.resume is None:
            for name in (CHECKPOINTS, FINAL, VALIDATION):
                shutil.rmtree(output_dir / name, ignore_errors=True)
            for name in (METRICS, SKIPPED_STEPS, RESTARTS, RUN_ID, BAD_SAMPLES):
                (output_dir / name).unlink(missing_ok=True)
        output_dir.mkdir(parents=True, exist_ok=True)
        remove_leftovers(output_dir)
        for name in (CHECKPOINTS, VALIDATION):
            remove_leftovers(output_dir / name, recursive=True)
        save_config(config, output_dir / CONFIG)
    accelerator.wait_for_everyone()

"""The wiring that both trainings share: run folder, optimizer, checkpoints, validation, trainer."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch.optim import AdamW

from vlv.atomic import whole_folder
from vlv.checkpoints.card import public_place, write_card
from vlv.checkpoints.resume import find_checkpoint
from vlv.cli.dry_run import parameter_counts
from vlv.config import save_config
from vlv.data.bad_samples import BadSampleLog
from vlv.data.preparation import SamplePreparation
from vlv.frozen import restore_dtypes
from vlv.inference.validation import ValidationSamples
from vlv.recipes.training_data import (
    BAD_SAMPLES,
    BatchSizes,
    Data,
    TrainingConfig,
    training_loader,
    validation_batches,
)
from vlv.training.average import WeightAverage
from vlv.training.checkpoint import Checkpointer
from vlv.training.metrics import MetricLogger
from vlv.training.optim import build_optimizer, lr_at
from vlv.training.processes import is_sharded
from vlv.training.sharding import distribute
from vlv.training.state import TrainState
from vlv.training.tracker import WandbSettings
from vlv.training.trainer import Trainer, TrainerSettings, TrainingParts
from vlv.training.validation import validation_loss

CHECKPOINTS, FINAL, CONFIG = "checkpoints", "final", "config.yaml"
VALIDATION = "validation"


@dataclass(frozen=True)
class StageParts:
    """What differs between the stages, beside config and objective.

    identity: what a resumed checkpoint must agree on. write_extras: writes what a checkpoint holds beside
    weights and state. show: (step, validation batches, logger), called at each save: pictures or captions.
    part_lrs: peak learning rate of the parameters whose names begin so, where it is not the run's.
    """

    prepare: SamplePreparation
    identity: dict[str, Any]
    write_extras: Callable[[Path], None]
    show: Callable[[int, Any, MetricLogger], None]
    part_lrs: Mapping[str, float] = field(default_factory=dict)


def fit(
    config: TrainingConfig,
    accelerator: Accelerator,
    objective: torch.nn.Module,
    data: Data,
    sizes: BatchSizes,
    parts: StageParts,
) -> dict[str, torch.Tensor]:
    """Train to the end, from the start or from a checkpoint; returns the trained weights on the CPU."""
    output_dir = Path(config.output_dir)
    build = partial(_build_optimizer, config, parts.part_lrs)
    objective, optimizer = distribute(accelerator, objective, build)
    restore_dtypes(accelerator.unwrap_model(objective))
    checkpointer = _checkpointer(config, accelerator, parts)
    found = resumed_checkpoint(config)
    average = _average(config, accelerator, objective)
    state = checkpointer.load(found, objective, optimizer, average) if found else TrainState()
    logger = _logger(config, accelerator, data, state)
    _announce(logger, config, objective, data, sizes, state, found, is_sharded(accelerator))
    loader = training_loader(config, accelerator, data, sizes, state, parts.prepare)
    val_batches = validation_batches(config, accelerator, sizes, parts.prepare)

    samples = BadSampleLog(output_dir / BAD_SAMPLES, "train", accelerator.num_processes, config.max_bad_share)

    def validate(state: TrainState) -> dict[str, float]:
        metrics = validation_loss(accelerator, objective, val_batches())
        if config.val_pictures and not is_sharded(accelerator):
            parts.show(state.step, val_batches(), logger)
        return metrics

    schedule = {"lr": config.lr, "schedule": config.lr_schedule, "warmup_steps": config.warmup_steps}
    Trainer(
        TrainingParts(
            accelerator=accelerator,
            objective=objective,
            optimizer=optimizer,
            loader=samples.watch(loader),
            checkpointer=checkpointer,
            logger=logger,
            samples=samples,
            average=average,
        ),
        _settings(config, data, sizes),
        state=state,
        lr_at=partial(lr_at, num_steps=config.lr_schedule_steps or data.num_steps, **schedule),
        validate=validate,
    ).fit()
    logger.close()
    if average is not None:
        return {name.removeprefix("model."): value for name, value in average.state().items()}
    return checkpointer.trained_state(objective)


def _build_optimizer(config: TrainingConfig, part_lrs: Mapping[str, float], objective: torch.nn.Module) -> AdamW:
    betas = (config.betas[0], config.betas[1])
    return build_optimizer(objective.named_parameters(), config.lr, betas, config.weight_decay, part_lrs)


def resumed_checkpoint(config: TrainingConfig) -> Path | None:
    """The checkpoint that a run resumes from; None where it starts anew."""
    return find_checkpoint(config.resume, Path(config.output_dir) / CHECKPOINTS)


def _average(config: TrainingConfig, accelerator: Accelerator, objective: torch.nn.Module) -> WeightAverage | None:
    """The moving average of the trained weights, where it is asked for.

    Raises:
        ValueError: weights that are sharded over the processes.
    """
    if not config.ema_decay:
        return None
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ValueError(
            f"ema_decay={config.ema_decay} needs whole weights on each process: use DDP, or set ema_decay=0"
        )
    return WeightAverage(accelerator.unwrap_model(objective), config.ema_decay)


def _checkpointer(config: TrainingConfig, accelerator: Accelerator, parts: StageParts) -> Checkpointer:
    def write_extras(folder: Path) -> None:
        save_config(config, folder / CONFIG)
        parts.write_extras(folder)

    return Checkpointer(
        Path(config.output_dir) / CHECKPOINTS,
        accelerator,
        keep=config.keep_checkpoints,
        identity=parts.identity,
        write_extras=write_extras,
    )


def _logger(config: TrainingConfig, accelerator: Accelerator, data: Data, state: TrainState) -> MetricLogger:
    return MetricLogger(
        Path(config.output_dir),
        enabled=accelerator.is_main_process,
        num_steps=data.num_steps,
        first_step=state.step,
        wandb=_wandb(config),
    )


def _wandb(config: TrainingConfig) -> WandbSettings | None:
    if config.wandb_mode == "off":
        return None
    return WandbSettings(config.wandb_mode, config.wandb_project, config.run_name, dataclasses.asdict(config))


def _settings(config: TrainingConfig, data: Data, sizes: BatchSizes) -> TrainerSettings:
    return TrainerSettings(
        num_steps=data.num_steps,
        global_batch_size=sizes.global_batch_size,
        accumulation=sizes.accumulation,
        micro_batch_size=sizes.micro_batch_size,
        max_grad_norm=config.max_grad_norm,
        save_step=config.save_step,
        log_every=config.log_every,
        seed=config.seed,
    )


def world_size() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def save_final(config: TrainingConfig, data: Data, save: Callable[[Path], None]) -> None:
    """Write the finished model to <output_dir>/final: to a temporary place first, then renamed."""
    final = Path(config.output_dir) / FINAL
    with whole_folder(final) as folder:
        save(folder)
        save_config(config, folder / CONFIG)
        write_card(folder, {"data": f"{public_place(data.path)}: {data.describe()}", "steps": f"{data.num_steps:,}"})
    print(f"finished: {final}", file=sys.stderr)


def validation_samples(config: TrainingConfig, accelerator: Accelerator) -> ValidationSamples:
    """Where validation pictures or captions go."""
    folder = Path(config.output_dir) / VALIDATION
    return ValidationSamples(folder, config.val_pictures, accelerator.process_index, accelerator.wait_for_everyone)


def start_run_folder(config: TrainingConfig, accelerator: Accelerator) -> None:
    """Make the run's folder, and save the resolved config into it before anything else."""
    output_dir = Path(config.output_dir)
    if accelerator.is_main_process:
        if config.overwrite and config.resume is None:
            for name in (CHECKPOINTS, FINAL, VALIDATION):
                shutil.rmtree(output_dir / name, ignore_errors=True)
            for name in ("metrics.jsonl", BAD_SAMPLES):
                (output_dir / name).unlink(missing_ok=True)
        output_dir.mkdir(parents=True, exist_ok=True)
        save_config(config, output_dir / CONFIG)
    accelerator.wait_for_everyone()


def _announce(
    logger: MetricLogger,
    config: TrainingConfig,
    objective: torch.nn.Module,
    data: Data,
    sizes: BatchSizes,
    state: TrainState,
    found: Path | None,
    sharded: bool,
) -> None:
    trained, frozen = parameter_counts(objective)
    logger.message(f"{config.run_name}: {trained:,} parameters train, {frozen:,} are frozen")
    logger.message(
        f"{data.describe()}; {data.num_steps:,} steps of {sizes.global_batch_size} = micro-batch "
        f"{sizes.micro_batch_size} x accumulation {sizes.accumulation} x {sizes.num_processes} processes"
    )
    if config.val_pictures and sharded:
        logger.message("no validation pictures or captions: no process holds the weights as a whole (FSDP)")
    if found:
        logger.message(f"resuming from {found}: step {state.step}, sample {state.samples}")
    elif config.resume:
        logger.message("resume=latest: no checkpoint yet, so the run starts anew")

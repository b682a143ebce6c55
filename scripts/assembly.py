"""The wiring that both trainings share: data, batch sizes, optimizer, checkpoints, trainer."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from vlv.config import Stage1Config, Stage2Config, save_config
from vlv.data.bad_samples import BadSampleLog
from vlv.data.captions import CaptionTokenizer
from vlv.data.dataset import OrderedDataset, build_loader
from vlv.data.index import open_source
from vlv.data.order import (
    BatchPlan,
    SampleOrder,
    largest_micro_batch,
    training_positions,
    validation_positions,
)
from vlv.data.sample import SampleSource
from vlv.inference.validation import Showcase
from vlv.training.checkpoint import Checkpointer, find_checkpoint
from vlv.training.metrics import MetricLogger
from vlv.training.optim import build_optimizer, lr_at
from vlv.training.state import TrainState
from vlv.training.trainer import Trainer, TrainerSettings
from vlv.training.validation import validation_loss

TrainingConfig = Stage1Config | Stage2Config
CHECKPOINTS, FINAL, BAD_SAMPLES, CONFIG = "checkpoints", "final", "bad_samples.jsonl", "config.yaml"
VALIDATION = "validation"


@dataclass(frozen=True)
class BatchSizes:
    """global = micro x accumulation x processes, always."""

    global_batch_size: int
    micro_batch_size: int
    num_processes: int

    @property
    def accumulation(self) -> int:
        """Micro-batches of one process in one optimizer step."""
        return self.global_batch_size // (self.micro_batch_size * self.num_processes)

    @classmethod
    def of(cls, config: TrainingConfig, num_processes: int) -> BatchSizes:
        """The sizes that a config means on a number of processes.

        Raises:
            ValueError: the processes do not divide the global batch.
        """
        cap = config.max_micro_batch
        if isinstance(config, Stage2Config):
            total = config.batch_size * config.accumulation * num_processes
            cap = min(cap, config.batch_size)
        else:
            total = config.global_batch_size
        return cls(total, largest_micro_batch(total, num_processes, cap), num_processes)


@dataclass(frozen=True)
class Data:
    """The training data of a run, opened.

    num_steps: where the run ends. num_samples: samples after which only padding comes; None for no limit.
    """

    source: SampleSource
    num_steps: int
    num_samples: int | None


def open_training_data(config: TrainingConfig, accelerator: Accelerator, sizes: BatchSizes) -> Data:
    """Open the data; the first process of each machine builds an index that the others then read."""
    stage2 = isinstance(config, Stage2Config)
    path = config.dataset_path if stage2 else config.train_dataset_path
    with accelerator.local_main_process_first():
        source = open_source(
            path,
            data_format=config.data_format,
            captions=stage2,
            image_column=config.image_column,
            caption_column=config.caption_column,
            raw_image_size=(config.raw_image_size[0], config.raw_image_size[1]),
        )
    if not stage2:
        return Data(source, config.num_steps, None)
    if config.epochs is None:
        return Data(source, config.total_steps, None)
    num_samples = math.ceil(config.epochs * len(source))
    by_epochs = math.ceil(num_samples / sizes.global_batch_size)
    return Data(source, min(config.total_steps, by_epochs), num_samples)


def fit(
    config: TrainingConfig,
    accelerator: Accelerator,
    objective: torch.nn.Module,
    data: Data,
    sizes: BatchSizes,
    *,
    image_processor: Any,
    caption_tokenizer: CaptionTokenizer | None,
    identity: dict[str, Any],
    write_extras: Callable[[Path], None],
    show: Callable[[int, Any, MetricLogger], None],
) -> dict[str, torch.Tensor]:
    """Train to the end, from the start or from a checkpoint; returns the trained weights on the CPU.

    Args:
        identity: what a resumed checkpoint must agree on.
        write_extras: writes what a checkpoint holds beside weights and state.
        show: (step, validation batches, logger), called at each save: pictures or captions.
    """
    output_dir = Path(config.output_dir)
    optimizer = build_optimizer(
        objective.parameters(), config.lr, (config.betas[0], config.betas[1]), config.weight_decay
    )
    objective, optimizer = accelerator.prepare(objective, optimizer)

    def extras(folder: Path) -> None:
        save_config(config, folder / CONFIG)
        write_extras(folder)

    checkpointer = Checkpointer(
        output_dir / CHECKPOINTS, accelerator, keep=config.keep_checkpoints, identity=identity, write_extras=extras
    )
    found = find_checkpoint(config.resume, output_dir / CHECKPOINTS)
    state = checkpointer.load(found, objective, optimizer) if found else TrainState()
    logger = MetricLogger(
        output_dir,
        enabled=accelerator.is_main_process,
        num_steps=data.num_steps,
        first_step=state.step,
        run_name=config.run_name,
        config=dataclasses.asdict(config),
        wandb_mode=config.wandb_mode,
        wandb_project=config.wandb_project,
    )
    _announce(logger, config, objective, data, sizes, state, found)
    watch = BadSampleLog(output_dir / BAD_SAMPLES, accelerator.num_processes, config.max_bad_share).watch
    val_batches = validation_batches(config, accelerator, sizes, image_processor, caption_tokenizer)

    def validate(state: TrainState) -> dict[str, float]:
        metrics = validation_loss(accelerator, objective, val_batches())
        if config.val_pictures:
            show(state.step, val_batches(), logger)
        return metrics

    trainer = Trainer(
        accelerator,
        objective,
        optimizer,
        watch(training_loader(config, accelerator, data, sizes, state, image_processor, caption_tokenizer)),
        TrainerSettings(
            num_steps=data.num_steps,
            global_batch_size=sizes.global_batch_size,
            accumulation=sizes.accumulation,
            micro_batch_size=sizes.micro_batch_size,
            max_grad_norm=config.max_grad_norm,
            save_step=config.save_step,
            log_every=config.log_every,
            seed=config.seed,
        ),
        state=state,
        lr_at=lambda step: lr_at(
            step,
            lr=config.lr,
            schedule=config.lr_schedule,
            num_steps=data.num_steps,
            warmup_steps=config.warmup_steps,
        ),
        checkpointer=checkpointer,
        logger=logger,
        validate=validate,
    )
    trainer.fit()
    logger.close()
    return checkpointer.trained_state(objective)


def training_loader(
    config: TrainingConfig,
    accelerator: Accelerator,
    data: Data,
    sizes: BatchSizes,
    state: TrainState,
    image_processor: Any,
    caption_tokenizer: CaptionTokenizer | None,
) -> Any:
    """Micro-batches of this process from `state.samples` on."""
    order = SampleOrder(data.source.shard_sizes, config.seed, config.shuffle_window)
    dataset = OrderedDataset(
        data.source,
        order,
        image_processor,
        caption_tokenizer,
        num_samples=data.num_samples,
        max_image_pixels=config.max_image_pixels,
    )
    plan = BatchPlan(
        sizes.global_batch_size, accelerator.num_processes, accelerator.process_index, sizes.micro_batch_size
    )
    positions = training_positions(plan, state.samples, data.num_steps - state.step)
    return build_loader(dataset, positions, config.num_workers, accelerator.device.type == "cuda")


def validation_batches(
    config: TrainingConfig,
    accelerator: Accelerator,
    sizes: BatchSizes,
    image_processor: Any,
    caption_tokenizer: CaptionTokenizer | None,
) -> Callable[[], Any]:
    """A function that gives the validation batches of this process anew, each sample once over all processes."""
    source = open_source(
        config.val_dataset_path,
        captions=caption_tokenizer is not None,
        image_column=config.image_column,
        caption_column=config.caption_column,
        raw_image_size=(config.raw_image_size[0], config.raw_image_size[1]),
    )
    num_samples = min(len(source), config.val_max_samples)
    dataset = OrderedDataset(
        source,
        SampleOrder(source.shard_sizes, 0, 1, shuffle=False),
        image_processor,
        caption_tokenizer,
        num_samples=num_samples,
        max_image_pixels=config.max_image_pixels,
    )
    log = BadSampleLog(Path(config.output_dir) / BAD_SAMPLES, accelerator.num_processes, None)

    def batches() -> Any:
        positions = validation_positions(
            num_samples, accelerator.num_processes, accelerator.process_index, sizes.micro_batch_size
        )
        # Workers would be started anew at each save for a small set; a few are enough.
        return log.watch(build_loader(dataset, positions, min(config.num_workers, 2), False))

    return batches


def world_size() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def save_final(config: TrainingConfig, save: Callable[[Path], None]) -> None:
    """Write the finished model to <output_dir>/final: to a temporary place first, then renamed."""
    final = Path(config.output_dir) / FINAL
    temporary = final.with_name(f".writing-{FINAL}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save(temporary)
    save_config(config, temporary / CONFIG)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    print(f"finished: {final}", file=sys.stderr)


def showcase(config: TrainingConfig, accelerator: Accelerator) -> Showcase:
    """Where validation pictures or captions go."""
    folder = Path(config.output_dir) / VALIDATION
    return Showcase(folder, config.val_pictures, accelerator.process_index, accelerator.wait_for_everyone)


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


def parameter_counts(objective: torch.nn.Module) -> tuple[int, int]:
    """(trained, frozen) parameters, each counted once."""
    counts = [0, 0]
    for parameter in objective.parameters():
        counts[0 if parameter.requires_grad else 1] += parameter.numel()
    return counts[0], counts[1]


def memory_estimate(objective: torch.nn.Module) -> dict[str, float]:
    """GiB of one process without activations: weights as they are, gradients, and AdamW's two moments."""
    sizes = {"trained weights": 0, "gradients": 0, "optimizer": 0, "frozen weights": 0}
    for parameter in objective.parameters():
        size = parameter.numel() * parameter.element_size()
        if parameter.requires_grad:
            sizes["trained weights"] += size
            sizes["gradients"] += size
            sizes["optimizer"] += 2 * size
        else:
            sizes["frozen weights"] += size
    return {name: size / 2**30 for name, size in sizes.items()}


def print_dry_run(config: TrainingConfig, objective: torch.nn.Module, sizes: BatchSizes) -> None:
    """Print what a run would be: the resolved config, parameters, batch sizes and memory."""
    from omegaconf import OmegaConf

    trained, frozen = parameter_counts(objective)
    memory = memory_estimate(objective)
    print(OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config))).rstrip())
    print(f"\nparameters: {trained:,} trained, {frozen:,} frozen")
    print(
        f"global batch {sizes.global_batch_size} = micro-batch {sizes.micro_batch_size} x accumulation "
        f"{sizes.accumulation} x {sizes.num_processes} processes"
    )
    parts = ", ".join(f"{name} {size:.2f}" for name, size in memory.items())
    print(f"memory of a process, without activations: {sum(memory.values()):.2f} GiB ({parts})")


def _announce(
    logger: MetricLogger,
    config: TrainingConfig,
    objective: torch.nn.Module,
    data: Data,
    sizes: BatchSizes,
    state: TrainState,
    found: Path | None,
) -> None:
    trained, frozen = parameter_counts(objective)
    logger.say(f"{config.run_name}: {trained:,} parameters train, {frozen:,} are frozen")
    logger.say(
        f"{len(data.source):,} samples; {data.num_steps:,} steps of {sizes.global_batch_size} = micro-batch "
        f"{sizes.micro_batch_size} x accumulation {sizes.accumulation} x {sizes.num_processes} processes"
    )
    if found:
        logger.say(f"going on from {found}: step {state.step}, sample {state.samples}")
    elif config.resume:
        logger.say("resume=latest: no checkpoint yet, so the run starts anew")

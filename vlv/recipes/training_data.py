"""The data of both trainings: opened sources and their loaders."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator

from vlv.batch import Batch, PairBatch
from vlv.checkpoints.identity import component_hashes
from vlv.config import Stage2Config, TrainingConfig
from vlv.data.bad_samples import BadSampleLog
from vlv.data.dataset import OrderedDataset, build_loader
from vlv.data.files import is_stream
from vlv.data.formats import SourceSettings
from vlv.data.latent_cache import LatentFacts, facts_of
from vlv.data.length_groups import group_by_length
from vlv.data.loader import WorkerLoader
from vlv.data.mixture import MixedSource, build_order
from vlv.data.order import (
    DEFAULT_WINDOW,
    BatchPlan,
    training_positions,
    validation_positions,
)
from vlv.data.preparation import SamplePreparation
from vlv.data.sample import SampleSource
from vlv.data.sources import open_source
from vlv.data.streaming import HeldStream, StreamedDataset, StreamSettings, build_stream_loader
from vlv.decoders import DiffusionDecoder
from vlv.models.image_processor import VLVImageProcessor
from vlv.recipes.batch_sizes import BatchSizes, require_countable_epochs
from vlv.training.processes import loader_workers, local_processes
from vlv.training.state import TrainState

BAD_SAMPLES = "bad_samples.jsonl"


@dataclass(frozen=True)
class Data:
    """The training data of a run, opened.

    source: None for what can only be streamed. num_steps: where the run ends. num_samples: samples after
    which only padding comes; None for no limit.
    """

    path: str
    source: SampleSource | None
    num_steps: int
    num_samples: int | None

    @property
    def source_names(self) -> tuple[str, ...]:
        """The sources of a mixture; none where there is one source."""
        return self.source.names if isinstance(self.source, MixedSource) else ()

    def describe(self) -> str:
        """How much there is, for the first line of a run."""
        if self.source is None:
            return "streamed samples"
        mixed = f" of {', '.join(self.source_names)}" if self.source_names else ""
        return f"{len(self.source):,} samples{mixed}"


def open_training_data(config: TrainingConfig, accelerator: Accelerator, sizes: BatchSizes) -> Data:
    """Open the data; the first process of each machine builds an index that the others then read.

    Raises:
        ValueError: nothing to read, too many damaged shards, other shards than another process sees, or epochs of a
            stream, whose length is not known.
    """
    if not accelerator.is_local_main_process:
        logging.getLogger("vlv").setLevel(logging.ERROR)  # one process of a machine reports what it finds
    path, num_steps = config.data_path, config.step_limit
    require_countable_epochs(config)
    if is_stream(path):
        return Data(path, None, num_steps, None)
    with accelerator.local_main_process_first():
        settings = _source_settings(config)
        settings = replace(settings, data_format=config.data_format, captions=config.reads_captions)
        readers = max(1, loader_workers(config.num_workers)) * local_processes()
        source = open_source(path, replace(settings, max_bad_share=config.max_bad_share, readers=readers))
    _require_agreement(path, source, accelerator)
    if config.epoch_limit is None:
        return Data(path, source, num_steps, None)
    num_samples = math.ceil(config.epoch_limit * len(source))
    by_epochs = math.ceil(num_samples / sizes.global_batch_size)
    return Data(path, source, min(num_steps, by_epochs), num_samples)


def latent_facts(folder: Path, resolution: int, latent_shape: tuple[int, int, int], numbers: str) -> LatentFacts:
    """What latents of the decoder in a folder are of.

    Args:
        latent_shape: (C, h, w). numbers: format of the moments.
    """
    return LatentFacts(component_hashes(folder / "vae"), resolution, (2, *latent_shape), numbers)


def require_latents_of(
    source: SampleSource | None,
    processor: VLVImageProcessor,
    decoder: DiffusionDecoder | None,
    find_decoder: Callable[[], Path],
) -> None:
    """Check that latents, if that is what a source holds, are those of a run.

    Args:
        decoder: learns from them; None where none does, so that the small images alone are read.
        find_decoder: gives its folder, which is asked of a hub where it came from one: for latents alone.

    Raises:
        ValueError: they are of another VAE or of another size; says what differs.
    """
    facts = None if source is None else facts_of(source)
    if facts is None:
        return
    if processor.encoder_view_from_original:
        raise ValueError("a cache of latents has no original image, from which this model's encoder has its view")
    wanted = replace(facts, resolution=processor.decoder_resolution)
    if decoder is not None:
        wanted = latent_facts(find_decoder(), processor.decoder_resolution, decoder.latent_shape, facts.numbers)
    if differences := facts.differences(wanted):
        raise ValueError(
            f"the latents do not fit the run: {', '.join(differences)}; make them anew with vlv data latents"
        )


def loader_processor(config: TrainingConfig, processor: VLVImageProcessor, device: torch.device) -> VLVImageProcessor:
    """The image processor of the loader's workers: without the encoder's view where the device makes it.

    Raises:
        ValueError: the device is to make it, and cannot.
    """
    pays = device.type == "cuda" and processor.encoder_resolution > processor.decoder_resolution
    wanted = pays and not processor.encoder_view_from_original
    return processor.of_loader(wanted if config.encoder_view == "auto" else config.encoder_view == "device")


def training_loader(
    config: TrainingConfig,
    accelerator: Accelerator,
    data: Data,
    sizes: BatchSizes,
    state: TrainState,
    prepare: SamplePreparation,
) -> WorkerLoader[Batch]:
    """Micro-batches of this process from `state.samples` on, as they lie in the order."""
    plan = BatchPlan(
        sizes.global_batch_size, accelerator.num_processes, accelerator.process_index, sizes.micro_batch_size
    )
    positions = training_positions(plan, state.samples, data.num_steps - state.step)
    pin_memory, workers = accelerator.device.type == "cuda", loader_workers(config.num_workers)
    if data.source is None:
        window = config.shuffle_window or DEFAULT_WINDOW
        source = replace(_source_settings(config), captions=config.reads_captions, max_bad_share=config.max_bad_share)
        settings = StreamSettings(config.seed, source, window, workers)
        stream = StreamedDataset(data.path, positions, prepare, settings)
        return build_stream_loader(stream, pin_memory, config.loader_timeout)
    order = build_order(data.source, config.seed, config.shuffle_window)
    dataset = OrderedDataset(data.source, order, prepare, data.num_samples)
    return build_loader(dataset, positions, workers, pin_memory, config.loader_timeout)


def grouped_by_length(
    config: TrainingConfig, sizes: BatchSizes, prepare: SamplePreparation, batches: Iterable[Batch]
) -> Iterable[Batch]:
    """A training's micro-batches; with several in a step, its pairs are dealt to them by their captions' length."""
    # The published mean is that of each forward pass: there it matters which captions are together.
    of_step = isinstance(config, Stage2Config) and config.token_mean == "global"
    if not of_step or prepare.caption_tokenizer is None or sizes.accumulation == 1:
        return batches
    pairs = cast("Iterable[PairBatch]", batches)
    return group_by_length(pairs, sizes.accumulation, prepare.caption_tokenizer.pad_token_id)


def validation_batches(
    config: TrainingConfig,
    accelerator: Accelerator,
    sizes: BatchSizes,
    prepare: SamplePreparation,
    check: Callable[[SampleSource], None],
) -> Callable[[], Iterable[Batch]]:
    """A function that gives the validation batches of this process anew, each sample once over all processes.

    Raises:
        ValueError: nothing to read, or what `check` raises of the source.
    """
    path, captions = config.val_dataset_path, prepare.caption_tokenizer is not None
    # A validation goes on without what is bad, however much it is, unless nothing may be.
    max_share = 0.0 if config.max_bad_share == 0 else None
    settings = replace(_source_settings(config), captions=captions, max_bad_share=1.0 if max_share is None else 0.0)
    if is_stream(path):
        source: SampleSource = HeldStream(path, config.val_max_samples, StreamSettings(config.seed, settings))
    else:
        source = open_source(path, settings)
    check(source)
    _require_agreement(path, source, accelerator)
    num_samples = min(len(source), config.val_max_samples)
    # As they lie, whatever the seed: the losses of two runs are over the same images.
    order = build_order(source, 0, 1, shuffle=False)
    dataset = OrderedDataset(source, order, prepare, num_samples, first_captions=True)
    log = BadSampleLog(Path(config.output_dir) / BAD_SAMPLES, "validation", accelerator.num_processes, max_share)

    def batches() -> Iterable[Batch]:
        positions = validation_positions(
            num_samples, accelerator.num_processes, accelerator.process_index, sizes.micro_batch_size
        )
        # Workers would be started anew at each save for a small set; a few are enough.
        workers = min(loader_workers(config.num_workers), 2)
        return log.watch(build_loader(dataset, positions, workers, False, config.loader_timeout))

    return batches


def _require_agreement(path: str, source: SampleSource, accelerator: Accelerator) -> None:
    """Check that all processes see the same shards: a shard that one of them cannot read shifts its order.

    Raises:
        ValueError: they do not; on every process.
    """
    digest = hashlib.sha256(np.ascontiguousarray(source.shard_sizes).tobytes()).digest()
    own = torch.tensor([int.from_bytes(digest[:7], "big")], device=accelerator.device)  # 56 bits, in a signed 64
    if len(cast("torch.Tensor", accelerator.gather(own)).unique()) > 1:
        raise ValueError(
            f"{path} does not hold the same samples for every process: give each machine the same files, readable"
        )


def _source_settings(config: TrainingConfig) -> SourceSettings:
    return replace(config.source_settings(), pool_samples=config.shuffle_window or DEFAULT_WINDOW)

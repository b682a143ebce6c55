"""Captions on Ray Data: blocks are read and decoded on CPUs, encoded and captioned by actors on GPUs, and written.

Ray restarts what dies with a worker. What survives the driver is the blocks' own files, as of every captioning: the
same call goes on with those that are not done, on Ray or without it.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vlv.config import CaptionConfig
from vlv.inference.blocks import REASON, Blocks, Inputs, Output, block_size, listing_digest, partial_folder
from vlv.inference.captions import (
    CaptionReport,
    CaptionSearch,
    finish_captions,
    is_whole,
    prepare_captions,
    records_of,
    whole_identity,
)
from vlv.inference.images import ImageBatch, ImageDataset
from vlv.inference.journal import Journal, JsonObject
from vlv.inference.processes import ALONE
from vlv.inference.progress import SharedProgress
from vlv.models.image_processor import VLVImageProcessor
from vlv.settings.paths import is_stream

if TYPE_CHECKING:
    from vlv.recipes.caption import Plan

_MODEL_PATHS = ("ckpt_dir", "stable_diffusion_model_path", "florence2_model_path", "qwen_model")
_MOST = 128  # images of a block: decoded at 768 px they are 226 MB, which travel as one object


@dataclass(frozen=True)
class _Job:
    """What every worker makes its part from; it travels as it is."""

    config: CaptionConfig
    search: CaptionSearch
    identity: JsonObject
    precision: str
    size: int
    listing: str

    def plan(self) -> Plan:
        """Images and output, opened here.

        Raises:
            ValueError: other images are there than at the start, so that those of a block would be others.
        """
        from vlv.recipes.caption import open_plan

        plan = open_plan(self.config)
        if listing_digest(plan.inputs.source) != self.listing:
            raise ValueError(
                f"image_path={self.config.image_path} has changed: start again, which goes on with the rest"
            )
        return plan

    def blocks(self, inputs: Inputs, output: Output) -> Blocks:
        """The blocks, on the file system that all workers share."""
        return Blocks(Journal(partial_folder(output.path), os.getpid(), self.identity), inputs, self.size)


def caption_on_ray(config: CaptionConfig, search: CaptionSearch, identity: JsonObject, precision: str) -> CaptionReport:
    """Caption every image once, on the cluster that $RAY_ADDRESS names, or on this machine.

    Raises:
        ValueError: none of the images readable, or an output that cannot be written.
    """
    # Its parts in C++ warn of actors whose arguments lie in its store: that they start once more is tested.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray  # pyright: ignore[reportMissingImports]  (an extra)

    from vlv.recipes.caption import open_plan

    inputs, output = open_plan(config)
    identity = whole_identity(identity, inputs, search)
    journal = Journal(partial_folder(output.path), 0, identity)
    if is_whole(journal, output):
        return CaptionReport(len(inputs.source), output.path, was_whole=True)
    prepare_captions(journal, output.path, inputs, 1, most=_MOST)
    size = block_size(journal, len(inputs.source), 1, _MOST)
    blocks = Blocks(journal, inputs, size)
    everything = range(blocks.count)
    blocks.reopen_changed(everything)
    undone = [number for number in everything if not blocks.is_done(number)]
    report = CaptionReport(len(inputs.source), output.path)
    report.num_reused = len(inputs.source) - sum(len(blocks.indices(number)) for number in undone)
    if undone:
        if not ray.is_initialized():
            # Its own progress is not ours, and would come between its lines.
            ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False, logging_level=logging.ERROR)
        job = _Job(on_any_node(config), search, identity, precision, size, listing_digest(inputs.source))
        _run(job, blocks, undone)
    return finish_captions(journal, blocks, everything, output, inputs, report, ALONE)


def on_any_node(config: CaptionConfig) -> CaptionConfig:
    """The config as workers read it, who are in folders of their own: paths of this file system are absolute."""
    found = {name: getattr(config, name) for name in ("image_path", "output_path", *_MODEL_PATHS)}
    # What is no path here, and was not written as one, is a hub's or a URL.
    paths = {name: value for name, value in found.items() if value is not None and not is_stream(value)}
    local = {name: value for name, value in paths.items() if name not in _MODEL_PATHS or os.path.exists(value)}
    return replace(config, **{name: os.path.abspath(value) for name, value in local.items()})


def _run(job: _Job, blocks: Blocks, undone: list[int]) -> None:
    import ray  # pyright: ignore[reportMissingImports]  (an extra)
    from ray.data import ActorPoolStrategy, DataContext  # pyright: ignore[reportMissingImports]
    from ray.exceptions import RayTaskError  # pyright: ignore[reportMissingImports]

    config = job.config
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.issue_detectors_config.detectors = []  # their hints are for who writes a pipeline
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # its import has set another
    held = ray.cluster_resources()
    gpus = int(held.get("GPU", 0))
    shares = actor_shares(config.ray_captioners, config.ray_encoders, held.get("CPU", 1), gpus)
    data = ray.data.from_items([{"block": number} for number in undone], override_num_blocks=len(undone))
    # A block is a row, and a batch has one.
    every = {"batch_size": 1, "fn_constructor_args": (job,)}
    decoders = ActorPoolStrategy(min_size=1, max_size=config.ray_decoders or 4 * max(1, gpus))
    writers = ActorPoolStrategy(min_size=1, max_size=max(1, gpus // 4))  # shards hold the images, read once more
    data = data.map_batches(_Decode, compute=decoders, num_cpus=0.25, **every)
    for stage, share in ((_Encode, shares.encoder), (_Caption, shares.captioner)):
        size = ActorPoolStrategy(size=share.count)
        data = data.map_batches(stage, compute=size, num_cpus=share.cpus, num_gpus=share.gpus, **every)
    written = data.map_batches(_Write, compute=writers, num_cpus=0.1, **every)
    progress = SharedProgress("captions", sum(len(blocks.indices(number)) for number in undone), ALONE)
    try:
        for row in written.iter_rows():
            progress.advance(int(row["count"]))
    except RayTaskError as error:
        raise _cause(error) from error
    progress.close()


def _cause(error: BaseException) -> BaseException:
    """What was raised in a worker, of an error that holds the whole trace of it as its text."""
    while isinstance(inner := getattr(error, "cause", None) or error.__cause__, BaseException):
        error = inner
    return error


@dataclass(frozen=True)
class Share:
    """Actors of a stage, and what each of them holds of a cluster's cores and GPUs."""

    count: int
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Shares:
    """The two stages that compute."""

    encoder: Share
    captioner: Share


def actor_shares(captioners: int | None, encoders: int | None, cpus: float, gpus: int) -> Shares:
    """How many actors encode and caption, and what they hold, so that every one of them finds its place.

    Actors keep what they were given: captioners that held all cores would leave none to read with, and an encoder that
    found its GPU taken would never start. Fractions are what Ray counts by, no bound on what is used.

    Args:
        captioners, encoders: as asked for; None takes one encoder for three captioners from 4 GPUs on, each with a GPU
            of its own, and below that a captioner on every GPU and one encoder beside one of them.

    Raises:
        ValueError: more captioners than GPUs.
    """
    if encoders is None:
        encoders = max(1, gpus // 4)
    if captioners is None:
        captioners = max(1, gpus - encoders if gpus >= 4 else gpus)
    if gpus and captioners > gpus:
        raise ValueError(f"ray_captioners={captioners}: the cluster has {gpus} GPUs: give at most {gpus}")
    of_encoder, of_captioner = (1.0, 1.0) if captioners + encoders <= gpus else (0.4 / encoders, 0.6)
    return Shares(
        Share(encoders, min(0.25, 0.2 * cpus / encoders), of_encoder if gpus else 0.0),
        Share(captioners, min(0.5, 0.5 * cpus / captioners), of_captioner if gpus else 0.0),
    )


class _Decode:
    """Reads and decodes a block: its images' pixels in one array, and what is known of each as JSON."""

    def __init__(self, job: _Job) -> None:
        self._inputs, self._output = job.plan()
        self._blocks = job.blocks(self._inputs, self._output)
        self._processor = VLVImageProcessor.from_pretrained(job.config.ckpt_dir)
        self._dataset = ImageDataset(self._inputs.source, self._processor, job.config.decode_settings())

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, object]:
        number = int(batch["block"][0])
        records, pixels = [], []
        started = self._blocks.started(number)
        for index in self._blocks.indices(number):
            name = self._inputs.source.name(index)
            record: JsonObject = {"index": index, "name": name, "changed": self._inputs.changed(index)}
            if index in started:
                record = started[index]
            elif not self._output.wanted(name):
                record["kept"] = True
            else:
                sample = self._dataset[index]
                if sample["error"] is None:
                    pixels.append(sample["encoder_pixels"].numpy())
                else:
                    record[REASON] = sample["error"]
            records.append(record)
        side = self._processor.encoder_resolution
        stacked = np.stack(pixels) if pixels else np.zeros((0, 3, side, side), np.uint8)
        return {"block": [number], "records": [json.dumps(records)], "pixels": [stacked.tobytes()]}


class _Encode:
    """Turns a block's pixels into the rows that the language model reads, `batch_size` images at once."""

    def __init__(self, job: _Job) -> None:
        from vlv.recipes.captioner import open_image_rows

        self._size = job.config.batch_size
        self._rows = open_image_rows(job.config, job.precision, _device())

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, object]:
        side = self._rows.image_processor.encoder_resolution
        pixels = _tensor(batch["pixels"][0], torch.uint8).view(-1, 3, side, side)
        rows = [self._rows(part).cpu() for part in pixels.split(self._size)] if len(pixels) else []
        return {"block": batch["block"], "records": batch["records"], "rows": [_bytes(rows)]}


class _Caption:
    """Captions a block's images by their rows, `batch_size` at once."""

    def __init__(self, job: _Job) -> None:
        from vlv.recipes.captioner import open_captioner

        self._search, self._size = job.search, job.config.batch_size
        self._captioner = open_captioner(job.config, job.precision, _device())
        for part in (self._captioner.encoder, self._captioner.conditioner):
            part.to("meta")  # another stage has them: this frees their memory

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, object]:
        records: list[JsonObject] = json.loads(str(batch["records"][0]))
        todo = [record for record in records if not {"captions", "kept", REASON} & record.keys()]
        if todo:
            shape = (len(todo), self._captioner.num_image_tokens, -1)
            rows = _tensor(batch["rows"][0], self._captioner.compute_dtype).view(shape)
            for start in range(0, len(todo), self._size):
                own, part = todo[start : start + self._size], rows[start : start + self._size]
                names, indices = [record["name"] for record in own], [record["index"] for record in own]
                some = ImageBatch(names, indices, part, part, [])
                for record, found in zip(own, records_of(self._captioner, some, self._search), strict=True):
                    record["captions"] = found["captions"]
        return {"block": batch["block"], "records": [json.dumps(records)]}


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _bytes(parts: list[Tensor]) -> bytes:
    """Numbers of any format; numpy has no bf16."""
    return torch.cat(parts).contiguous().view(torch.uint8).numpy().tobytes() if parts else b""


def _tensor(content: bytes, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)


class _Write:
    """Writes a block and notes it as done."""

    def __init__(self, job: _Job) -> None:
        self._inputs, self._output = job.plan()
        self._blocks = job.blocks(self._inputs, self._output)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, object]:
        number, records = int(batch["block"][0]), json.loads(str(batch["records"][0]))
        self._blocks.finish(number, self._output.write_block(number, records))
        return {"count": [len(records)]}

"""Loading measured beside plain code: the same images, the same two resizes, the same batches.

Each way of reading runs in turn, several times, so that what else the machine does falls on all of them alike. CPU
seconds are the process's and its workers', from the opening of the data to the end of the last worker.
"""

from __future__ import annotations

import io
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from webdataset.compat import WebDataset

from vlv.benchmarks.memory import memory_mib
from vlv.benchmarks.pictures import shard_names
from vlv.config import BenchmarkDataConfig
from vlv.data.dataset import OrderedDataset, build_loader
from vlv.data.files import is_stream
from vlv.data.formats import DecodeSettings, SourceSettings
from vlv.data.mixture import build_order
from vlv.data.preparation import SamplePreparation
from vlv.data.sample import RawSample
from vlv.data.sources import open_source
from vlv.data.streaming import StreamedDataset, StreamSettings, build_stream_loader
from vlv.models.image_processor import VLVImageProcessor

PLAIN, WEBDATASET = "plain torch and Pillow", "webdataset and Pillow"
Batches = Iterable[Any]


@dataclass(frozen=True)
class Way:
    """A way of reading: `open` makes the loader, of batches with `decoder_pixels` [B, 3, R, R]."""

    name: str
    open: Callable[[], Batches]


@dataclass(frozen=True)
class Run:
    """What one pass over the images took.

    per_cpu_second, per_second: images; the second after the first batch. first_batch: seconds from the opening of the
    data. worker_mib: memory of its own of the largest worker, or None without workers.
    """

    per_cpu_second: float
    per_second: float
    first_batch: float
    worker_mib: float | None


def ways(paths: dict[str, str], config: BenchmarkDataConfig, url: str | None = None) -> list[Way]:
    """The plain ones, then this package's: each kind of data as published, and one with what makes it faster.

    Args:
        paths: of each kind of data.
        url: at which the folder of the .tar shards is served too.
    """
    plain = Way(PLAIN, lambda: _plain_loader(Path(paths["folder"]), config))
    shards = Way(WEBDATASET, lambda: _webdataset_loader(Path(paths["tar"]), config))
    tars = f"{shard_names()}.tar"
    kinds = paths | {"tar from a command": f"pipe:cat {paths['tar']}/{tars}"}
    if url is not None:
        kinds["tar over HTTP"] = f"{url}/{tars}"
    ours = [
        Way(f"vlv, {kind}", lambda path=path: _our_loader(path, config, fast=False)) for kind, path in kinds.items()
    ]
    options = "encoder_view=device reduced_jpeg=true"
    fast = Way(f"vlv, tar, {options}", lambda: _our_loader(paths["tar"], config, fast=True))
    return [plain, shards, *ours, fast]


def change_by_reduction(images: Sequence[bytes], config: BenchmarkDataConfig) -> tuple[float, float]:
    """How much `reduced_jpeg` changes the decoder's pixels, of 255: the images' mean difference, and the largest."""
    side = config.decoder_resolution
    processor = VLVImageProcessor(side, side)
    differences: list[float] = []
    for image in images:
        whole, reduced = (
            SamplePreparation(processor, decoding=settings)(0, "", lambda image=image: RawSample(image, None))
            for settings in (DecodeSettings(), DecodeSettings(reduced_jpeg=True))
        )
        difference = whole["decoder_pixels"].float() - reduced["decoder_pixels"].float()
        differences.append(float(difference.abs().mean()))
    return statistics.mean(differences), max(differences)


def measure(ways: list[Way], rounds: int, advance: Callable[[int], None]) -> dict[str, list[Run]]:
    """Run each way `rounds` times, in turn; `advance` is called after each run, with 1."""
    runs: dict[str, list[Run]] = {way.name: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            runs[way.name].append(_run(way))
            advance(1)
    return runs


def median(runs: list[Run]) -> Run:
    """The median of each number."""
    # Each number by itself: a pass that was slow once need not have been large.
    memory = [run.worker_mib for run in runs if run.worker_mib is not None]
    return Run(
        statistics.median(run.per_cpu_second for run in runs),
        statistics.median(run.per_second for run in runs),
        statistics.median(run.first_batch for run in runs),
        statistics.median(memory) if memory else None,
    )


def _run(way: Way) -> Run:
    cpu, started = _cpu_seconds(), time.perf_counter()
    count, first_count, first_batch, memory = 0, 0, 0.0, None
    for batch in way.open():
        count += len(batch["decoder_pixels"])
        if not first_count:
            first_count, first_batch = count, time.perf_counter() - started
        memory = _largest_worker() or memory  # the last workers that were there: at the end there are none
    ended = time.perf_counter()
    return Run(
        count / (_cpu_seconds() - cpu),  # the workers have been waited for: their time is counted
        (count - first_count) / (ended - started - first_batch),
        first_batch,
        memory,
    )


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _largest_worker() -> float | None:
    """MiB of the anonymous memory of the largest child process."""
    found: list[float] = []
    for child in multiprocessing.active_children():
        try:
            found.append(memory_mib(child.pid or 0)["Private_Dirty"])
        except OSError:
            continue  # it has just ended
    return max(found, default=None)


def _our_loader(path: str, config: BenchmarkDataConfig, fast: bool) -> Batches:
    settings = SourceSettings(readers=max(1, config.num_workers))
    processor = VLVImageProcessor(config.decoder_resolution, config.encoder_resolution).of_loader(view_on_device=fast)
    prepare = SamplePreparation(processor, decoding=DecodeSettings(reduced_jpeg=fast))
    starts = range(0, config.images - config.batch_size + 1, config.batch_size)
    positions = [list(range(start, start + config.batch_size)) for start in starts]
    if is_stream(path):
        stream = StreamedDataset(path, positions, prepare, StreamSettings(0, settings, window=64))
        return build_stream_loader(stream, pin_memory=False) if config.num_workers else stream
    source = open_source(path, settings)
    dataset = OrderedDataset(source, build_order(source, 0, None), prepare)
    return build_loader(dataset, positions, config.num_workers, pin_memory=False)


def plain_pixels(image: Image.Image, decoder_side: int, encoder_side: int) -> dict[str, Tensor]:
    """The published preprocessing in a few lines: short side, centre crop, and that crop again."""
    image = image.convert("RGB")  # no transparency, profile or orientation is handled: its images have none
    scale = decoder_side / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - decoder_side) // 2, (image.height - decoder_side) // 2
    crop = image.crop((left, top, left + decoder_side, top + decoder_side))
    view = crop.resize((encoder_side, encoder_side), Image.Resampling.BICUBIC)
    return {"decoder_pixels": _tensor(crop), "encoder_pixels": _tensor(view)}


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())


class _PlainDataset(Dataset[dict[str, Tensor]]):
    def __init__(self, folder: Path, config: BenchmarkDataConfig) -> None:
        self._paths = sorted(folder.glob("*.jpg"))
        self._sides = (config.decoder_resolution, config.encoder_resolution)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        with Image.open(self._paths[index]) as image:
            return plain_pixels(image, *self._sides)


def _plain_loader(folder: Path, config: BenchmarkDataConfig) -> Batches:
    dataset = _PlainDataset(folder, config)
    return DataLoader(
        dataset,
        config.batch_size,
        shuffle=True,
        num_workers=config.num_workers,
        drop_last=True,
        worker_init_fn=_one_thread,
    )


def _webdataset_loader(folder: Path, config: BenchmarkDataConfig) -> Batches:
    sides = (config.decoder_resolution, config.encoder_resolution)

    def pixels(samples: Iterator[dict[str, Any]]) -> Iterator[dict[str, Tensor]]:
        for sample in samples:
            yield plain_pixels(Image.open(io.BytesIO(sample["jpg"])), *sides)

    shards = [str(shard) for shard in sorted(folder.glob("*.tar"))]
    dataset = WebDataset(shards, shardshuffle=len(shards), empty_check=False).shuffle(64).compose(pixels)
    return DataLoader(
        dataset, config.batch_size, num_workers=config.num_workers, drop_last=True, worker_init_fn=_one_thread
    )


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)

"""Cost as work grows: the same images, many times over, in datasets of a thousand to a million.

Everything but the models: a training's loader over one shuffled epoch of .tar shards, and a captioning of a folder of
files by a captioner that says the same of every image, with its resumable records and its captions.json. Each
measurement is in a process of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from vlv.atomic import whole_file
from vlv.benchmarks.memory import memory_mib
from vlv.benchmarks.pictures import jpegs, write_tar
from vlv.data.dataset import OrderedDataset, build_loader
from vlv.data.formats import SourceSettings
from vlv.data.mixture import build_order
from vlv.data.preparation import SamplePreparation
from vlv.data.sources import open_source
from vlv.inference.captions import CaptionSearch, caption_images, local_images
from vlv.inference.images import ReadSettings
from vlv.inference.outputs import JsonFile
from vlv.models.image_processor import VLVImageProcessor
from vlv.orphans import end_with_parent

_SIDE, _KINDS = 64, 32  # pixels of an image, and how many different ones there are
_FILES = 1_000  # of a subfolder
_SAMPLES = 10_000  # of a shard
_BATCH = 64
_LOOKS = 50  # times that memory is looked at in a pass
CAPTION = "A large red circle stands left of a small green house under a clear sky."


class Cost(NamedTuple):
    """What one pass over all images took.

    opening: seconds until the first batch. per_image: seconds of every further image, to the end of the work.
    memory_mib: most memory that the process had for itself.
    """

    opening: float
    per_image: float
    memory_mib: float


def measure(folder: Path, count: int) -> dict[str, Cost]:
    """Make both datasets of `count` images in a folder, where they are not there, and go through each once."""
    shards, files = write_shards(folder / f"tar_{count}", count), write_files(folder / f"files_{count}", count)
    found = {}
    for name, work, path in (("loader", load_epoch, shards), ("captioning", caption_all, files)):
        # Spawned: a forked process would count this one's memory. No `Pool`, whose processes may not start others, as
        # the building of an index does.
        with ProcessPoolExecutor(1, get_context("spawn"), end_with_parent) as pool:
            found[name] = pool.submit(work, str(path), count).result()
    return found


def load_epoch(path: str, count: int) -> Cost:
    """One epoch of a training's batches, in this process."""
    watch = _Watch(count)
    source = open_source(path, SourceSettings(cache_dir=f"{path}.cache"))
    dataset = OrderedDataset(source, build_order(source, 0, None), SamplePreparation(_processor()), count)
    batches = [list(range(first, min(first + _BATCH, count))) for first in range(0, count, _BATCH)]
    for batch in build_loader(dataset, batches, 0, False):
        watch.count(len(batch["names"]))
    return watch.cost()


def caption_all(path: str, count: int) -> Cost:
    """The whole work of `vlv caption` around its model."""
    watch = _Watch(count)
    output = Path(f"{path}.json")
    reading = ReadSettings(batch_size=_BATCH)
    caption_images(_Captioner(watch), local_images(path), JsonFile(output), CaptionSearch(), reading, {})
    return watch.cost()


class _Watch:
    """Counts images, and looks at the clock and the memory."""

    def __init__(self, count: int) -> None:
        self._started = time.perf_counter()
        self._first = self._done = self._looked = 0
        self._opening = 0.0
        self._every = max(1, count // _LOOKS)
        self._most = 0.0

    def count(self, images: int) -> None:
        """So many more are done."""
        self._done += images
        if not self._first:
            self._first, self._opening = self._done, time.perf_counter() - self._started
        if self._done - self._looked >= self._every:
            self._looked = self._done
            self._look()

    def cost(self) -> Cost:
        """Of all images, once the work has ended."""
        self._look()
        seconds = time.perf_counter() - self._started - self._opening
        return Cost(self._opening, seconds / max(1, self._done - self._first), self._most)

    def _look(self) -> None:
        self._most = max(self._most, memory_mib()["Anonymous"])


class _Captioner:
    """Says the same of every image."""

    def __init__(self, watch: _Watch) -> None:
        self.image_processor = _processor()
        self._watch = watch

    def caption_pixels(
        self, encoder_pixels: Tensor, num_beams: int, max_new_tokens: int | None, end_at_sentence: bool
    ) -> list[str]:
        """One sentence for each image [B, 3, E, E]."""
        self._watch.count(len(encoder_pixels))
        return [CAPTION] * len(encoder_pixels)

    def sample_pixels(
        self,
        encoder_pixels: Tensor,
        seeds: Sequence[Sequence[int]],
        temperature: float,
        max_new_tokens: int | None,
        end_at_sentence: bool,
    ) -> list[list[str]]:
        """The same, as a list for each."""
        return [[text] for text in self.caption_pixels(encoder_pixels, 1, max_new_tokens, end_at_sentence)]


def _processor() -> VLVImageProcessor:
    return VLVImageProcessor(_SIDE, _SIDE)


def write_shards(folder: Path, count: int) -> Path:
    """.tar shards of images alone."""
    folder.mkdir(parents=True, exist_ok=True)
    images = jpegs(_KINDS, _SIDE)
    for first in range(0, count, _SAMPLES):
        shard = folder / f"{first // _SAMPLES:06}.tar"
        if shard.exists():
            continue
        numbers = range(first, min(first + _SAMPLES, count))
        with whole_file(shard) as path:  # a call that was interrupted goes on
            write_tar(path, ((f"{number:09}.jpg", images[number % _KINDS]) for number in numbers))
    return folder


def write_files(folder: Path, count: int) -> Path:
    """Image files in subfolders; all of one but its first are further names of that one."""
    images = jpegs(_KINDS, _SIDE)
    for number, names in enumerate(_subfolders(count)):
        inside = folder / f"{number:06}"
        inside.mkdir(parents=True, exist_ok=True)
        first = inside / names[0]
        if not first.exists():
            first.write_bytes(images[number % _KINDS])
        for name in names[1:]:
            if not (inside / name).exists():
                os.link(first, inside / name)
    return folder


def _subfolders(count: int) -> Iterator[list[str]]:
    for first in range(0, count, _FILES):
        yield [f"{number:09}.jpg" for number in range(first, min(first + _FILES, count))]

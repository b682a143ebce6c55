"""Tar shards that can only be streamed: `pipe:` commands and http(s) URLs, read by webdataset's pipeline.

The positions are those of any other source, so batches and resuming are the same. The price: nothing can
be read by index, so every process reads the whole stream and keeps its own samples, and resuming at n
reads past n samples. Copy the shards to a disk where there is room.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

from torch.utils.data import DataLoader, IterableDataset
from webdataset import filters
from webdataset.pipeline import DataPipeline
from webdataset.shardlists import SimpleShardList, expand_urls
from webdataset.tariterators import tarfile_to_samples

from vlv.batch import Batch
from vlv.data.dataset import start_worker
from vlv.data.formats import IMAGE_EXTENSIONS
from vlv.data.order import permutation
from vlv.data.preparation import PreparedSample, SamplePreparation
from vlv.data.sample import BadSample, RawSample
from vlv.data.tar_shards import caption_field

_log = logging.getLogger(__name__)
_Sample: TypeAlias = dict[str, str | bytes]  # a webdataset sample: members by extension, and "__key__", "__url__"


@dataclass(frozen=True)
class StreamSettings:
    """How a stream is read.

    seed: of the shards' order and the shuffle.
    window: encoded samples that are kept in memory and shuffled.
    num_threads: threads that decode.
    caption_column: key in .json captions.
    """

    seed: int
    window: int = 1000
    num_threads: int = 1
    caption_column: str = "caption"


def expand_stream(path: str) -> list[str]:
    """Expand braces, `::` and, between URLs, commas: "https://a/{0..1}.tar" -> two URLs."""
    parts = re.split(r",(?=\s*(?:pipe:|https?://))", path)
    return [url for part in parts for url in expand_urls(part.strip())]


class StreamedDataset(IterableDataset[Batch]):
    """The micro-batches of a stream, decoded by threads while the stream is read on.

    Shard order and the shuffle of `window` samples are a function of (seed, epoch).
    """

    def __init__(
        self,
        path: str,
        micro_batches: Iterable[list[int]],
        prepare: SamplePreparation,
        settings: StreamSettings,
    ) -> None:
        """Take this process's micro-batches, whose positions must rise.

        Raises:
            ValueError: no shard of the stream gives a sample.
        """
        super().__init__()
        self._path, self._urls = path, expand_stream(path)
        self._micro_batches = micro_batches
        self._prepare, self._settings = prepare, settings
        # A window of 1 reads a single sample.
        if next(self._epoch(0, window=1), None) is None:
            raise ValueError(f"{path}: no shard of the stream gives an image; check the URL or the command by hand")

    def __iter__(self) -> Iterator[Batch]:
        """Yield this process's batches, endlessly or as long as there are micro-batches."""
        samples = enumerate(self._endless())
        with ThreadPoolExecutor(max(1, self._settings.num_threads)) as pool:
            # One micro-batch is decoded while the next is read: Pillow decodes outside of Python's lock.
            ahead: list[Future[PreparedSample]] = []
            for positions in self._micro_batches:
                coming = [pool.submit(self._sample, *sample) for sample in _take(samples, positions)]
                if ahead:
                    yield self._prepare.collate([sample.result() for sample in ahead])
                ahead = coming
            if ahead:
                yield self._prepare.collate([sample.result() for sample in ahead])

    def _endless(self) -> Iterator[_Sample]:
        epoch = 0
        while True:  # positions count over epochs, as they do in an order; the stream is opened anew for each
            sample = None
            for sample in self._epoch(epoch, self._settings.window):
                yield sample
            if sample is None:
                raise ValueError(
                    f"{self._path}: the stream broke: pass {epoch + 1} over it gave no image; check the URL or the "
                    "command by hand, then resume=latest"
                )
            epoch += 1

    def _epoch(self, epoch: int, window: int) -> Iterator[_Sample]:
        urls = [self._urls[n] for n in permutation(len(self._urls), self._settings.seed, epoch, 0)]
        pipeline = DataPipeline(
            SimpleShardList(urls),
            tarfile_to_samples(handler=_warn_and_continue),
            filters.select(_image_key),
            # initial: by default it gives samples once 100 are there, the first nearly in their order.
            filters.shuffle(window, initial=window, rng=random.Random(f"{self._settings.seed} {epoch}")),
        )
        yield from pipeline

    def _sample(self, position: int, sample: _Sample) -> PreparedSample:
        shard = re.findall(r"[^/\s?]+\.tar", str(sample["__url__"]))
        key = _image_key(sample)
        name = "/".join([*shard[-1:], f"{sample['__key__']}.{key}"])
        return self._prepare(position, name, lambda: RawSample(_content(sample, key), self._caption(sample)))

    def _caption(self, sample: _Sample) -> str | None:
        if self._prepare.caption_tokenizer is None:
            return None
        try:
            if "txt" in sample:
                return _content(sample, "txt").decode("utf-8-sig").strip()
            if "json" in sample:
                return caption_field(json.loads(sample["json"]), self._settings.caption_column)
        except ValueError as error:
            raise BadSample(f"the caption is damaged: {error}") from None
        raise BadSample("no .txt or .json caption has the image's key")


def build_stream_loader(dataset: StreamedDataset, pin_memory: bool) -> DataLoader[Batch]:
    """Load a stream's micro-batches in one worker process, which reads; its threads decode."""
    return DataLoader(
        dataset,
        batch_size=None,
        num_workers=1,  # each worker would read the whole stream again
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
        multiprocessing_context="fork",
    )


def _take(samples: Iterator[tuple[int, _Sample]], positions: list[int]) -> Iterator[tuple[int, _Sample]]:
    """Read on to each of the positions; what lies between belongs to others."""
    wanted = iter(positions)
    position = next(wanted, None)
    while position is not None:
        number, sample = next(samples)  # reads what other processes take too: a stream cannot skip
        if number == position:
            yield number, sample
            position = next(wanted, None)


def _content(sample: _Sample, key: str) -> bytes:
    content = sample[key]
    assert isinstance(content, bytes)  # webdataset's own entries alone are strings
    return content


def _image_key(sample: _Sample) -> str:
    """Return the first key that is an image's extension, or ""."""
    return next((key for key in sample if key.rpartition(".")[2] in IMAGE_EXTENSIONS), "")


def _warn_and_continue(error: Exception) -> bool:
    _log.warning("a shard of the stream is damaged or cannot be opened; what came before is used: %s", error)
    return True

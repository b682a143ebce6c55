"""Data that is streamed: tar shards of `pipe:` commands and of URLs after `stream:`, and streamed datasets of the hub.

The positions are those of any other source, so batches and resuming are the same. The price: nothing can
be read by index, so every process reads the whole stream and keeps its own samples, and resuming at n
reads past n samples. Copy the data to a disk where there is room.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeAlias

import numpy as np
from torch.utils.data import DataLoader, IterableDataset
from webdataset import filters

from vlv.batch import Batch
from vlv.data.files import HUB_STREAM
from vlv.data.formats import LOADER_TIMEOUT, SourceSettings
from vlv.data.loader import WorkerLoader, worker_options
from vlv.data.order import permutation
from vlv.data.preparation import PreparedSample, SamplePreparation
from vlv.data.sample import RawSample, StreamSample
from vlv.data.transport import Patience

_Drawn: TypeAlias = tuple[int, StreamSample]  # with the epoch that it is drawn in


class Stream(Protocol):
    """Shards that are read from start to end."""

    num_shards: int

    def read(self, shards: Sequence[int]) -> Iterator[StreamSample]:
        """Yield the samples of shards, one shard after another; raises StreamBrokenError where that cannot be done."""
        ...


@dataclass(frozen=True)
class StreamSettings:
    """How a stream is read.

    seed: of the shards' order and the shuffle.
    source: captions and columns.
    window: encoded samples that are kept in memory and shuffled.
    num_threads: threads that decode.
    patience: how long a server or command is waited for.
    """

    seed: int
    source: SourceSettings = SourceSettings()
    window: int = 1000
    num_threads: int = 1
    patience: Patience = Patience()


def open_stream(path: str, settings: StreamSettings) -> Stream:
    """Open a stream of any kind.

    Raises:
        ValueError: a dataset of the hub cannot be had, or has not the columns. Tar shards are not opened yet.
    """
    if path.startswith(HUB_STREAM):
        from vlv.data.hub_stream import HubStream

        return HubStream(path, settings.source)
    from vlv.data.tar_stream import TarStream

    return TarStream(path, settings.source, settings.patience)


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
        self._path, self._stream = path, open_stream(path, settings)
        self.micro_batches = micro_batches
        self._prepare, self._settings = prepare, settings
        # A window of 1 reads a single sample.
        if next(self._epoch(0, window=1), None) is None:
            raise ValueError(f"no shard of the stream gives an image; check the URL or the command by hand: {path}")

    def __iter__(self) -> Iterator[Batch]:
        """Yield this process's batches, endlessly or as long as there are micro-batches."""
        samples = enumerate(self._endless())  # (position, (epoch, sample))
        with ThreadPoolExecutor(max(1, self._settings.num_threads)) as pool:
            # One micro-batch is decoded while the next is read: Pillow decodes outside of Python's lock.
            ahead: list[Future[PreparedSample]] = []
            for positions in self.micro_batches:
                coming = [pool.submit(self._prepared, *sample) for sample in _take(samples, positions)]
                if ahead:
                    yield self._prepare.collate([sample.result() for sample in ahead])
                ahead = coming
            if ahead:
                yield self._prepare.collate([sample.result() for sample in ahead])

    def _endless(self) -> Iterator[_Drawn]:
        epoch = 0
        while True:  # positions count over epochs, as they do in an order; the stream is opened anew for each
            sample = None
            for sample in self._epoch(epoch, self._settings.window):
                yield epoch, sample
            if sample is None:
                raise ValueError(
                    f"the stream broke: pass {epoch + 1} over it gave no image; check the URL or the command by hand, "
                    f"then resume=latest: {self._path}"
                )
            epoch += 1

    def _epoch(self, epoch: int, window: int) -> Iterator[StreamSample]:
        shards = permutation(self._stream.num_shards, self._settings.seed, epoch, 0).tolist()
        # initial: by default it gives samples once 100 are there, the first nearly in their order.
        shuffle = filters.shuffle(window, initial=window, rng=random.Random(f"{self._settings.seed} {epoch}"))
        yield from shuffle(self._stream.read(shards))

    def _prepared(self, position: int, drawn: _Drawn) -> PreparedSample:
        epoch, sample = drawn
        return self._prepare(position, sample.name, sample.read, epoch)


class HeldStream:
    """The first samples of a stream in memory, read by index like any other source: enough for validation."""

    pool_shards = 1

    def __init__(self, path: str, limit: int, settings: StreamSettings) -> None:
        """Read up to `limit` samples, as they lie.

        Raises:
            ValueError: there are none, or the stream breaks.
        """
        stream = open_stream(path, settings)
        self._samples = list(islice(stream.read(range(stream.num_shards)), limit))
        if not self._samples:
            raise ValueError(f"no shard of the stream gives an image; check the URL or the command by hand: {path}")
        self.shard_sizes = np.array([len(self._samples)], dtype=np.int64)

    def __len__(self) -> int:
        """Return the number of samples held."""
        return len(self._samples)

    def name(self, index: int) -> str:
        """Return shard/member."""
        return self._samples[index].name

    def read(self, index: int) -> RawSample:
        """Return a sample; raises BadSample where its caption is missing or damaged."""
        return self._samples[index].read()


def build_stream_loader(
    dataset: StreamedDataset, pin_memory: bool, timeout: float = LOADER_TIMEOUT
) -> WorkerLoader[Batch]:
    """Load a stream's micro-batches in one worker process, which reads; its threads decode."""

    def make(left: Iterator[list[int]]) -> DataLoader[Batch]:
        dataset.micro_batches = left
        options = worker_options(1)  # each worker would read the whole stream again
        return DataLoader(dataset, batch_size=None, pin_memory=pin_memory, **options)

    return WorkerLoader(make, dataset.micro_batches, timeout)


def _take(samples: Iterator[tuple[int, _Drawn]], positions: list[int]) -> Iterator[tuple[int, _Drawn]]:
    """Read on to each of the positions; what lies between belongs to others."""
    wanted = iter(positions)
    position = next(wanted, None)
    while position is not None:
        number, drawn = next(samples)  # reads what other processes take too: a stream cannot skip
        if number == position:
            yield number, drawn
            position = next(wanted, None)

"""Tar shards that are streamed: `pipe:` commands, and http(s) URLs after `stream:`, read by webdataset's pipeline.

The positions are those of any other source, so batches and resuming are the same. The price: nothing can
be read by index, so every process reads the whole stream and keeps its own samples, and resuming at n
reads past n samples. Copy the shards to a disk where there is room.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice
from typing import NamedTuple, TypeAlias

import numpy as np
from torch.utils.data import DataLoader, IterableDataset
from webdataset import filters
from webdataset.shardlists import expand_urls
from webdataset.tariterators import tar_file_expander

from vlv.batch import Batch
from vlv.data.dataset import start_worker
from vlv.data.files import display_name
from vlv.data.order import permutation
from vlv.data.pairing import is_sample_file, pair_names, webdataset_key
from vlv.data.preparation import PreparedSample, SamplePreparation
from vlv.data.remote import is_http
from vlv.data.sample import RawSample
from vlv.data.tar_shards import caption_text
from vlv.data.transport import Patience, StreamBrokenError, open_bytes
from vlv.redaction import redact

_log = logging.getLogger(__name__)
_Member: TypeAlias = dict[str, str | bytes]  # webdataset's: "fname", "data" and "__url__", or nothing at a shard's end


class _StreamSample(NamedTuple):
    url: str
    member: bytes
    image: bytes
    caption: bytes
    caption_kind: int

    @property
    def name(self) -> str:
        shard = re.findall(r"[^/\s?]+\.tar", self.url)
        return "/".join([*shard[-1:], display_name(self.member)])

    def read(self, caption_field: str | None) -> RawSample:
        if caption_field is None:
            return RawSample(self.image, None)
        return RawSample(self.image, caption_text(self.caption_kind, self.caption, caption_field))


@dataclass(frozen=True)
class StreamSettings:
    """How a stream is read.

    seed: of the shards' order and the shuffle.
    window: encoded samples that are kept in memory and shuffled.
    num_threads: threads that decode.
    caption_column: key in .json captions.
    patience: how long a server or command is waited for.
    """

    seed: int
    window: int = 1000
    num_threads: int = 1
    caption_column: str = "caption"
    patience: Patience = Patience()


def expand_stream(path: str) -> list[str]:
    """Expand braces, `::` and, between URLs, commas: "stream:https://a/{0..1}.tar" -> two URLs.

    Raises:
        ValueError: a URL after `stream:` that is no http(s).
    """
    parts = [part.strip() for part in re.split(r",(?=\s*(?:pipe:|stream:|https?://))", path)]
    urls = [part.removeprefix("stream:") for part in parts]
    for part, url in zip(parts, urls, strict=True):
        if part != url and not is_http(url):
            raise ValueError(f"{redact(part)} cannot be streamed: after stream: comes http:// or https://")
    return [name for url in urls for name in expand_urls(url)]


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
                coming = [pool.submit(self._prepared, *sample) for sample in _take(samples, positions)]
                if ahead:
                    yield self._prepare.collate([sample.result() for sample in ahead])
                ahead = coming
            if ahead:
                yield self._prepare.collate([sample.result() for sample in ahead])

    def _endless(self) -> Iterator[_StreamSample]:
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

    def _epoch(self, epoch: int, window: int) -> Iterator[_StreamSample]:
        urls = [self._urls[n] for n in permutation(len(self._urls), self._settings.seed, epoch, 0)]
        # initial: by default it gives samples once 100 are there, the first nearly in their order.
        shuffle = filters.shuffle(window, initial=window, rng=random.Random(f"{self._settings.seed} {epoch}"))
        yield from shuffle(_read_samples(urls, self._settings.patience))

    def _prepared(self, position: int, sample: _StreamSample) -> PreparedSample:
        field = None if self._prepare.caption_tokenizer is None else self._settings.caption_column
        return self._prepare(position, sample.name, lambda: sample.read(field))


class HeldStream:
    """The first samples of a stream in memory, read by index like any other source: enough for validation."""

    pool_shards = 1

    def __init__(self, path: str, limit: int, captions: bool, settings: StreamSettings) -> None:
        """Read up to `limit` samples, as they lie.

        Raises:
            ValueError: there are none, or the stream breaks.
        """
        self._field = settings.caption_column if captions else None
        self._samples = list(islice(_read_samples(expand_stream(path), settings.patience), limit))
        if not self._samples:
            raise ValueError(f"{path}: no shard of the stream gives an image; check the URL or the command by hand")
        self.shard_sizes = np.array([len(self._samples)], dtype=np.int64)

    def __len__(self) -> int:
        """Return the number of samples held."""
        return len(self._samples)

    def name(self, index: int) -> str:
        """Return shard/member."""
        return self._samples[index].name

    def read(self, index: int) -> RawSample:
        """Return a sample; raises BadSample where its caption is missing or damaged."""
        return self._samples[index].read(self._field)


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


def _take(samples: Iterator[tuple[int, _StreamSample]], positions: list[int]) -> Iterator[tuple[int, _StreamSample]]:
    """Read on to each of the positions; what lies between belongs to others."""
    wanted = iter(positions)
    position = next(wanted, None)
    while position is not None:
        number, sample = next(samples)  # reads what other processes take too: a stream cannot skip
        if number == position:
            yield number, sample
            position = next(wanted, None)


def _read_samples(urls: Iterable[str], patience: Patience) -> Iterator[_StreamSample]:
    return _pair(tar_file_expander(_open(urls, patience), handler=_warn_and_continue))


def _open(urls: Iterable[str], patience: Patience) -> Iterator[dict[str, object]]:
    for url in urls:
        with open_bytes(url, patience) as stream:
            yield {"url": url, "stream": stream}


def _pair(members: Iterable[_Member]) -> Iterator[_StreamSample]:
    """Pair images with captions, as an index does, among neighbours of one webdataset key."""
    for (url, _), group in groupby(filter(_is_sample_member, members), _shard_and_key):
        found = list(group)
        names = [_name(member) for member in found]
        pairing = pair_names(names)
        if pairing.left_out:
            left_out = ", ".join(display_name(names[place]) for place in pairing.left_out)
            _log.warning("%s: left out, as another image has the key: %s", url, left_out)
        if pairing.others:
            _log.warning("%s: left out, as it cannot be read: %s", url, display_name(names[0]))
        for pair in pairing.pairs:
            caption = b"" if pair.caption is None else _data(found[pair.caption])
            yield _StreamSample(url, names[pair.image], _data(found[pair.image]), caption, pair.kind)


def _is_sample_member(member: _Member) -> bool:
    return "fname" in member and is_sample_file(_name(member))  # webdataset marks a shard's end by an empty member


def _shard_and_key(member: _Member) -> tuple[str, bytes]:
    return str(member["__url__"]), webdataset_key(_name(member))


def _name(member: _Member) -> bytes:
    return str(member["fname"]).encode("utf-8", "surrogateescape")


def _data(member: _Member) -> bytes:
    data = member["data"]
    assert isinstance(data, bytes)  # webdataset's name and URL alone are strings
    return data


def _warn_and_continue(error: Exception) -> bool:
    """Pass over a damaged shard, which is the same for every process; a broken connection is not."""
    if isinstance(error, StreamBrokenError):
        raise StreamBrokenError(error.args[0]) from None  # webdataset has added its own objects to the message
    _log.warning("a shard of the stream is damaged; what came before is used: %s", error)
    return True

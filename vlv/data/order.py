"""The order of samples: a pure function of (seed, epoch), and each process's share of it.

A position n >= 0 counts samples over all epochs (epoch = n // N). n alone decides the sample, so
resuming is "start at n", and neither loader workers nor processes have state of their own.

It is our own because no library has it. webdataset's shuffle buffer and torchdata's nodes are states that a resumed run
must restore in every worker, for the same number of workers and processes; torch's DistributedSampler permutes samples
one by one, which turns each read of a shard into a seek; Mosaic's StreamingDataset is deterministic for any number of
processes too, but reads its own format alone. Here the order is random access, keeps reading inside few shards, serves
every format, and is the same for any number of workers, processes and accumulated batches.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from vlv.data.sample import SampleSource

DEFAULT_WINDOW = 8192  # samples: some hundred MB of encoded images, where a pool has to be in memory
_LARGEST_WINDOW = 1_000_000  # samples of a default: 8 MB of numbers for each worker
_KEPT = 2  # workers cross from one pool, or epoch, to the next: two are in use, never more
_Value = TypeVar("_Value")


class _Epoch(NamedTuple):
    """One epoch's shards in order, and where its pools end.

    Two numbers a shard are all that is held: a table of the epoch's samples would be 8 bytes for each of millions, in
    every worker of every process.
    """

    shards: np.ndarray  # shard numbers, permuted
    pool_shards: np.ndarray  # pool k holds shards[pool_shards[k] : pool_shards[k + 1]]
    pool_starts: np.ndarray  # pool k holds offsets pool_starts[k] : pool_starts[k + 1] of the epoch


class SampleOrder:
    """Maps a position n to the sample's index in the source.

    The shards are permuted; consecutive ones are pooled until they hold at least `window` samples, and
    the pool is shuffled. So reading stays inside few shards, and a sample's place is random all the same.

    A pool holds whole shards: which samples lie together then follows from the permutation of shards alone, and a pool
    can be shuffled without knowing what the one before it took.
    """

    def __init__(self, shard_sizes: Sequence[int] | np.ndarray, seed: int, window: int, shuffle: bool = True) -> None:
        """Describe the order of a source.

        Args:
            shard_sizes: samples of each shard; the source's indices run through the shards in turn.
            seed: 0 or more; another seed is another order.
            window: samples that a pool holds at least (fewer only at the end of an epoch).
            shuffle: False reads the source as it lies.

        Raises:
            ValueError: no samples, or a window below 1.
        """
        self._sizes = np.asarray(shard_sizes, dtype=np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._length = int(self._sizes.sum())
        if self._length == 0:
            raise ValueError("the source holds no samples: give a dataset with at least one")
        if window < 1:
            raise ValueError(f"window={window} cannot be used: give at least 1 sample")
        self._seed, self._window, self._shuffle = seed, window, shuffle
        self._epochs: OrderedDict[object, _Epoch] = OrderedDict()
        self._pools: OrderedDict[object, np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        """N, the samples of one epoch."""
        return self._length

    def __getitem__(self, n: int) -> int:
        """Return the source index of position n, for any n >= 0."""
        if n < 0:
            raise IndexError(f"position {n} is negative")
        epoch, offset = divmod(n, self._length)
        if not self._shuffle:
            return offset
        layout = recall(self._epochs, epoch, lambda: self._permute_shards(epoch))
        # The last pool that starts at or before the offset; pool_starts ends with N, which no offset reaches.
        pool = int(np.searchsorted(layout.pool_starts, offset, side="right")) - 1
        samples = recall(self._pools, (epoch, pool), lambda: self._shuffle_pool(layout, epoch, pool))
        return int(samples[offset - layout.pool_starts[pool]])

    __iter__ = None  # the order is endless; ask for positions

    def epoch(self, n: int) -> int:
        """Return the epoch that position n is in."""
        return n // self._length

    def _permute_shards(self, epoch: int) -> _Epoch:
        # Number 0 of the key is the shards' order, and k + 1 is pool k's: each shuffle has its own random stream.
        shards = permutation(len(self._sizes), self._seed, epoch, 0)
        ends = np.cumsum(self._sizes[shards])
        pool_shards, pool_starts = [0], [0]
        while pool_starts[-1] < self._length:
            last = int(np.searchsorted(ends, min(pool_starts[-1] + self._window, self._length)))
            pool_shards.append(last + 1)
            pool_starts.append(int(ends[last]))
        return _Epoch(shards, np.array(pool_shards), np.array(pool_starts))

    def _shuffle_pool(self, layout: _Epoch, epoch: int, pool: int) -> np.ndarray:
        shards = layout.shards[layout.pool_shards[pool] : layout.pool_shards[pool + 1]]
        sizes = self._sizes[shards]
        before = np.cumsum(sizes) - sizes
        # Source indices of the pool: within a shard they run on from its start, as `arange - before` does from 0.
        samples = np.repeat(self._starts[shards] - before, sizes) + np.arange(sizes.sum())
        return samples[permutation(len(samples), self._seed, epoch, pool + 1)]


def default_window(source: SampleSource) -> int:
    """The window of a source for which none is given: `DEFAULT_WINDOW`, or its `pool_shards` shards of average size.

    A shard of 10,000 samples fills the first by itself, and every batch would come from one shard.
    """
    if source.pool_shards == 1:
        return DEFAULT_WINDOW
    shards = int(np.count_nonzero(source.shard_sizes))
    spanned = source.pool_shards * len(source) // max(1, shards)
    return max(DEFAULT_WINDOW, min(spanned, _LARGEST_WINDOW))


def recall(cache: OrderedDict[object, _Value], key: object, make: Callable[[], _Value]) -> _Value:
    """Return what a key stands for, made anew unless it is one of the two that were used last."""
    if key not in cache:
        cache[key] = make()
        while len(cache) > _KEPT:
            cache.popitem(last=False)
    cache.move_to_end(key)
    return cache[key]


@dataclass(frozen=True)
class BatchPlan:
    """How the samples of an optimizer step are shared by processes and micro-batches."""

    global_batch_size: int
    num_processes: int
    process_index: int
    micro_batch_size: int

    def __post_init__(self) -> None:
        at_once = self.num_processes * self.micro_batch_size
        if self.global_batch_size < 1 or self.global_batch_size % at_once:
            raise ValueError(
                f"global_batch_size={self.global_batch_size} is not a multiple of {self.num_processes} processes x "
                f"{self.micro_batch_size} samples at once: use {_nearest(self.global_batch_size, at_once)}"
            )

    @property
    def accumulation(self) -> int:
        """Micro-batches that one process takes in one optimizer step."""
        return self.global_batch_size // (self.num_processes * self.micro_batch_size)

    def positions(self, step_start: int) -> list[list[int]]:
        """Return this process's micro-batches of the step whose first sample is number `step_start`.

        The step's samples are the same set for any number of processes and any micro-batch size.
        """
        size = self.micro_batch_size
        stride = self.num_processes * size
        # Micro-batches run through the step in turn, processes within each: any split covers step_start and the
        # following global_batch_size positions once.
        firsts = [step_start + a * stride + self.process_index * size for a in range(self.accumulation)]
        return [list(range(first, first + size)) for first in firsts]


def largest_micro_batch(global_batch_size: int, num_processes: int, max_micro_batch: int) -> int:
    """Return the largest divisor of a process's share that is at most `max_micro_batch`.

    Raises:
        ValueError: the processes do not divide the global batch.
    """
    if global_batch_size < 1 or global_batch_size % num_processes:
        raise ValueError(
            f"global_batch_size={global_batch_size} cannot be shared by {num_processes} processes: "
            f"use {_nearest(global_batch_size, num_processes)}"
        )
    share = global_batch_size // num_processes
    return next(size for size in range(min(share, max(1, max_micro_batch)), 0, -1) if share % size == 0)


def permutation(length: int, *key: int) -> np.ndarray:
    """Permute range(length), int64 [length], by a key of numbers of 0 or more.

    It sorts raw random words: numpy keeps those the same across versions, but not its own `permutation`.
    """
    words = np.random.PCG64(np.random.SeedSequence(key)).random_raw(length)
    return np.argsort(words, kind="stable")


def training_positions(plan: BatchPlan, start_sample: int, num_steps: int) -> Iterator[list[int]]:
    """Yield this process's micro-batches of `num_steps` optimizer steps, from sample number `start_sample` on."""
    for step in range(num_steps):
        yield from plan.positions(start_sample + step * plan.global_batch_size)


def validation_positions(
    num_samples: int, num_processes: int, process_index: int, batch_size: int
) -> Iterator[list[int]]:
    """Yield this process's batches of positions 0 .. num_samples - 1, each sample once over all processes.

    Every process gets the same number of batches, as the collectives of a sharded forward pass need; positions from
    `num_samples` on are padding.
    """
    for start in range(0, num_samples, num_processes * batch_size):
        first = start + process_index * batch_size
        yield list(range(first, first + batch_size))


def _nearest(wanted: int, unit: int) -> str:
    below = wanted // unit * unit
    return f"{below} or {below + unit}" if below > 0 else str(unit)

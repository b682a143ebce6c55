"""The index of a large .tar dataset: how long it takes to open, and how much memory it takes.

The shards hold nothing, and the index of each is kept as reading its headers would leave it, so that a dataset of
terabytes is measured by its index alone. Each start is in processes of its own, which share nothing but files.
"""

from __future__ import annotations

import os
import random
import time
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from vlv.benchmarks.memory import memory_mib
from vlv.data.formats import SourceSettings
from vlv.data.merged_index import SCHEMA, ShardIndex
from vlv.data.sources import open_source
from vlv.data.tar_index import identify, keep_index
from vlv.progress import Progress

_LOOKED_UP = 1_000  # samples, at random
_IMAGE, _CAPTION = 100_000, 600  # bytes of a sample's members


class Start(NamedTuple):
    """One process that has opened the dataset.

    own_mib: memory that nobody else can use. shared_mib: the same and its share of mapped files.
    """

    samples: int
    seconds: float
    own_mib: float
    shared_mib: float


def starts(folder: Path, processes: int) -> list[Start]:
    """Open the dataset in several processes at once, as the ranks of a machine do."""
    # Spawned: a forked process would count this one's memory as shared.
    with get_context("spawn").Pool(processes) as pool:
        return pool.starmap(opened, [(str(folder),)] * processes, chunksize=1)


def make(out: Path, samples: int, samples_per_shard: int) -> None:
    """Make the shards and the index of each, where they are not there."""
    cache = out / "cache"
    (out / "shards").mkdir(parents=True, exist_ok=True)
    shards = -(-samples // samples_per_shard)
    progress = Progress("making", shards, "shard")
    for number in range(shards):
        shard, count = out / "shards" / f"{number:06}.tar", min(samples_per_shard, samples - number * samples_per_shard)
        if not shard.exists():  # a call that was interrupted goes on
            shard.touch()
            path = str(shard.absolute())
            keep_index(ShardIndex(_rows(number * samples_per_shard, count), "", [], 0, {}), path, cache, identify(path))
        progress.advance(1)
    progress.close()


def _rows(first: int, count: int) -> pa.RecordBatch:
    offsets = np.arange(count, dtype=np.int64) * (_IMAGE + _CAPTION + 1024)
    columns = [
        pa.array([b"%09d.jpg" % (first + row) for row in range(count)], pa.large_binary()),
        pa.array(offsets),
        pa.array(np.full(count, _IMAGE)),
        pa.array(offsets + _IMAGE),
        pa.array(np.full(count, _CAPTION)),
        pa.array(np.ones(count, dtype=np.uint8)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def opened(folder: str) -> Start:
    """Open the dataset and look up samples; memory is what this process has more than before."""
    before = memory_mib()
    started = time.perf_counter()
    source = open_source(f"{folder}/shards", SourceSettings(cache_dir=f"{folder}/cache"))
    seconds = time.perf_counter() - started
    numbers = random.Random(os.getpid())  # each process touches other pages
    for _ in range(_LOOKED_UP):
        source.name(numbers.randrange(len(source)))
    after = memory_mib()
    own, shared = (after[kind] - before[kind] for kind in ("Anonymous", "Pss"))
    return Start(len(source), seconds, own, shared)

"""How long the index of a large .tar dataset takes to open, and how much memory, as a Markdown table.

python -m scripts.benchmark_index outputs/index samples=40000000 processes=8

The folder gets shards that hold nothing, and the cached index of each as reading its headers would leave it (so the
time to read headers is not in the table). The first start merges them; then several processes open the dataset at once,
as the ranks of a machine do, and look up 1,000 samples each.
"""

from __future__ import annotations

import os
import random
import sys
import time
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa

from vlv.cli.entry import Call, parse
from vlv.data.formats import SourceSettings
from vlv.data.merged_index import SCHEMA, ShardIndex
from vlv.data.sources import open_source
from vlv.data.tar_index import identify, keep_index
from vlv.progress import Progress
from vlv.settings import ConfigError, option, require

_LOOKED_UP = 1_000
_IMAGE, _CAPTION = 100_000, 600  # bytes of a sample's members


@dataclass(frozen=True)
class IndexConfig:
    """How large the dataset is."""

    out: str = option("", "folder of the shards and their index, some 70 bytes a sample", path="local")
    samples: int = option(40_000_000, "samples with captions")
    samples_per_shard: int = option(10_000, "samples of a shard")
    processes: int = option(8, "processes that open it at once")

    def __post_init__(self) -> None:
        if not self.out:
            raise ConfigError("a folder is needed: python -m scripts.benchmark_index FOLDER")
        require(self.samples >= 1, "samples", self.samples, "give at least 1")
        require(self.samples_per_shard >= 1, "samples_per_shard", self.samples_per_shard, "give at least 1")
        require(self.processes >= 1, "processes", self.processes, "give at least 1")


def main(arguments: list[str]) -> None:
    """Make the index, open it, and print the table."""
    config = parse(IndexConfig, Call("python -m scripts.benchmark_index", __doc__ or "", ("out",)), arguments)
    out = Path(config.out)
    make(out, config.samples, config.samples_per_shard)
    context = get_context("spawn")  # processes that share nothing with this one
    with context.Pool(1) as one:
        first = one.apply(opened, (str(out),))
    with context.Pool(config.processes) as pool:
        later = pool.starmap(opened, [(str(out),)] * config.processes, chunksize=1)
    size = sum(file.stat().st_size for file in (out / "cache").glob("*.merged.arrow"))
    print("| start | samples | processes | seconds | own memory, MiB each | with a share of mapped files, MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, runs in (("first", [first]), ("later", later)):
        seconds, own, shared = (max(values) for values in zip(*[run[1:] for run in runs], strict=True))
        print(f"| {name} | {runs[0][0]:,} | {len(runs)} | {seconds:.1f} | {own:,.0f} | {shared:,.0f} |")
    print(f"\nThe merged index has {size / 1e9:.2f} GB.")


def make(out: Path, samples: int, samples_per_shard: int) -> None:
    """Make the shards and the index of each, where they are not there."""
    cache = out / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    shards = -(-samples // samples_per_shard)
    progress = Progress("making", shards, "shard")
    for number in range(shards):
        shard, count = out / f"{number:06}.tar", min(samples_per_shard, samples - number * samples_per_shard)
        if not shard.exists():
            shard.touch()
            path = str(shard.absolute())
            keep_index(ShardIndex(_rows(number, count), "", [], 0, {}), path, cache, identify(path))
        progress.advance(1)
    progress.close()


def _rows(shard: int, count: int) -> pa.RecordBatch:
    offsets = np.arange(count, dtype=np.int64) * (_IMAGE + _CAPTION + 1024)
    columns = [
        pa.array([b"%09d.jpg" % (shard * count + row) for row in range(count)], pa.large_binary()),
        pa.array(offsets),
        pa.array(np.full(count, _IMAGE)),
        pa.array(offsets + _IMAGE),
        pa.array(np.full(count, _CAPTION)),
        pa.array(np.ones(count, dtype=np.uint8)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def opened(folder: str) -> tuple[int, float, float, float]:
    """Open the dataset and look up samples.

    Returns:
        samples, seconds to open, MiB of memory that is this process's alone and more than before, and MiB with its
        share of what several processes have mapped.
    """
    before = _memory()
    started = time.perf_counter()
    source = open_source(folder, SourceSettings(cache_dir=f"{folder}/cache"))
    seconds = time.perf_counter() - started
    numbers = random.Random(os.getpid())
    for _ in range(_LOOKED_UP):
        source.name(numbers.randrange(len(source)))
    own, shared = (after - earlier for after, earlier in zip(_memory(), before, strict=True))
    return len(source), seconds, own, shared


def _memory() -> tuple[float, float]:
    """Anonymous memory, and the proportional set size, in MiB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    values = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
    return values["Anonymous"], values["Pss"]


if __name__ == "__main__":
    main(sys.argv[1:])

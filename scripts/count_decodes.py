"""How often parquet row groups are decoded by workers x processes: python -m scripts.count_decodes.

It writes 100 row groups of 50 rows of 30 kB under $TMPDIR and reads each row once in the order's pools; no image is
decoded. A reader alone shares nothing.
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vlv.data import SampleOrder, SourceSettings, open_source
from vlv.data.parquet import ParquetSource

_ROWS, _WINDOW, _BATCH = 5000, 1000, 16
_context = multiprocessing.get_context("fork")


def main() -> None:
    """Print one line for each number of readers."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.parquet"
        rng = np.random.default_rng(0)
        # One byte more than 100 x 100 pixels, which would be refused as raw ones.
        pq.write_table(pa.table({"image": [rng.bytes(30_001) for _ in range(_ROWS)]}), path, row_group_size=50)
        for workers, processes in ((1, 1), (4, 1), (8, 1), (4, 2), (8, 2)):
            readers = workers * processes
            for shared in (False, True)[:readers]:
                decodes, seconds = _read(path, readers, shared)
                label = "shared" if shared else "each for itself"
                print(f"{workers} x {processes}, {label}: {decodes} decodes, {seconds:.2f} CPU s")


def _read(path: Path, readers: int, shared: bool) -> tuple[int, float]:
    count = _context.Value("l", 0)
    decode = ParquetSource._decode

    def counted(self: ParquetSource, path: str, number: int) -> pa.Table:
        with count.get_lock():
            count.value += 1
        return decode(self, path, number)

    ParquetSource._decode = counted
    settings = SourceSettings(readers=readers if shared else 1, pool_samples=_WINDOW)
    source = open_source(str(path), settings)
    order = SampleOrder(source.shard_sizes, 0, _WINDOW)

    def read(reader: int) -> None:
        for batch in range(reader, -(-_ROWS // _BATCH), readers):
            for position in range(batch * _BATCH, min(_ROWS, (batch + 1) * _BATCH)):
                source.read(order[position])

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = [_context.Process(target=read, args=(reader,)) for reader in range(readers)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    ParquetSource._decode = decode
    return count.value, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()

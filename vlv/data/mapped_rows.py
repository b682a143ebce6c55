"""Rows of Arrow files that are mapped into memory: found by index, and checked one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from vlv.data.sample import BadSample

_FILE_MAGIC = b"ARROW1"


class MappedRows:
    """The rows of several files, one file after another."""

    def __init__(self, paths: Sequence[str]) -> None:
        """Map the files, each of either of Arrow's formats.

        Raises:
            ValueError: one cannot be read, or has other columns than the first.
        """
        self.tables = [_map(path) for path in paths]
        self.schema = self.tables[0].schema if self.tables else pa.schema([])
        for path, table in zip(paths, self.tables, strict=True):
            if not table.schema.equals(self.schema):
                raise ValueError(f"{path} has other columns than {paths[0]}: give files of one dataset")
        self.sizes = np.array([table.num_rows for table in self.tables], dtype=np.int64)
        self._ends = np.cumsum(self.sizes)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> pa.Table:
        """One row, as it lies in its file: not checked (`checked`)."""
        file = int(np.searchsorted(self._ends, index, side="right"))
        return self.tables[file].slice(index - int(self._ends[file] - self.sizes[file]), 1)


def checked(row: pa.Table) -> pa.Table:
    """A row whose values lie where they can be read: Arrow itself follows offsets wherever they lead, also to a crash.

    Raises:
        BadSample: they do not.
    """
    try:
        row.validate(full=True)
    except pa.ArrowException as error:
        raise BadSample(f"the row is damaged: {' '.join(str(error).split())[:200]}") from None
    return row


def _map(path: str) -> pa.Table:
    try:
        mapped = pa.memory_map(path)
        is_file = mapped.read(len(_FILE_MAGIC)) == _FILE_MAGIC
        mapped.seek(0)
        return (pa.ipc.open_file(mapped) if is_file else pa.ipc.open_stream(mapped)).read_all()
    except (OSError, pa.ArrowException, MemoryError) as error:
        raise ValueError(f"{path} cannot be read as an Arrow file: {' '.join(str(error).split())[:200]}") from None

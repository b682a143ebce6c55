"""Rows of Arrow files that are mapped into memory: found by index, and checked one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from vlv.data.cells import is_list
from vlv.data.damaged_shards import report_damaged
from vlv.data.sample import BadSample

_FILE_MAGIC = b"ARROW1"


class MappedRows:
    """The rows of several files, one file after another; one that is damaged is left out."""

    def __init__(
        self, label: str, paths: Sequence[str], check: Callable[[str, pa.Table], None], max_bad_share: float
    ) -> None:
        """Map the files, each of either of Arrow's formats.

        Args:
            label: what they are the files of.
            check: raises a ValueError where a file, by its path and table, is not what is wanted.
            max_bad_share: how many may be damaged, as a share of all.

        Raises:
            ValueError: none of them can be used, or too many cannot.
        """
        self.tables: list[pa.Table] = []
        damaged: list[str] = []
        for path in paths:
            try:
                table = _map(path)
                check(path, table)
            except ValueError as error:
                damaged.append(str(error))
            else:
                self.tables.append(table)
        if damaged and not self.tables:  # nothing is left to read, and the first says what to set
            raise ValueError(damaged[0])
        report_damaged(label, damaged, len(paths), max_bad_share)
        self.schema = self.tables[0].schema if self.tables else pa.schema([])
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

    Args:
        row: one, of columns as `check_columns` accepts them: no lists of lists, or of structs.

    Raises:
        BadSample: they do not.
    """
    try:
        row.validate()  # what follows reads the row's own offsets
        columns = [_own(next(chunk for chunk in column.chunks if len(chunk))) for column in row.columns]
        row = pa.Table.from_arrays(columns, names=row.column_names)
        row.validate(full=True)
    except pa.ArrowException as error:
        raise BadSample(f"the row is damaged: {' '.join(str(error).split())[:200]}") from None
    return row


def _own(values: pa.Array) -> pa.Array:
    """Values without those of other rows: a slice keeps the whole of what lists, structs and dictionaries are made of.

    Validated with it, one row's fault would be that of all, and each row would cost the time of all.
    """
    if isinstance(values, pa.DictionaryArray):
        found = [_entry(values.dictionary, index) for index in values.indices.to_pylist()]
        return pa.concat_arrays(found) if found else values.dictionary[:0]
    if values.null_count and len(values) == 1:
        return pa.nulls(1, values.type)
    if isinstance(values, pa.StructArray):
        fields = [values.type.field(number).name for number in range(values.type.num_fields)]
        return pa.StructArray.from_arrays([_own(field) for field in values.flatten()], fields)
    if is_list(values.type):
        items = _own(values.flatten())  # pyright: ignore[reportAttributeAccessIssue]
        return pa.ListArray.from_arrays(pa.array([0, len(items)], pa.int32()), items)
    return values


def _entry(dictionary: pa.Array, index: int | None) -> pa.Array:
    if index is None:
        return pa.nulls(1, dictionary.type)
    if not 0 <= index < len(dictionary):
        raise pa.ArrowInvalid(f"an index of {index} into {len(dictionary)} values")
    entry = dictionary.slice(index, 1)
    entry.validate(full=True)
    return entry


def _map(path: str) -> pa.Table:
    try:
        mapped = pa.memory_map(path)
        is_file = mapped.read(len(_FILE_MAGIC)) == _FILE_MAGIC
        mapped.seek(0)
        return (pa.ipc.open_file(mapped) if is_file else pa.ipc.open_stream(mapped)).read_all()
    except (OSError, pa.ArrowException, MemoryError) as error:
        raise ValueError(f"{path} cannot be read as an Arrow file: {' '.join(str(error).split())[:200]}") from None

"""Reading samples by index from parquet files; a row group is a shard."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vlv.data.cells import caption_of, check_columns, image_of
from vlv.data.damaged_shards import report_damaged
from vlv.data.formats import DataFiles, SourceSettings, accepted, caption_column, wanted_columns
from vlv.data.linked_files import linked_files
from vlv.data.remote import THREADS, RemoteFiles, bare, is_remote, public_name
from vlv.data.remote_file import RemoteFile, open_remote
from vlv.data.sample import BadSample, RawSample
from vlv.data.shared_tables import SharedTables

_MIN_CACHE = 1 << 30  # bytes: a small dataset's row groups all stay, whatever the window
_NOTED_CACHE = 2 << 30  # bytes from which a user should know
_CHECKED = 10  # files that are looked at for a sound one
_log = logging.getLogger(__name__)


class ParquetSource:
    """Rows of parquet files; `image_of` and `caption_of` say what their cells may hold.

    A row is read by decoding its row group, which stays in memory while the order is around it, up to the decoded size
    of `pool_samples` rows: in the process, or, with several readers, in one file for all of them.
    """

    pool_shards = 1

    def __init__(self, files: DataFiles, settings: SourceSettings) -> None:
        """Read the footers of the files.

        Raises:
            ValueError: too many files are no parquet files, or have not the columns or their types.
        """
        self._files = [os.fsdecode(name) for name in files.names.to_pylist()]
        self._names = [public_name(files.root, file) for file in self._files]
        self._root, self._remote = files.root, files.remote
        self._image, self._caption = settings.image_column, caption_column(settings)
        self._columns = wanted_columns(settings)
        self._raw_shape = settings.raw_image_shape
        at_once = settings.num_workers or min(16, os.cpu_count() or 1)
        with ThreadPoolExecutor(at_once if self._remote is None else THREADS) as pool:
            sizes, weights, faults = zip(*pool.map(self._read_footer, self._files), strict=True)
        damaged = [fault for fault in faults if fault]
        if len(damaged) == len(faults):  # nothing is left to read, and the first says what to set
            raise ValueError(damaged[0])
        report_damaged(files.path, damaged, len(faults), settings.max_bad_share)
        groups = [len(per_file) for per_file in sizes]
        self.shard_sizes = np.concatenate(sizes)
        self._ends = np.cumsum(self.shard_sizes)
        self._file_of = np.repeat(np.arange(len(self._files)), groups)
        self._group_of = np.concatenate([np.arange(count) for count in groups])
        file_starts = np.cumsum([per_file.sum() for per_file in sizes])
        self._file_starts = file_starts - [per_file.sum() for per_file in sizes]
        self._cache_bytes = self._size_cache(int(np.sum(weights)), settings.pool_samples, settings.readers)
        identity = f"{os.path.abspath(self._root)} {self._columns} {len(self)}"
        self._shared = SharedTables(identity, self._cache_bytes) if settings.readers > 1 else None
        self._process = os.getpid()
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()
        self._broken: dict[int, str] = {}

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def name(self, index: int) -> str:
        """Return file:row, as in a/train-00000.parquet:17."""
        group = self._group(index)
        file = int(self._file_of[group])
        return f"{self._names[file]}:{index - int(self._file_starts[file])}"

    def read(self, index: int) -> RawSample:
        """Read one row."""
        group = self._group(index)
        table = self._table(group)
        row = index - int(self._ends[group] - self.shard_sizes[group])
        read_linked = linked_files(os.path.dirname(self._path(int(self._file_of[group]))), [self._root])
        image = image_of(table.column(self._image)[row], self._raw_shape, read_linked)
        caption = None if self._caption is None else caption_of(table.column(self._caption)[row])
        return RawSample(image, caption)

    def _group(self, index: int) -> int:
        return int(np.searchsorted(self._ends, index, side="right"))

    def _path(self, file: int) -> str:
        return os.path.join(self._root, self._files[file])

    def _read_footer(self, file: str) -> tuple[np.ndarray, int, str]:
        """Check a file; returns the rows of its row groups (int64), its decoded bytes, and what is wrong with it."""
        try:
            footer = read_footer(os.path.join(self._root, file), self._image, self._caption, self._remote)
        except ValueError as error:
            return np.zeros(0, dtype=np.int64), 0, str(error)
        groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
        wanted = [n for n in range(footer.num_columns) if _is_of(footer, n, self._columns)]
        first_rows = groups[0].num_rows if groups else 0
        # The first row group stands for the file: a footer says nothing else of decoded sizes, and rows are alike.
        decoded = sum(groups[0].column(n).total_uncompressed_size for n in wanted) if first_rows else 0
        rows = np.array([group.num_rows for group in groups], dtype=np.int64)
        return rows, decoded * int(rows.sum()) // max(1, first_rows), ""

    def _size_cache(self, total_bytes: int, pool_samples: int, readers: int) -> int:
        """Return the bytes that a pool of the order may span, whose row groups must all stay in memory."""
        # A pool holds whole shards, here row groups, so it may exceed its window by almost one; and while a worker
        # crosses to the next pool, it reads of that one too.
        samples = pool_samples + 2 * int(self.shard_sizes.max(initial=0))
        # A quarter more: Arrow's buffers are padded, and rows of other row groups may be larger than the first's.
        needed = int(1.25 * total_bytes / max(1, len(self)) * min(samples, len(self)))
        if needed > _NOTED_CACHE:
            place = f"in {tempfile.gettempdir()}, for all workers" if readers > 1 else "in memory"
            _log.warning(
                "%s: up to %.1f GiB of decoded row groups are kept %s (a shuffle window of %d samples); lower "
                "shuffle_window if there is less room",
                self._root, needed / 2**30, place, pool_samples,
            )  # fmt: skip
        return max(_MIN_CACHE, needed)

    def _table(self, group: int) -> pa.Table:
        if self._process != os.getpid():  # a forked worker starts with an empty cache, the parent's is not its own
            self._process = os.getpid()
            self._groups.clear()
        if group in self._broken:
            raise BadSample(self._broken[group])
        if group not in self._groups:
            self._groups[group] = self._read_group(group)
            # By bytes, not by count: row groups of one dataset differ in size by tens. Of the buffers, as pyarrow
            # below 22 knows no `nbytes` of views.
            held = sum(table.get_total_buffer_size() for table in self._groups.values())
            while held > self._cache_bytes and len(self._groups) > 1:
                held -= self._groups.popitem(last=False)[1].get_total_buffer_size()
        self._groups.move_to_end(group)
        return self._groups[group]

    def _read_group(self, group: int) -> pa.Table:
        path, number = self._path(int(self._file_of[group])), int(self._group_of[group])
        try:
            if self._shared is None:
                return self._decode(path, number)
            # The time of writing: a file that was replaced under the run must not give the former one's rows.
            written = os.stat(path).st_mtime_ns if not is_remote(path) else self._remote and self._remote.facts(path)
            key = hashlib.sha256(f"{path} {number} {written}".encode("utf-8", "backslashreplace"))
            return self._shared.get(key.hexdigest()[:32], lambda: self._decode(path, number))
        except (OSError, pa.ArrowException) as error:
            self._broken[group] = f"row group {number} cannot be read: {' '.join(str(error).split())[:200]}"
            raise BadSample(self._broken[group]) from None

    def _decode(self, path: str, number: int) -> pa.Table:
        with pq.ParquetFile(_readable(path, self._remote), pre_buffer=is_remote(path)) as file:
            # Each worker is a process of its own; Arrow's threads would compete with theirs for the same cores.
            table = file.read_row_group(number, columns=self._columns, use_threads=False)
        return table.unify_dictionaries()  # the file that is shared can hold one for each column


def open_files(files: DataFiles, settings: SourceSettings) -> ParquetSource:
    """Open the files.

    Raises:
        ValueError: a file cannot be read or lacks a column, or there are no rows.
    """
    source = ParquetSource(files, settings)
    if not len(source):
        raise ValueError(f"{files.path} has no rows: {accepted()}")
    return source


def check_files(files: DataFiles, settings: SourceSettings) -> None:
    """Check the footers of the first files, up to a sound one.

    Raises:
        ValueError: the first is no parquet file, or has not the columns or their types, and those after it no better.
    """
    faults: list[ValueError] = []
    for name in files.names[:_CHECKED].to_pylist():
        try:
            read_footer(
                os.path.join(files.root, os.fsdecode(name)),
                settings.image_column,
                caption_column(settings),
                files.remote,
            )
            return
        except ValueError as error:
            faults.append(error)
    raise faults[0]


def has_images(files: DataFiles, settings: SourceSettings) -> bool:
    """Whether the first sound file has the image column; metadata of images that lie beside it has none."""
    for name in files.names[:_CHECKED].to_pylist():
        try:
            file = _readable(os.path.join(files.root, os.fsdecode(name)), files.remote)
            return settings.image_column in pq.read_schema(file).names
        except (OSError, pa.ArrowException):
            continue
    return False


def _readable(path: str, remote: RemoteFiles | None) -> str | RemoteFile:
    return open_remote(remote, path) if remote is not None and is_remote(path) else path


def read_footer(
    path: str, image_column: str, caption_column: str | None, remote: RemoteFiles | None = None
) -> pq.FileMetaData:
    """Read a file's footer, a URL's with `remote`, and check its columns.

    Raises:
        ValueError: it is no parquet file, or has not the columns or their types.
    """
    file, path = _readable(path, remote), bare(path)
    try:
        footer = pq.read_metadata(file)
        schema = footer.schema.to_arrow_schema()
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path} cannot be read as parquet: {' '.join(str(error).split())}") from None
    check_columns(path, schema, image_column, caption_column)
    return footer


def _is_of(footer: pq.FileMetaData, number: int, columns: list[str]) -> bool:
    path = footer.schema.column(number).path
    # A struct's fields follow a dot; a column's own name may have one too.
    return any(path == name or path.startswith(f"{name}.") for name in columns)

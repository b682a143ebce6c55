"""The index of a tar shard: where each sample's image and caption lie.

Only headers are read, so a shard of gigabytes takes as long as its number of members: tarfile reads 20,000 in about
0.4 s. The index of a shard is kept in one small file, found by the shard's absolute path or URL and good for its size
and mtime, or what the server says of its version, so that a dataset pays for it once; those of all shards are merged
into one file that is mapped. (webdataset has no index: it reads shards from start to end.)
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

import pyarrow as pa

from vlv.atomic import whole_file
from vlv.data.files import display_name
from vlv.data.merged_index import SCHEMA, Identity, ShardIndex, merged_file, open_merged, write_merged
from vlv.data.pairing import is_sample_file, pair_names
from vlv.data.remote import RemoteError, RemoteFiles, bare, in_threads, is_remote
from vlv.data.remote_file import open_headers
from vlv.progress import Progress

_VERSION = 2  # of a cached index: another one is built anew
# What tarfile raises on damaged headers beside its own: numbers that are none, seeks to nowhere, a chain of long names,
# and lengths that no memory holds.
_TAR_ERRORS = (tarfile.TarError, OSError, ValueError, LookupError, ArithmeticError, RecursionError, MemoryError)
_CUT = ("empty header", "truncated header", "unexpected end of data")
_log = logging.getLogger(__name__)

_AT_ONCE = 512  # shards whose indexes are held while they are merged: some 300 MB of those of 10,000 samples
_EMPTY = pa.RecordBatch.from_pylist([], schema=SCHEMA)
_Shard = tuple[str, Path | None, Identity]  # path, cache folder, identity


class DamagedTarError(ValueError):
    """The archive ends, or stops making sense, before its end mark."""


def index_shards(
    paths: Sequence[str], cache_dir: str | None, num_workers: int, remote: RemoteFiles | None = None
) -> list[ShardIndex]:
    """Index tar shards in parallel, with a cache under `cache_dir` (default: see `default_cache_dir`).

    A shard that cannot be read has an empty index that says why. `remote` reads those that are URLs. The indexes of
    several shards are merged in the cache and mapped from there.

    Raises:
        RemoteError: a URL cannot be had.
    """
    folder = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    paths = [path if is_remote(path) else os.path.abspath(path) for path in paths]
    if remote is not None:
        remote.ask_for_all([path for path in paths if is_remote(path)])
    shards: list[_Shard] = [(path, folder, identify(path, remote)) for path in paths]
    identities = [identity for _, _, identity in shards]
    indexes = None
    if folder is not None and len(shards) > 1 and all(identities):  # of a version that is not known nothing is kept
        file = merged_file(folder, paths)
        indexes = open_merged(file, identities)
        if indexes is None:
            with suppress(OSError):  # without it a start costs more time and memory, and nothing else
                write_merged(file, identities, _index_all(shards, num_workers, remote))
                indexes = open_merged(file, identities)  # the memory of what was merged has gone
    return list(_index_all(shards, num_workers, remote)) if indexes is None else indexes


def _index_all(shards: Sequence[_Shard], num_workers: int, remote: RemoteFiles | None) -> Iterator[ShardIndex]:
    """Yield each shard's index in turn; a few hundred are held at a time."""
    progress: Progress | None = None
    for start in range(0, len(shards), _AT_ONCE):
        some = shards[start : start + _AT_ONCE]
        with ThreadPoolExecutor(max(1, num_workers)) as threads:  # small reads: what counts is their latency
            indexes = list(threads.map(_load, some))
        missing = [shard for shard, index in zip(some, indexes, strict=True) if index is None]
        if missing and progress is None and len(shards) > _AT_ONCE:
            progress = Progress("indexing", len(shards), "shard")
            progress.advance(start)
        built = _build_local([shard for shard in missing if not is_remote(shard[0])], num_workers)
        if remote is not None:
            built |= _build_remote([shard for shard in missing if is_remote(shard[0])], remote)
        yield from (built[path] if index is None else index for (path, _, _), index in zip(some, indexes, strict=True))
        if progress is not None:
            progress.advance(len(some))
    if progress is not None:
        progress.close()


def _build_local(shards: list[_Shard], num_workers: int) -> dict[str, ShardIndex]:
    if len(shards) > 1 and num_workers > 1:
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(min(num_workers, len(shards)), mp_context=context) as processes:
            built = list(processes.map(_build, shards))
    else:
        built = list(map(_build, shards))
    return {path: index for (path, _, _), index in zip(shards, built, strict=True)}


def _build_remote(shards: list[_Shard], remote: RemoteFiles) -> dict[str, ShardIndex]:
    if len(shards) > 1:
        _log.warning("reading the headers of %d remote shards; their index is kept for the next start", len(shards))
    by_path = {shard[0]: shard for shard in shards}
    # Threads: nearly all of it is waiting for the server.
    built = in_threads(lambda path: _build(by_path[path], remote), list(by_path))
    return dict(zip(by_path, built, strict=True))


def default_cache_dir() -> Path | None:
    """Return $VLV_CACHE_DIR, else ~/.cache/vlv/index; None where there is no home."""
    given = os.environ.get("VLV_CACHE_DIR")
    folder = given or os.path.expanduser("~/.cache/vlv/index")
    return None if folder.startswith("~") else Path(folder)


def index_shard(path: str, remote: RemoteFiles | None = None) -> ShardIndex:
    """Read a shard's headers. A damaged or cut shard gives the samples before the damage.

    Raises:
        OSError: it cannot be read.
        RemoteError: a URL, which `remote` reads, cannot be had.
    """
    members: list[tuple[bytes, int, int]] = []
    cut = ""
    try:
        with _open_shard(path, remote) as file:
            members.extend(_members(file))
    except DamagedTarError as error:
        cut = str(error)
    names = [name for name, _, _ in members]
    found = pair_names(names)
    rows = [
        (*members[pair.image], *((0, 0) if pair.caption is None else members[pair.caption][1:]), pair.kind)
        for pair in found.pairs
    ]
    columns = list(zip(*rows, strict=True)) if rows else [[] for _ in SCHEMA]
    left_out = [display_name(names[place]) for place in found.left_out]
    return ShardIndex(_record_batch(columns), cut, left_out, found.lone_captions, found.others)


def _record_batch(columns: Sequence[Sequence[object]]) -> pa.RecordBatch:
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _open_shard(path: str, remote: RemoteFiles | None) -> IO[bytes]:
    return open(path, "rb") if remote is None or not is_remote(path) else cast("IO[bytes]", open_headers(remote, path))


def _members(file: IO[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, offset of the data, size) of the regular files that can belong to a sample.

    Raises:
        DamagedTarError: where and why reading ended before the archive's end.
    """
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    if not end:
        return
    with _open(file) as archive:
        while (info := _next(archive, end)) is not None:
            # tarfile keeps every member, about 1 KB each.
            archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
            _require_size(info, end)
            name = info.name.encode("utf-8", "surrogateescape")
            if info.isreg() and not info.issparse() and is_sample_file(name):  # a sparse file is not in one piece
                yield name, info.offset_data, info.size
        if archive.offset < end:
            _require_end_mark(file, archive.offset)


def _open(file: IO[bytes]) -> tarfile.TarFile:
    try:
        # surrogateescape: names are bytes, and come back from the text as they were.
        return tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape")
    except RemoteError:
        raise
    except _TAR_ERRORS as error:
        raise DamagedTarError(f"not a tar header at byte 0 ({error})") from None


def _next(archive: tarfile.TarFile, end: int) -> tarfile.TarInfo | None:
    try:
        return archive.next()
    except RemoteError:  # no damage of the shard
        raise
    except _TAR_ERRORS as error:
        if archive.offset >= end:  # the last member is whole; padding and end mark are missing
            return None
        cut = isinstance(error, tarfile.ReadError) and str(error) in _CUT
        what = "cut short in the" if cut else "damaged"
        raise DamagedTarError(f"{what} header at byte {archive.offset} ({error or type(error).__name__})") from None


def _require_size(info: tarfile.TarInfo, end: int) -> None:
    """Refuse a size that leads nowhere; a negative one would send tarfile back over what it has read, for ever."""
    stated = info.pax_headers.get("size", "0")
    if info.size < 0 or not stated.isdigit():
        size = info.size if info.size < 0 else stated
        raise DamagedTarError(f"damaged header at byte {info.offset} (a size of {size})")
    if info.isreg() and not info.issparse() and info.offset_data + info.size > end:
        raise DamagedTarError(f"cut short in the member at byte {info.offset}")


def _require_end_mark(file: IO[bytes], offset: int) -> None:
    """Check what tarfile stopped at: it takes any header that it cannot read for the end of the archive."""
    file.seek(offset)
    header = file.read(tarfile.BLOCKSIZE)
    if not header.strip(b"\0"):
        return
    if len(header) < tarfile.BLOCKSIZE:
        raise DamagedTarError(f"cut short in the header at byte {offset}")
    raise DamagedTarError(f"damaged header at byte {offset}")


def identify(path: str, remote: RemoteFiles | None = None) -> Identity:
    """What a shard's index is good for; nothing where that cannot be known."""
    if remote is not None and is_remote(path):
        size, version = remote.facts(path)  # a version that the server does not tell is that of no cached index
        return {"version": _VERSION, "path": bare(path), "size": size, "etag": version} if version else {}
    try:
        status = os.stat(path)
    except OSError:
        return {}  # that of no cached index: the shard is tried, and its error becomes its index's
    return {"version": _VERSION, "path": path, "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _cache_file(folder: Path, path: str) -> Path:
    # Of the path, not of the name: shards of two datasets may be called alike.
    return folder / f"{hashlib.sha256(os.fsencode(bare(path))).hexdigest()[:32]}.arrow"


def _load(shard: _Shard) -> ShardIndex | None:
    path, folder, identity = shard
    if folder is None or not identity:
        return None
    try:
        table = pa.ipc.open_file(pa.py_buffer(_cache_file(folder, path).read_bytes())).read_all()
        facts = json.loads((table.schema.metadata or {})[b"vlv"])
        if facts.pop("shard") != identity:
            return None
        table = table.replace_schema_metadata(None)
        if not table.num_rows:
            return ShardIndex(_EMPTY, **facts)
        return ShardIndex(table.combine_chunks().to_batches()[0], **facts)
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError):
        return None  # no cached index, or not one of ours: it is built anew


def _build(shard: _Shard, remote: RemoteFiles | None = None) -> ShardIndex:
    path, folder, identity = shard
    try:
        index = index_shard(path, remote)
    except OSError as error:  # not cached: the next start may be able to read it
        return ShardIndex(_EMPTY, f"it cannot be read: {error.strerror}", [], 0, {})
    if folder is not None and identity:
        keep_index(index, path, folder, identity)
    return index


def keep_index(index: ShardIndex, path: str, folder: Path, identity: Identity) -> None:
    """Keep a shard's index for the next start; `path` is absolute or a URL."""
    facts = index.facts | {"shard": identity}
    file, rows = _cache_file(folder, path), index.rows.replace_schema_metadata({"vlv": json.dumps(facts)})
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as temporary, pa.ipc.new_file(str(temporary), rows.schema) as writer:
            writer.write_batch(rows)
    except OSError:
        return  # a cache that cannot be written costs the next start some time, and nothing else

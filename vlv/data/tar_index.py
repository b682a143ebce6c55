"""The index of a tar shard: where each sample's image and caption lie.

Only headers are read, so a shard of gigabytes takes as long as its number of members. The index of a shard
is kept in one small file, found by the shard's absolute path and good for its size and mtime.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from vlv.atomic import whole_file
from vlv.data.files import IMAGE_EXTENSIONS

CAPTION_NONE, CAPTION_TEXT, CAPTION_JSON = 0, 1, 2
_VERSION = 1
_BLOCK = 512
_IMAGES = frozenset(ending.encode() for ending in IMAGE_EXTENSIONS)
_SCHEMA = pa.schema(
    [
        ("name", pa.large_binary()),
        ("image_offset", pa.int64()),
        ("image_size", pa.int64()),
        ("caption_offset", pa.int64()),
        ("caption_size", pa.int64()),
        ("caption_kind", pa.uint8()),
    ]
)


_Shard = tuple[str, Path | None, dict[str, object]]  # path, cache folder, identity


class ShardIndex(NamedTuple):
    """One shard's samples, and what is wrong with the shard."""

    table: pa.Table  # name, image_offset, image_size, caption_offset, caption_size, caption_kind
    cut: str  # where and why reading ended before the archive's end; "" for a whole one
    shared_keys: int  # images left out because another image has their key
    lone_captions: int  # captions whose image is missing

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def has_captions(self) -> bool:
        """Whether any of the samples has a caption."""
        return bool((self.table["caption_kind"].to_numpy() != CAPTION_NONE).any())


class DamagedTarError(ValueError):
    """The archive ends, or stops making sense, before its end mark."""


def index_shards(paths: Sequence[str], cache_dir: str | None, num_workers: int) -> list[ShardIndex]:
    """Index tar shards in parallel, with a cache under `cache_dir` (default: see `default_cache_dir`).

    Raises:
        ValueError: a shard cannot be opened.
    """
    folder = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    cached = [(path, folder, _identify(path)) for path in map(os.path.abspath, paths)]
    with ThreadPoolExecutor(max(1, num_workers)) as threads:  # small reads: their latency counts, on a network disk
        indexes = list(threads.map(_load, cached))
    missing = [shard for shard, index in zip(cached, indexes, strict=True) if index is None]
    if len(missing) > 1 and num_workers > 1:
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(min(num_workers, len(missing)), mp_context=context) as processes:
            built = iter(list(processes.map(_build, missing)))
    else:
        built = map(_build, missing)
    return [next(built) if index is None else index for index in indexes]


def default_cache_dir() -> Path | None:
    """Return $VLV_CACHE_DIR, else ~/.cache/vlv/index; None where there is no home."""
    given = os.environ.get("VLV_CACHE_DIR")
    folder = given or os.path.expanduser("~/.cache/vlv/index")
    return None if folder.startswith("~") else Path(folder)


def index_shard(path: str) -> ShardIndex:
    """Read a shard's headers. A damaged or cut shard gives the samples before the damage.

    Raises:
        ValueError: it cannot be opened.
    """
    images: dict[bytes, tuple[bytes, int, int]] = {}
    captions: dict[bytes, tuple[int, int, int]] = {}
    cut, shared_keys = "", 0
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise ValueError(f"{path} cannot be opened: {error.strerror}") from None
    try:
        for name, offset, size in _members(descriptor):
            key, ending, inner = _split_name(name)
            if inner in _IMAGES:
                shared_keys += key in images
                images.setdefault(key, (name, offset, size))
            elif ending == b"txt" or (ending == b"json" and captions.get(key, (0, 0, 0))[2] != CAPTION_TEXT):
                captions[key] = (offset, size, CAPTION_TEXT if ending == b"txt" else CAPTION_JSON)
    except (DamagedTarError, OSError) as error:
        cut = str(error)
    finally:
        os.close(descriptor)
    none = (0, 0, CAPTION_NONE)
    rows = [(*image, *captions.pop(key, none)) for key, image in images.items()]
    columns = list(zip(*rows, strict=True)) if rows else [[] for _ in _SCHEMA]
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
    return ShardIndex(pa.Table.from_arrays(arrays, schema=_SCHEMA), cut, shared_keys, len(captions))


def _split_name(name: bytes) -> tuple[bytes, bytes, bytes]:
    """Split as webdataset does: the key is all before the base name's first dot; plus the last extension."""
    dot = name.find(b".", name.rfind(b"/") + 1)
    ending = name[dot + 1 :].lower()
    return name[:dot], ending, ending.rpartition(b".")[2]


def _members(descriptor: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, offset of the data, size) of the regular files that can belong to a sample."""
    end = os.fstat(descriptor).st_size
    position, long_name, extended = 0, b"", {}
    while position < end:
        header = os.pread(descriptor, _BLOCK, position)
        if not header.strip(b"\0"):
            return
        size = _check_header(header, position)
        kind = header[156:157]
        if "size" in extended and kind in (b"0", b"\0", b"7"):
            size = int(extended["size"])
        data = position + _BLOCK
        position = data + -(-size // _BLOCK) * _BLOCK
        if data + size > end:
            raise DamagedTarError(f"cut short in the member at byte {data - _BLOCK}")
        if kind == b"L":
            long_name = os.pread(descriptor, size, data).split(b"\0")[0]
        elif kind == b"x":
            extended = _parse_pax(os.pread(descriptor, size, data))
        elif kind not in (b"K", b"g"):
            name = extended.get("path") or long_name or _header_name(header)
            long_name, extended = b"", {}
            if kind in (b"0", b"\0", b"7") and _is_sample_file(name):
                yield name, data, size


def _check_header(header: bytes, position: int) -> int:
    """Return the size in a member's header, whose checksum has to fit."""
    if len(header) < _BLOCK:
        raise DamagedTarError(f"cut short in the header at byte {position}")
    try:
        stated = int(header[148:156].strip(b" \0") or b"0", 8)
        field = header[124:136]
        size = int.from_bytes(field[1:], "big") if field[0] == 0x80 else int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        raise DamagedTarError(f"not a tar header at byte {position}") from None
    if sum(header) - sum(header[148:156]) + 8 * ord(" ") != stated:
        raise DamagedTarError(f"damaged header at byte {position}")
    return size


def _header_name(header: bytes) -> bytes:
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _is_sample_file(name: bytes) -> bool:
    base = name.rpartition(b"/")[2]
    return b"." in base and not base.startswith(b".") and not name.startswith(b"__")


def _parse_pax(data: bytes) -> dict[str, bytes]:
    """Parse the records "<length> <key>=<value>\\n" of an extended header."""
    records: dict[str, bytes] = {}
    while data:
        digits, space, _ = data.partition(b" ")
        if not space or not digits.isdigit() or not 0 < int(digits) <= len(data):
            break
        key, _, value = data[len(digits) + 1 : int(digits) - 1].partition(b"=")
        records[key.decode("utf-8", "replace")] = value
        data = data[int(digits) :]
    return records


def _identify(path: str) -> dict[str, object]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be opened: {error.strerror}") from None
    return {"version": _VERSION, "path": path, "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _cache_file(folder: Path, path: str) -> Path:
    return folder / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.arrow"


def _load(shard: _Shard) -> ShardIndex | None:
    path, folder, identity = shard
    if folder is None:
        return None
    try:
        table = pa.ipc.open_file(pa.py_buffer(_cache_file(folder, path).read_bytes())).read_all()
        facts = json.loads((table.schema.metadata or {})[b"vlv"])
        if facts.pop("shard") != identity:
            return None
        return ShardIndex(table.replace_schema_metadata(None), **facts)
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError):
        return None  # no cached index, or not one of ours: it is built anew


def _build(shard: _Shard) -> ShardIndex:
    path, folder, identity = shard
    index = index_shard(path)
    if folder is not None:
        _save(index, _cache_file(folder, path), identity)
    return index


def _save(index: ShardIndex, file: Path, identity: dict[str, object]) -> None:
    facts = {
        "shard": identity,
        "cut": index.cut,
        "shared_keys": index.shared_keys,
        "lone_captions": index.lone_captions,
    }
    table = index.table.replace_schema_metadata({"vlv": json.dumps(facts)})
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
            writer.write_table(table)
    except OSError:
        return  # a cache that cannot be written costs the next start some time, and nothing else

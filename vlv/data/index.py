"""What there is: a path becomes a source of samples, whatever its format."""

from __future__ import annotations

import logging
import os
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from vlv.data.caption_file import find_caption_file, match_captions
from vlv.data.files import (
    ACCEPTED,
    KINDS,
    expand_pattern,
    extension,
    is_stream,
    kind_of,
    pack_names,
    scan_folder,
)
from vlv.data.parquet import read_footer
from vlv.data.reading import FolderSource, ParquetSource, TarSource
from vlv.data.sample import SampleSource
from vlv.data.tar_index import ShardIndex, index_shards

DataFormat = Literal["auto", "folder", "webdataset", "parquet"]
_CHECKED = 10_000  # files of a folder that a check lists: enough to tell its format
_NAMED = 5  # damaged shards that a warning names; there may be thousands
_log = logging.getLogger(__name__)
Listing = dict[str, pa.LargeBinaryArray]


def open_source(
    path: str,
    *,
    data_format: DataFormat = "auto",
    captions: bool = False,
    image_column: str = "image",
    caption_column: str = "caption",
    raw_image_size: tuple[int, int] = (384, 384),
    cache_dir: str | None = None,
    num_workers: int | None = None,
    pool_samples: int = 8192,
) -> SampleSource:
    """Open a dataset for reading by index.

    Args:
        path: a folder (recursive), a file, a glob, or a list with braces or commas.
        data_format: folder (of images), webdataset (.tar shards), parquet, or auto: what is there.
        captions: whether samples are pairs; a pair without its caption is a bad sample, or left out of a folder.
        image_column: parquet column, or field of captions.jsonl, with the image.
        caption_column: parquet column, or field of .json and .jsonl captions, with the caption.
        raw_image_size: height and width of images that parquet holds as raw uint8 CHW bytes.
        cache_dir: where tar indexes are kept; None is $VLV_CACHE_DIR or ~/.cache/vlv/index.
        num_workers: shards indexed at once; None goes by the cores.
        pool_samples: the order's shuffle window, which the parquet cache has to hold.

    Raises:
        ValueError: nothing usable is there; the message names the path and what is accepted.
    """
    root, listing = _look(path)
    kind, names = _choose(path, root, listing, data_format, image_column)
    if data_format == "auto":
        _warn_of_others(path, kind, listing)
    workers = num_workers or min(16, os.cpu_count() or 1)
    if kind == "folder":
        if not captions:
            return FolderSource(root, names)
        return FolderSource(root, *match_captions(root, names, image_column, caption_column))
    files = [os.fsdecode(name) for name in names.to_pylist()]
    if kind == "webdataset":
        return _open_tars(path, root, files, captions, caption_column, cache_dir, workers)
    source = ParquetSource(
        root, files, image_column, caption_column if captions else None, raw_image_size, pool_samples, workers
    )
    if not len(source):
        raise ValueError(f"{path} has no rows: {ACCEPTED}")
    return source


def check_source(
    path: str,
    *,
    data_format: DataFormat = "auto",
    captions: bool = False,
    image_column: str = "image",
    caption_column: str = "caption",
) -> None:
    """Check what names and the first file's header tell of a dataset; no sample is read.

    Raises:
        ValueError: `open_source` with these arguments would fail, or every sample would lack its caption.
    """
    root, listing = _look(path, _CHECKED)
    kind, names = _choose(path, root, listing, data_format, image_column)
    first = os.path.join(root, os.fsdecode(names[0].as_py()))
    if kind == "parquet":
        read_footer(first, image_column, caption_column if captions else None)
    elif kind == "folder" and captions:
        find_caption_file(root)
    elif captions:
        shard = index_shards([first], None, 1)[0]
        if len(shard) and not shard.has_captions:
            raise ValueError(f"{first} has no captions: each image needs a .txt or .json member with its key")


_NOUNS = {"folder": "image", "webdataset": ".tar shard", "parquet": ".parquet file"}


def _look(path: str, limit: int | None = None) -> tuple[str, Listing]:
    """List what a path holds, by format: (root, names relative to it); of a folder about `limit` files."""
    if is_stream(path):
        raise ValueError(f"{path} can only be streamed, not read by index; copy the shards to disk for this use")
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        return path, scan_folder(path, limit)
    if not path:
        raise ValueError(f"the dataset's path is empty; {ACCEPTED}")
    files = [path] if os.path.lexists(path) else expand_pattern(path)
    if len(files) == 1 and os.path.isdir(files[0]):
        return files[0], scan_folder(files[0], limit)
    root = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])
    listing: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for file in files:
        kind = kind_of(file)
        if kind is not None and not os.path.isdir(file):
            listing[kind].append(os.path.relpath(file, root))
    if not any(listing.values()):
        raise ValueError(f"{path} is of no format that can be read{_hint(files[0])}; {ACCEPTED}")
    return root, {kind: pack_names(names) for kind, names in listing.items()}


def _hint(path: str) -> str:
    """Say what to do with a compressed tar, which cannot be read by index."""
    if extension(path) in ("gz", "tgz", "bz2", "xz", "zst"):
        return " by index (it is compressed: unpack it to a plain .tar)"
    return ""


def _choose(
    path: str, root: str, listing: Listing, data_format: DataFormat, image_column: str
) -> tuple[str, pa.LargeBinaryArray]:
    """Choose the format, and give its names, one at least.

    Tar shards come with parquet files of metadata beside them, so they go first.
    """
    if data_format != "auto":
        if not len(listing[data_format]):
            raise ValueError(f"{path} holds no {_NOUNS[data_format]}{_others(listing)}: {ACCEPTED}")
        return data_format, listing[data_format]
    kinds = [kind for kind in ("webdataset", "parquet", "folder") if len(listing[kind])]
    if not kinds:
        raise ValueError(f"{path} holds nothing that can be read; {ACCEPTED}")
    chosen = kinds[0]
    if chosen == "parquet" and len(kinds) > 1:
        first = os.path.join(root, os.fsdecode(listing["parquet"][0].as_py()))
        chosen = "parquet" if _has_column(first, image_column) else "folder"
    return chosen, listing[chosen]


def _warn_of_others(path: str, chosen: str, listing: Listing) -> None:
    others = [f"{len(names)} {_NOUNS[kind]}s" for kind, names in listing.items() if len(names) and kind != chosen]
    if others:
        left = " and ".join(others)
        _log.warning("%s: reading the %ss; %s are left out (data_format chooses)", path, _NOUNS[chosen], left)


def _has_column(path: str, column: str) -> bool:
    try:
        return column in pq.read_schema(path).names
    except (OSError, pa.ArrowException):
        return False


def _others(listing: Listing) -> str:
    there = [f"{len(names)} {_NOUNS[kind]}s" for kind, names in listing.items() if len(names)]
    return f" (there are {' and '.join(there)}: set data_format)" if there else ""


def _open_tars(
    path: str, root: str, shards: list[str], captions: bool, caption_column: str, cache_dir: str | None, workers: int
) -> TarSource:
    indexes = index_shards([os.path.join(root, shard) for shard in shards], cache_dir, workers)
    _warn_of_shards(path, shards, indexes, captions)
    if not sum(map(len, indexes)):
        raise ValueError(f"{path} has no image in its {len(shards)} .tar shards; {ACCEPTED}")
    return TarSource(root, shards, indexes, captions, caption_column)


def _warn_of_shards(path: str, shards: list[str], indexes: list[ShardIndex], captions: bool) -> None:
    damaged = [
        f"{shard} ({index.cut}; {len(index)} samples before it are used)"
        for shard, index in zip(shards, indexes, strict=True)
        if index.cut
    ]
    if damaged:
        more = f" and {len(damaged) - _NAMED} more" if len(damaged) > _NAMED else ""
        named = ", ".join(damaged[:_NAMED]) + more
        _log.warning("%s: %d of %d shards are damaged: %s", path, len(damaged), len(shards), named)
    shared = sum(index.shared_keys for index in indexes)
    if shared:
        _log.warning("%s: %d images share their key (the name up to its first dot) and are left out", path, shared)
    lone = sum(index.lone_captions for index in indexes)
    if lone and captions:
        _log.warning("%s: %d captions in the shards have no image", path, lone)

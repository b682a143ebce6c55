"""Tar shards read in place: an index says where each member lies, and a read is one `pread`."""

from __future__ import annotations

import json
import os
import weakref
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import pyarrow as pa

from vlv.data.damaged_shards import leave_out, report_damaged, some_of
from vlv.data.files import describe_kinds, display_name
from vlv.data.formats import DataFiles, SourceSettings, accepted
from vlv.data.merged_index import ShardIndex
from vlv.data.pairing import CAPTION_JSON, CAPTION_NONE, CAPTION_SEVERAL, CAPTION_TEXT
from vlv.data.remote import RemoteFiles, bare, is_remote, public_name
from vlv.data.sample import BadSample, Caption, RawSample, one_or_several, texts_of
from vlv.data.tar_index import index_shards

_POOL_SHARDS = 64  # a sample is read by offset, so that a pool of many shards costs no more than one of few
_OPEN_FILES = 2 * _POOL_SHARDS  # kept open by each process, which reads of two pools where one ends
_SHORT_GAP = 64 << 10  # bytes between image and caption that one request takes too


class TarSource:
    """Samples of indexed tar shards, read in place."""

    pool_shards = _POOL_SHARDS

    def __init__(self, files: DataFiles, indexes: Sequence[ShardIndex], captions: bool, caption_field: str) -> None:
        """Take the shards and their indexes; `caption_field` is the key in .json captions."""
        shards = [os.fsdecode(name) for name in files.names.to_pylist()]
        self._shards = [os.path.join(files.root, shard) for shard in shards]
        self._shard_names = [public_name(files.root, shard) for shard in shards]
        self._captions, self._caption_field = captions, caption_field
        self._remote = files.remote
        self.shard_sizes = np.array([len(index) for index in indexes], dtype=np.int64)
        self._ends = np.cumsum(self.shard_sizes)
        self._rows = [index.rows for index in indexes]  # mapped files: a copy would be some GB for each process
        self._files = OpenFiles(_OPEN_FILES)

    def __len__(self) -> int:
        """Return the number of samples."""
        return int(self._ends[-1])

    def name(self, index: int) -> str:
        """Return shard/member, as in a/000.tar/000123.jpg."""
        shard, row = self._place(index)
        return f"{self._shard_names[shard]}/{display_name(self._rows[shard]['name'][row].as_py())}"

    def read(self, index: int) -> RawSample:
        """Read the image member and, where wanted, the caption member with the same key."""
        shard, place = self._place(index)
        path, row = self._shards[shard], self._rows[shard].slice(place, 1)
        spans = [_span(row, "image")]
        kind = row["caption_kind"][0].as_py() if self._captions else CAPTION_NONE
        if kind in (CAPTION_TEXT, CAPTION_JSON):
            spans.append(_span(row, "caption"))
        if self._remote is not None and is_remote(path):
            image, *caption = _read_remote(self._remote, path, spans)
        else:
            image, *caption = [self._read_local(path, *span) for span in spans]
        text = caption_text(kind, caption[0] if caption else b"", self._caption_field) if self._captions else None
        return RawSample(image, text)

    def _place(self, index: int) -> tuple[int, int]:
        """A sample's shard and its row there."""
        # Empty shards end where they start: they are skipped.
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, index - int(self._ends[shard] - self.shard_sizes[shard])

    def _read_local(self, path: str, offset: int, size: int) -> bytes:
        try:
            # pread has no position, so threads of one process can share the descriptor.
            data = os.pread(self._files.descriptor(path), size, offset)
        except OSError as error:
            raise BadSample(f"the shard cannot be read: {error.strerror}") from None
        if len(data) < size:
            raise BadSample("the shard is shorter than its index says: it was cut or replaced")
        return data


def _span(row: pa.RecordBatch, part: str) -> tuple[int, int]:
    """Offset and size of a member."""
    return row[f"{part}_offset"][0].as_py(), row[f"{part}_size"][0].as_py()


def _read_remote(remote: RemoteFiles, url: str, spans: list[tuple[int, int]]) -> list[bytes]:
    """Read members, in one request where little lies between them."""
    start, end = min(offset for offset, _ in spans), max(offset + size for offset, size in spans)
    if end - start > sum(size for _, size in spans) + _SHORT_GAP:
        return [remote.read(url, *span) for span in spans]
    data = remote.read(url, start, end - start)
    return [data[offset - start : offset - start + size] for offset, size in spans]


def caption_text(kind: int, data: bytes, field: str) -> Caption:
    """Return the caption in a .txt or .json member.

    Raises:
        BadSample: there is none, or two that may be meant, or it is damaged.
    """
    if kind == CAPTION_NONE:
        raise BadSample("no .txt or .json caption has the image's key")
    if kind == CAPTION_SEVERAL:
        raise BadSample("several captions have the image's key")
    try:
        text = data.decode("utf-8-sig")
        return caption_field(json.loads(text), field) if kind == CAPTION_JSON else text.strip()
    except UnicodeDecodeError:
        raise BadSample("the caption is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise BadSample(f"the .json caption is damaged: {error}") from None


def caption_field(record: object, field: str) -> Caption:
    """Return the caption in a decoded .json member: its `field`, or the whole; a text, or a list of them.

    Raises:
        BadSample: no text is there.
    """
    texts = texts_of(record.get(field) if isinstance(record, dict) else record)
    if not texts:
        raise BadSample(f"the .json caption has no text under {field!r}")
    return one_or_several(texts)


class _OpenFilesState(TypedDict):
    limit: int


class OpenFiles:
    """File descriptors kept open, the most recent `limit`; each process has its own."""

    def __init__(self, limit: int) -> None:
        """Keep at most `limit` files open."""
        self._limit = limit
        self._process = os.getpid()
        self._descriptors: OrderedDict[str, int] = OrderedDict()
        weakref.finalize(self, _close_all, self._descriptors)  # at exit too, before the interpreter takes itself apart

    def descriptor(self, path: str) -> int:
        """Return an open descriptor of `path`; raises OSError where it cannot be opened."""
        if self._process != os.getpid():
            self._process = os.getpid()
            _close_all(self._descriptors)  # a forked worker's copies; the parent's stay open
        if path not in self._descriptors:
            while len(self._descriptors) >= self._limit:
                os.close(self._descriptors.popitem(last=False)[1])
            self._descriptors[path] = os.open(path, os.O_RDONLY)
        self._descriptors.move_to_end(path)
        return self._descriptors[path]

    def __getstate__(self) -> _OpenFilesState:
        return {"limit": self._limit}

    def __setstate__(self, state: _OpenFilesState) -> None:
        self.__init__(state["limit"])


def _close_all(descriptors: OrderedDict[str, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])


def open_files(files: DataFiles, settings: SourceSettings) -> TarSource:
    """Open the shards, with an index of each that is built once and cached.

    Raises:
        ValueError: no shard holds an image, or too many are damaged.
    """
    names = [os.fsdecode(name) for name in files.names.to_pylist()]
    workers = settings.num_workers or min(16, os.cpu_count() or 1)
    paths = [os.path.join(files.root, name) for name in names]
    indexes = index_shards(paths, settings.cache_dir, workers, files.remote)
    shards = [public_name(files.root, name) for name in names]
    damaged = [
        f"{shard} ({index.cut}; {len(index)} samples before it are used)"
        for shard, index in zip(shards, indexes, strict=True)
        if index.cut
    ]
    if not sum(map(len, indexes)):
        why = f": {some_of(damaged)}" if damaged else ""
        raise ValueError(f"{files.path} has no image in its {len(shards)} .tar shards{why}; {accepted()}")
    report_damaged(files.path, damaged, len(shards), settings.max_bad_share)
    _report_members(files.path, shards, indexes, settings)
    return TarSource(files, indexes, settings.captions, settings.caption_column)


def check_files(files: DataFiles, settings: SourceSettings) -> None:
    """Check that the first shard has captions, where they are wanted, and that a remote one can be read by ranges.

    Raises:
        ValueError: it has none, or cannot.
    """
    first = os.path.join(files.root, os.fsdecode(files.names[0].as_py()))
    if files.remote is not None and is_remote(first):
        files.remote.require_ranges(first)
    if not settings.captions:
        return
    index = index_shards([first], settings.cache_dir, 1, files.remote)[0]
    if len(index) and not index.has_captions:
        raise ValueError(f"{bare(first)} has no captions: each image needs a .txt or .json member with its key")


def has_images(files: DataFiles, settings: SourceSettings) -> bool:
    """Shards are the data wherever there are any: what lies beside them is their metadata."""
    return True


def _report_members(path: str, shards: list[str], indexes: list[ShardIndex], settings: SourceSettings) -> None:
    left_out = [f"{shard}/{name}" for shard, index in zip(shards, indexes, strict=True) for name in index.left_out]
    if left_out:
        what = f"{len(left_out)} images are left out, as another image has their key"
        leave_out(f"{path}: {what}: {some_of(left_out)}", settings.max_bad_share)
    others = sum((Counter(index.others) for index in indexes), Counter())
    if others:
        kinds = describe_kinds(others)
        leave_out(f"{path}: left out of the shards, as their kinds cannot be read: {kinds}", settings.max_bad_share)
    lone = sum(index.lone_captions for index in indexes)
    if lone and settings.captions:
        leave_out(f"{path}: {lone} captions in the shards have no image", settings.max_bad_share)

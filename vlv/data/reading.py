"""Reading samples by index from a folder of images and from tar shards."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from vlv.data.files import display_name, pack_names, split_evenly
from vlv.data.parquet import ParquetSource
from vlv.data.sample import BadSample, RawSample
from vlv.data.tar_index import CAPTION_JSON, CAPTION_NONE, ShardIndex

__all__ = ["FolderSource", "ParquetSource", "TarSource"]
_FOLDER_SHARD = 1_000_000
_OPEN_FILES = 64


class FolderSource:
    """Image files under a folder, with captions where given."""

    def __init__(
        self, root: str, names: Sequence[str] | pa.LargeBinaryArray, captions: pa.LargeStringArray | None = None
    ) -> None:
        """Take names relative to `root`, and one caption for each or none at all."""
        self._root = os.fsencode(root)
        self._names: Any = names if isinstance(names, pa.Array) else pack_names(names)
        self._captions = captions
        self.shard_sizes = split_evenly(len(self._names), _FOLDER_SHARD)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._names)

    def name(self, index: int) -> str:
        """Return the file's name relative to the folder."""
        return display_name(self._names[index].as_py())

    def read(self, index: int) -> RawSample:
        """Read the file's bytes and its caption; an unreadable file is a BadSample."""
        path = os.path.join(self._root, self._names[index].as_py())
        caption = None if self._captions is None else self._captions[index].as_py()
        try:
            with open(path, "rb") as file:
                return RawSample(file.read(), caption)
        except OSError as error:
            raise BadSample(f"the file cannot be read: {error.strerror}") from None


class TarSource:
    """Samples of indexed tar shards, read in place."""

    def __init__(
        self, root: str, shards: Sequence[str], indexes: Sequence[ShardIndex], captions: bool, caption_field: str
    ) -> None:
        """Take shard paths relative to `root` and their indexes; `caption_field` is the key in .json captions."""
        self._shards = [os.path.join(root, shard) for shard in shards]
        self._shard_names = list(shards)
        self._captions, self._caption_field = captions, caption_field
        self.shard_sizes = np.array([len(index) for index in indexes], dtype=np.int64)
        self._ends = np.cumsum(self.shard_sizes)
        table = pa.concat_tables([index.table for index in indexes]).combine_chunks()
        self._names = table["name"].combine_chunks()
        self._spans = {key: table[key].to_numpy() for key in table.column_names if key != "name"}
        self._files = OpenFiles(_OPEN_FILES)

    def __len__(self) -> int:
        """Return the number of samples."""
        return int(self._ends[-1])

    def name(self, index: int) -> str:
        """Return shard/member, as in a/000.tar/000123.jpg."""
        return f"{self._shard_names[self._shard(index)]}/{display_name(self._names[index].as_py())}"

    def read(self, index: int) -> RawSample:
        """Read the image member and, where wanted, the caption member with the same key."""
        path = self._shards[self._shard(index)]
        image = self._member(path, index, "image")
        return RawSample(image, self._caption(path, index) if self._captions else None)

    def _shard(self, index: int) -> int:
        return int(np.searchsorted(self._ends, index, side="right"))

    def _member(self, path: str, index: int, part: str) -> bytes:
        size, offset = int(self._spans[f"{part}_size"][index]), int(self._spans[f"{part}_offset"][index])
        try:
            data = os.pread(self._files.descriptor(path), size, offset)
        except OSError as error:
            raise BadSample(f"the shard cannot be read: {error.strerror}") from None
        if len(data) < size:
            raise BadSample("the shard is shorter than its index says: it was cut or replaced")
        return data

    def _caption(self, path: str, index: int) -> str:
        kind = self._spans["caption_kind"][index]
        if kind == CAPTION_NONE:
            raise BadSample("no .txt or .json caption has the image's key")
        data = self._member(path, index, "caption")
        try:
            text = data.decode("utf-8-sig")
            return caption_field(json.loads(text), self._caption_field) if kind == CAPTION_JSON else text.strip()
        except UnicodeDecodeError:
            raise BadSample("the caption is not UTF-8") from None
        except json.JSONDecodeError as error:
            raise BadSample(f"the .json caption is damaged: {error}") from None


def caption_field(record: Any, field: str) -> str:
    """Return the caption in a decoded .json member: its `field`, or the whole where that is a text.

    Raises:
        BadSample: no text is there.
    """
    value = record.get(field) if isinstance(record, dict) else record
    if not isinstance(value, str):
        raise BadSample(f"the .json caption has no text under {field!r}")
    return value


class OpenFiles:
    """File descriptors kept open, the most recent `limit`; each process has its own."""

    def __init__(self, limit: int) -> None:
        """Keep at most `limit` files open."""
        self._limit = limit
        self._process = os.getpid()
        self._descriptors: OrderedDict[str, int] = OrderedDict()

    def descriptor(self, path: str) -> int:
        """Return an open descriptor of `path`; raises OSError where it cannot be opened."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self.close()  # a forked worker's copies; the parent's stay open
        if path not in self._descriptors:
            while len(self._descriptors) >= self._limit:
                os.close(self._descriptors.popitem(last=False)[1])
            self._descriptors[path] = os.open(path, os.O_RDONLY)
        self._descriptors.move_to_end(path)
        return self._descriptors[path]

    def close(self) -> None:
        """Close every file."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __getstate__(self) -> dict[str, Any]:
        return {"_limit": self._limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_limit"])

    def __del__(self) -> None:
        self.close()

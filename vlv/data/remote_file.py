"""A remote file as libraries take it, which read and seek; and the blocks in which a tar's headers are read."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

from vlv.data.remote import RemoteFiles

_SMALLEST = 8 << 10  # bytes: the header of a large member, and the small ones around it, as captions are
_LARGEST = 1 << 20
# Members up to here are read through in ever larger blocks: a request takes about as long as this much of a download.
_SHORT_GAP = 64 << 10


class RemoteFile(io.RawIOBase):
    """A file that reads by `read(start, size)`, each time it is asked."""

    def __init__(self, size: int, read: Callable[[int, int], bytes]) -> None:
        """Take the file's size in bytes."""
        super().__init__()
        self._size, self._read, self._position = size, read, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move, without a request."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to `size` bytes; raises RemoteError where they cannot be had."""
        left = max(0, self._size - self._position)
        size = left if size is None or size < 0 else min(size, left)
        data = self._read(self._position, size) if size else b""
        self._position += len(data)
        return data

    def readinto(self, buffer: memoryview | bytearray, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Fill a buffer; for wrappers such as io.BufferedReader."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def open_remote(files: RemoteFiles, url: str) -> RemoteFile:
    """Open a file for reading by ranges, through the cache.

    Raises:
        RemoteError: it is not there, or the server gives no ranges.
    """
    files.require_ranges(url)
    return RemoteFile(files.facts(url).size, partial(files.read, url))


def open_headers(files: RemoteFiles, url: str) -> RemoteFile:
    """Open a tar whose headers alone are wanted; raises RemoteError as `open_remote` does."""
    files.require_ranges(url)
    size = files.facts(url).size
    return RemoteFile(size, _Blocks(partial(files.read, url, keep=False), size).read)


class _Blocks:
    """Reads in one block, whose size follows the distance between what is asked for."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._fetch, self._size = read, size
        self._start, self._block, self._length = 0, b"", _SMALLEST

    def read(self, start: int, size: int) -> bytes:
        end = self._start + len(self._block)
        if not self._start <= start <= start + size <= end:
            follows = self._block and self._start <= start <= end + _SHORT_GAP
            self._length = min(2 * self._length, _LARGEST) if follows else _SMALLEST
            self._start = start
            self._block = self._fetch(start, min(max(size, self._length), self._size - start))
        offset = start - self._start
        return self._block[offset : offset + size]

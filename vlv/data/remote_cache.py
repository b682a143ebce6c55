"""What was read of remote files, on this machine's disk, up to a number of bytes: one small file for each range.

The unit is what a reader asks for, a member of a tar, a column chunk of a row group or an image: samples are read in a
random order, so that blocks of a fixed size would mostly hold what nobody asks for soon. fsspec's own caches
(`blockcache`, `filecache`, `simplecache`) have no limit of size, and the first two rewrite one list of all files from
each process without a lock.
"""

from __future__ import annotations

import fcntl
import logging
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vlv.atomic import whole_file

_BLOCK = 4096  # bytes in which a disk gives room
_CHECKSUM = 4  # bytes before the content: what a power loss has left is not taken for it
_KEPT_SHARE = 0.9  # of the limit, after the oldest went: each trim looks at every file
_LARGEST_SHARE = 0.25  # of the limit, that one range may take
_log = logging.getLogger(__name__)


class RemoteCache:
    """Bytes by key, for all processes of a user on this machine; the least recently read go first."""

    def __init__(self, folder: Path, limit: int) -> None:
        """Keep at most `limit` bytes under `folder`, which is made at the first write."""
        self._folder, self._limit = folder, limit
        self._failed = False

    def get(self, key: str, fetch: Callable[[], bytes]) -> bytes:
        """Return the bytes of a key, a hexadecimal digest, from the disk or from `fetch`, whose errors pass through.

        Two processes that miss the same key at once both fetch it.
        """
        path = self._folder / key[:2] / key
        content = _read(path)
        if content is None:
            content = fetch()
            if not self._failed and len(content) <= _LARGEST_SHARE * self._limit:
                self._keep(path, content)
        return content

    def _keep(self, path: Path, content: bytes) -> None:
        size = _room(_CHECKSUM + len(content))
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked() as counter:
                held = _number(os.pread(counter, 32, 0)) + size
                if held > self._limit:
                    held = self._trim(int(_KEPT_SHARE * self._limit) - size) + size
                # Counted before it is there: a process killed in between leaves a count too high, until the next trim.
                os.pwrite(counter, b"%-32d" % held, 0)
                with whole_file(path, durable=False) as temporary, temporary.open("wb") as file:
                    file.write(zlib.crc32(content).to_bytes(_CHECKSUM, "big"))
                    file.write(content)
        except OSError as error:  # costs the next reader a request, and nothing else
            self._failed = True
            _log.warning("%s cannot keep what is read of remote data: %s", self._folder, error.strerror)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file with the bytes that are held; one process at a time."""
        counter = os.open(self._folder / "held", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(counter, fcntl.LOCK_EX)  # freed when it is closed, or its process dies
            yield counter
        finally:
            os.close(counter)

    def _trim(self, limit: int) -> int:
        """Remove the least recently read files beyond `limit` bytes; returns the bytes that are left."""
        files: list[tuple[int, int, str]] = []
        for folder in self._folder.glob("[0-9a-f][0-9a-f]"):
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):  # nobody else writes now: a killed process left it
                        os.unlink(entry.path)
                    else:
                        status = entry.stat()
                        files.append((status.st_mtime_ns, _room(status.st_size), entry.path))
        held = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if held <= limit:
                break
            os.unlink(path)
            held -= size
        return held


def _read(path: Path) -> bytes | None:
    try:
        stored = path.read_bytes()
        os.utime(path)  # when it was read last: disks are often mounted without times of reading
    except OSError:
        return None
    content = stored[_CHECKSUM:]
    return content if zlib.crc32(content).to_bytes(_CHECKSUM, "big") == stored[:_CHECKSUM] else None


def _room(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _number(text: bytes) -> int:
    return int(text) if text.strip().isdigit() else 0

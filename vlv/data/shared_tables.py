"""Decoded tables that the processes of a machine share: the first that wants one decodes it, the others map its file.

A pool of the order mixes its row groups, and batches go to workers in turn, so that each of W workers in each of R
processes would decode every group. Handing rows to workers by group instead would leave workers idle where a pool has
few groups. Shared, a group is decoded once, and its memory is the page cache's, once for all of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pyarrow as pa

from vlv.atomic import whole_file

_USED = "used"  # a file that who uses the folder holds a lock on, which the system frees however a process ends


class SharedTables:
    """Arrow files in a folder under $TMPDIR, up to a number of bytes.

    It goes when the process ends; after a kill, when another one makes its own.
    """

    def __init__(self, name: str, limit: int) -> None:
        """Share tables with the processes that have this one's parent (the launcher) and give the same name.

        Args:
            name: of what is shared; another name, other tables.
            limit: bytes of the folder, from which the oldest tables go.
        """
        digest = hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:16]
        self._folder = Path(tempfile.gettempdir()) / f"vlv-{os.getuid()}-{os.getppid()}-{digest}"
        self._limit = limit
        self._use: IO[str] | None = None  # locked as long as this process or a fork of it lives
        # Another process may still use the folder: what it has mapped stays, and it makes the folder anew.
        weakref.finalize(self, _remove, self._folder, os.getpid())

    def get(self, key: str, decode: Callable[[], pa.Table]) -> pa.Table:
        """Return the table of a key, from its file or from `decode`, whose errors pass through."""
        path = self._folder / f"{key}.arrow"
        table = _map(path)
        if table is not None:
            return table
        try:
            self._enter()
            lock = (self._folder / f"{key}.lock").open("w")
        except OSError:  # no room for a file: each process has its own copy in memory
            return decode()
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # freed when the file is closed, or its process dies
            table = _map(path)  # another process may have decoded it meanwhile
            if table is not None:
                return table
            decoded = decode()
            try:
                with (
                    whole_file(path, durable=False) as temporary,
                    pa.ipc.new_file(str(temporary), decoded.schema) as writer,
                ):
                    writer.write_table(decoded)
                self._trim(path)
            except OSError:
                return decoded
        return _map(path) or decoded

    def _enter(self) -> None:
        """Make the folder, where it is not there (any more), and mark it as used."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        used = self._folder / _USED
        if self._use is None or not used.exists():
            self._use = used.open("w")
            fcntl.flock(self._use, fcntl.LOCK_SH)
            _remove_abandoned(self._folder.parent)

    def _trim(self, newest: Path) -> None:
        files = [(path.stat().st_mtime_ns, path.stat().st_size, path) for path in self._folder.glob("*.arrow")]
        held = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if held <= self._limit or path == newest:
                break
            path.unlink(missing_ok=True)  # whoever has it mapped keeps it
            held -= size


def _map(path: Path) -> pa.Table | None:
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (OSError, pa.ArrowException):
        return None


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of processes that were killed."""
    for used in parent.glob(f"vlv-{os.getuid()}-*/{_USED}"):
        try:
            with used.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(used.parent, ignore_errors=True)
        except OSError:  # used, or just removed by another
            continue


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a forked worker's copy of the owner is not the owner
        shutil.rmtree(folder, ignore_errors=True)

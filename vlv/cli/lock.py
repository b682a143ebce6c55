"""One run at a time writes into a place: a lock file that names who holds it, and goes with its holder.

The launcher holds it, not a worker: it lives as long as they do, there is one of it, and it has forked nothing.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vlv.atomic import beside
from vlv.config import CaptionConfig, ConfigError, LaunchConfig

# What `lockf` says where a file system keeps no locks (some mounts of NFS and Lustre).
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def output_locks(
    config: LaunchConfig,
) -> Iterator[None]:
    """Hold every place that a call writes into while the block runs.

    Raises:
        ConfigError: another run holds one of them; names its host and process.
    """
    with ExitStack() as held:
        for option, path in _places(config):
            held.enter_context(place_lock(option, path))
        yield


def _places(
    config: LaunchConfig,
) -> Iterator[tuple[str, Path]]:
    if not isinstance(config, CaptionConfig):
        yield f"output_dir={config.output_dir}", Path(config.output_dir) / ".lock"
        return
    output = config.output
    # Jobs that share the images run side by side; the same job twice would caption its share twice.
    own = "" if config.share is None else f".part{config.share[0]}"
    yield f"output_path={output}", beside(output, f".{output.name}{own}.lock")
    if config.preview_dir:
        yield f"preview_dir={config.preview_dir}", Path(config.preview_dir) / ".lock"


@contextmanager
def place_lock(place: str, path: Path) -> Iterator[None]:
    """Hold one place while the block runs; its folder is made.

    Args:
        place: what a message calls it, as `output_dir=...`.
        path: the lock file.

    Raises:
        ConfigError: another process holds it, with its host and process; or its folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _taken(place, path)
    except OSError as error:
        raise ConfigError(f"{place} cannot be written: {error.strerror} in {path.parent}; give another place") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the lock goes: after it, the file may be another run's
        os.close(file)


def _taken(place: str, path: Path) -> int:
    """The open lock file, locked for this process and with its name in it.

    Not filelock's FileLock: it empties the file, which names the holder, before it knows whether it may have it. The
    kernel drops a lock with its process, however that ends, so what a killed run left is no lock.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(file, 1000, 0)
            if error.errno not in _NO_LOCKS:
                os.close(file)
                raise ConfigError(f"{place} is in use by {_name(holder)}: wait for it, or give another place") from None
            print(f"{place}: no locks on this file system; nothing keeps a second run out", file=sys.stderr)
        if _is_at(file, path):
            break
        os.close(file)  # its holder has ended and removed it meanwhile
    os.ftruncate(file, 0)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    os.pwrite(file, json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since}).encode(), 0)
    return file


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _name(content: bytes) -> str:
    """The holder as a message names it; its file may be empty for an instant."""
    try:
        holder = json.loads(content)
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, LookupError, TypeError):
        return "another run"

"""Files and folders that appear under their name only when all of their content is written.

Every writer of the project that must never leave a half-written result goes through `_publish`: a temporary place
beside the final one, on the same file system, brought to the disk, then one rename. Standard library alone, so that
each part may use it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_WRITING = ".writing-"  # what a folder's name begins with until it is whole
_TEMPORARY = re.compile(r"\.[0-9a-f]{40}\.tmp")  # a file's name until then


@contextmanager
def whole_file(path: Path, durable: bool = True) -> Iterator[Path]:
    """A file to write, beside the final one, which it replaces when the block ends without an error.

    Several processes may write the same file at once: the last one to end wins, and none sees a mixture. A link
    stays one: what it leads to is replaced. Not durable is what a power loss may take: it does not wait for the disk.

    Raises:
        ValueError: there is something else than a file, which would be lost: a device, a pipe, a folder.
    """
    path = path.resolve()
    _require_replaceable(path, stat.S_ISREG, "a regular file")
    # Not made of the name, which may be as long as the file system takes.
    temporary = path.with_name(f".{_digest(path)}{uuid.uuid4().hex}.tmp")
    try:
        # Made here, so that its mode is the umask's: what a library makes has a mode of its own.
        temporary.touch()
        mode = temporary.stat().st_mode & 0o666
        yield temporary
        temporary.chmod(mode)  # safetensors and tempfile make files for their owner alone
        _publish(temporary, path, durable)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """A folder to write into, beside the final one, which it replaces when the block ends without an error.

    Raises:
        ValueError: there is something else than a folder.
    """
    temporary = start_folder(final)
    try:
        yield temporary
        finish_folder(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def start_folder(final: Path) -> Path:
    """Make the empty temporary folder of `final`; what a killed run left in it is removed.

    Raises:
        ValueError: `final` is there and is no folder.
    """
    _require_replaceable(final, stat.S_ISDIR, "a folder")
    temporary = temporary_folder(final)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def temporary_folder(final: Path) -> Path:
    """Where `final` is written until it is whole: the same place on every process, as several may write into it."""
    final = final.resolve()
    return final.with_name(f"{_WRITING}{final.name}")


def beside(output: Path, name: str) -> Path:
    """Where a file lies that belongs to an output: beside it.

    Inside, where the output is a folder whose own folder cannot be written, as a mounted volume is.
    """
    inside = output.is_dir() and not os.access(output.parent, os.W_OK)
    return (output if inside else output.parent) / name


def require_new(folder: Path) -> None:
    """Check that a folder is not there yet, or empty: what is written as a whole replaces what was there.

    Raises:
        ValueError: it holds something, or is a file.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} is there already: name a new folder, or remove it first")


def remove_leftovers(place: Path, recursive: bool = False) -> None:
    """Remove what killed writers left half written: of a file, or of everything in a folder.

    Only who keeps others from writing there calls it: their temporary files are no leftovers yet.

    Args:
        recursive: in the folder's own folders too.
    """
    place = place.resolve()
    if not place.is_dir():
        for path in place.parent.glob(f".{_digest(place)}*.tmp"):
            path.unlink(missing_ok=True)
        return
    for folder, folders, files in os.walk(place):
        for path in (Path(folder, name) for name in files if _TEMPORARY.fullmatch(name)):
            path.unlink(missing_ok=True)
        for path in (Path(folder, name) for name in folders if name.startswith(_WRITING)):
            shutil.rmtree(path, ignore_errors=True)
        if not recursive:
            return


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]


def finish_folder(final: Path) -> None:
    """Replace `final` by its temporary folder."""
    temporary = temporary_folder(final)
    # A new folder's mode tells the umask without setting it, which other threads would see.
    mode = temporary.stat().st_mode & 0o666
    for path in temporary.rglob("*"):
        if path.is_file():
            path.chmod(mode)  # safetensors makes files for their owner alone, and clusters share folders
    _publish(temporary, final.resolve(), durable=True)


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed for want of space: a full disk, a quota, a limit on a file's size."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(error, OSError):
        return error.errno in codes
    # safetensors has an error of its own, with the system's in its text.
    return any(f"code: {code}," in str(error) for code in codes)


def _require_replaceable(path: Path, fits: Callable[[int], bool], kind: str) -> None:
    try:
        mode = path.stat().st_mode  # one look: another process may put the file there, or take it away, between two
    except (FileNotFoundError, NotADirectoryError):
        return
    if not fits(mode):
        raise ValueError(f"{path} is there and is not {kind}, so it is not replaced: give another path")


def _publish(temporary: Path, final: Path, durable: bool) -> None:
    """Rename: the one step that makes content visible.

    Durable content and its names are on disk before it: a power loss may leave a new name with nothing behind it.
    """
    if durable:
        for path in (*temporary.rglob("*"), temporary):
            _to_disk(path)
    if final.is_dir():  # a rename replaces none but an empty one
        shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    if durable:
        _to_disk(final.parent)


def _to_disk(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        # Some network file systems cannot do it for a folder; for a file that is a failed write.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(file)

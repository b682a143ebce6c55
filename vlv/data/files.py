"""What lies under a path: folders, globs and brace patterns become sorted lists of names.

Names are kept as the file system's bytes in Arrow arrays: millions take megabytes, and forked workers
share them. Hidden files and folders (.cache, ._copy.jpg) are not data and are left out.
"""

from __future__ import annotations

import glob
import heapq
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from braceexpand import braceexpand

from vlv.data.formats import DESCRIPTIONS, FORMATS, IMAGE_EXTENSIONS, accepted
from vlv.data.remote import is_remote
from vlv.redaction import redact

if TYPE_CHECKING:
    from vlv.data.remote import RemoteFiles

HUB_STREAM = "hub-stream:"
_CHUNK = 100_000
_MAGIC = re.compile(r"[*?\[{]")
_SPECIAL = re.compile(r"[*?\[{,]")


def extension(name: str) -> str:
    """Return the last extension in lower case, without its dot."""
    return os.path.splitext(name)[1][1:].lower()


def kind_of(name: str) -> str | None:
    """Return the format that a file's extension stands for, as folder for an image; None for other files."""
    ending = extension(name)
    return next((kind for kind, entry in FORMATS.items() if ending in entry.extensions), None)


class Listing(NamedTuple):
    """What a path holds."""

    files: dict[str, pa.LargeBinaryArray]  # by format, names relative to the root, sorted
    others: Counter[str]  # how many there are of each kind of file that cannot be read, as ".heic"; no descriptions
    remote: RemoteFiles | None = None  # reads those of the files that are URLs


def describe_kinds(counts: Mapping[str, int]) -> str:
    """Name kinds with their counts, the most frequent first: "3 .heic, 1 without an extension"."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {kind}" for kind, count in ranked)


def unread_kind(name: str) -> str | None:
    """The kind of a file that no format reads, for messages: its extension; None for what only describes data."""
    stem, ending = os.path.splitext(name)
    if extension(name) in DESCRIPTIONS:
        return None
    if stem.lower().endswith(".tar"):
        ending = f".tar{ending}"
    return ending.lower() or "without an extension"


def display_name(name: bytes) -> str:
    """Turn a file name into text that can always be written as UTF-8."""
    return name.decode("utf-8", "backslashreplace")


def pack_names(names: Sequence[str]) -> pa.LargeBinaryArray:
    """Pack names, as `os` gives them, into one array."""
    return pa.array([os.fsencode(name) for name in names], type=pa.large_binary())


def scan_folder(root: str, limit: int | None = None) -> Listing:
    """List a folder recursively.

    With a limit no further folder is entered once so many files are found.

    Links to folders are followed, and each folder is read once, however many links lead to it: under its own name
    where that lies below `root`, else under the first link's. A link to nothing, or to itself, counts as a file, so
    that it is reported as unreadable instead of vanishing.

    Raises:
        ValueError: a folder cannot be listed.
    """
    fresh: dict[str, list[str]] = {kind: [] for kind in FORMATS}
    packed: dict[str, list[pa.Array]] = {kind: [] for kind in FORMATS}
    others: Counter[str] = Counter()
    folders, links, seen, count = [""], list[str](), set[tuple[int, int]](), 0
    while (folders or links) and (limit is None or count < limit):
        folder = folders.pop() if folders else heapq.heappop(links)  # a link only when no other folder is left
        path = os.path.join(root, folder) if folder else root
        identity = _identity(path)
        if identity in seen:
            continue
        seen.add(identity)
        below, linked, names = _list_folder(path)
        folders.extend(os.path.join(folder, name) for name in below)
        for name in linked:  # by name: of several links to one folder the same counts, however the disk lists them
            heapq.heappush(links, os.path.join(folder, name))
        for name in names:
            kind = kind_of(name)
            if kind is not None:
                fresh[kind].append(os.path.join(folder, name))
                count += 1
            elif (other := unread_kind(name)) is not None:
                others[other] += 1
        for kind, found in fresh.items():
            if len(found) > _CHUNK:  # Python strings take five times the bytes of their Arrow array
                packed[kind].append(pack_names(found))
                fresh[kind] = []
    files = {kind: _sorted([*chunks, pack_names(fresh[kind])]) for kind, chunks in packed.items()}
    return Listing(files, others)


def expand_pattern(path: str) -> list[str]:
    """Expand commas, {000..010}, {a,b}, and the glob characters * ? [ ] ** into paths; globs come sorted.

    Raises:
        ValueError: a part names nothing that exists.
    """
    found: list[str] = []
    for part in _expand(path):
        matches = (
            sorted(glob.glob(part, recursive=True)) if glob.has_magic(part) and not os.path.exists(part) else [part]
        )
        missing = [match for match in matches if not os.path.lexists(match)] if matches else [part]
        if missing:
            raise ValueError(f"{path} {_absence(path, missing[0])}; {accepted()}")
        found.extend(matches)
    return list(dict.fromkeys(found))


def expand_braces(text: str) -> list[str]:
    """Expand {a,b}, {000..010} and commas outside of braces: "x-{0..1}.tar" -> ["x-0.tar", "x-1.tar"].

    Raises:
        ValueError: a brace without its other half.
    """
    try:
        # The whole in one more pair of braces: commas outside of braces are alternatives like those inside. The comma
        # at its end makes it a list whatever the text is.
        parts = [part.strip() for part in braceexpand(f"{{{text},}}", escape=False)]
    except ValueError:  # its UnbalancedBracesError, which it does not export by type
        raise ValueError(f"{text} has a brace without its other half: patterns are {{000..010}} and {{a,b}}") from None
    return [part for part in parts if part]


def find_images(path: str) -> tuple[str, list[str]]:
    """Find the images of a file, a folder (recursive) or a glob.

    Returns:
        (root, names): names are relative to `root`, sorted. `FolderSource(root, names)` reads them.

    Raises:
        ValueError: nothing is there, or nothing of it is an image.
    """
    if is_remote(path):
        raise ValueError(f"{redact(path)} is a URL, from which training reads but not this command: copy the images")
    path = os.path.expanduser(path)
    wanted = "give an image, a folder of images or a glob; images are " + " ".join(
        f".{ending}" for ending in sorted(IMAGE_EXTENSIONS)
    )
    if os.path.isdir(path):
        names = scan_folder(path).files["folder"]
        if not len(names):
            raise ValueError(f"{path} holds no image: {wanted}")
        return path, [os.fsdecode(name) for name in names.to_pylist()]
    if os.path.lexists(path):
        return image_root(path), [os.path.basename(path)]
    if not _MAGIC.search(path):
        raise ValueError(f"{path} does not exist: {wanted}")
    files = [name for part in _expand(path) for name in glob.glob(part, recursive=True)]
    root = image_root(path)
    images = [os.path.relpath(name, root) for name in files if kind_of(name) == "folder" and not os.path.isdir(name)]
    if not images:
        raise ValueError(f"{path} matches no image: {wanted}")
    return root, sorted(set(images), key=os.fsencode)


def image_root(path: str) -> str:
    """The folder that the names of a local file's, folder's or glob's images are relative to."""
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        return path
    return (os.path.dirname(path) if os.path.lexists(path) else literal_folder(path)) or "."


def holds_images(path: str) -> bool:
    """Whether a path is a local image, or a folder or glob with some; they are what is read of it then."""
    try:
        names = find_images(path)[1]
    except ValueError:
        return False
    # A path to a single file is taken whatever it is; folders and globs have been searched for images.
    return len(names) > 1 or kind_of(names[0]) == "folder"


def literal_folder(pattern: str) -> str:
    """Return the longest leading part of a pattern that is a folder just as it is written; "" where none is."""
    folder = pattern
    while folder and not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


def _expand(pattern: str) -> list[str]:
    """Expand braces and commas, but not those in the name of a folder that is there: its characters are its own."""
    folder = literal_folder(pattern)
    if not _SPECIAL.search(folder):
        return expand_braces(pattern)
    rest = os.path.relpath(pattern, folder)
    return [os.path.join(glob.escape(folder), part) for part in expand_braces(rest)]


def _absence(path: str, missing: str) -> str:
    return "does not exist" if missing == path else f"names {missing}, which does not exist"


def _list_folder(folder: str) -> tuple[list[str], list[str], list[str]]:
    """The names of a folder's folders, its links to folders, and its files."""
    folders, links, files = [], [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                # From the directory entry where the file system gives it: no stat for each of millions.
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                elif entry.is_symlink():
                    (links if os.path.isdir(entry) else files).append(entry.name)
                elif entry.is_file():
                    files.append(entry.name)
    except OSError as error:
        raise ValueError(f"{folder} cannot be listed: {error.strerror}") from None
    return folders, links, files


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder or ".")
    return status.st_dev, status.st_ino


def _sorted(chunks: list[pa.Array]) -> pa.LargeBinaryArray:
    names = pa.concat_arrays(chunks)
    return names.sort()


def split_evenly(total: int, largest: int) -> np.ndarray:
    """Split `total` samples into the fewest shards of at most `largest`: int64 [shards]."""
    shards = max(1, -(-total // largest))
    return np.diff(np.linspace(0, total, shards + 1).astype(np.int64))


def is_stream(path: str) -> bool:
    """Whether a path names what is read from start to end: a command, a URL after `stream:`, or a streamed dataset."""
    return path.lstrip().startswith(("pipe:", "stream:", HUB_STREAM))

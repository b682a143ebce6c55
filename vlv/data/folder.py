"""A folder of images, with captions of any kind of `vlv.data.folder_captions` where samples are pairs."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from vlv.data.files import display_name, pack_names, split_evenly
from vlv.data.folder_captions import FolderCaptions, match_captions, require_captions
from vlv.data.formats import DataFiles, SourceSettings
from vlv.data.remote import MissingFileError, RemoteFiles, bare, is_remote, public_name
from vlv.data.sample import BadSample, RawSample

# A file is read for itself, so a folder needs no shards for the sake of reading; they bound the memory of the order,
# which permutes whole shards and holds one pool of them.
_SHARD_SAMPLES = 1_000_000


class FolderSource:
    """Image files under a folder, with captions where given."""

    pool_shards = 1  # its shards bound the order's memory, no more

    def __init__(
        self,
        root: str,
        names: Sequence[str] | pa.LargeBinaryArray,
        captions: FolderCaptions | None = None,
        remote: RemoteFiles | None = None,
    ) -> None:
        """Take names relative to `root`, and captions for each, as `match_captions` gives them, or none at all.

        `remote` reads those that are URLs.
        """
        # Bytes all through: a name need not be UTF-8, and is what the file system gave.
        self._root = os.fsencode(root)
        self._names: pa.LargeBinaryArray = pack_names(names) if isinstance(names, Sequence) else names
        self._captions, self._remote = captions, remote
        self._ambiguous = frozenset[str]() if remote is None else _ambiguous(root, self._names)
        self.shard_sizes = split_evenly(len(self._names), _SHARD_SAMPLES)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._names)

    def name(self, index: int) -> str:
        """Return the file's name relative to the folder; of URLs that differ by their queries alone, with a digest."""
        name = display_name(self._names[index].as_py())
        if self._remote is None:
            return name
        public = public_name(os.fsdecode(self._root), name)
        return f"{public}#{hashlib.sha256(name.encode()).hexdigest()[:8]}" if public in self._ambiguous else public

    def read(self, index: int) -> RawSample:
        """Read the file's bytes and its captions; an unreadable file is a BadSample."""
        path = os.path.join(self._root, self._names[index].as_py())
        caption = None if self._captions is None else self._captions.read(index)
        if self._remote is not None and is_remote(url := os.fsdecode(path)):
            return RawSample(_download(self._remote, url), caption)
        try:
            with open(path, "rb") as file:
                return RawSample(file.read(), caption)
        except OSError as error:
            raise BadSample(f"the file cannot be read: {error.strerror}") from None


def _ambiguous(root: str, names: pa.LargeBinaryArray) -> frozenset[str]:
    """The names without a query that several different URLs have."""
    asking = (url for name in names.unique() if b"?" in (url := name.as_py()))
    public = (public_name(root, display_name(url)) for url in asking)
    return frozenset(name for name, count in Counter(public).items() if count > 1)


def _download(remote: RemoteFiles, url: str) -> bytes:
    try:
        return remote.read_whole(url)
    except MissingFileError:  # a dead link is one for every process; other failures end the run
        raise BadSample("the server has no such file") from None


def open_files(files: DataFiles, settings: SourceSettings) -> FolderSource:
    """Open the images; of pairs, those that have a caption.

    Raises:
        ValueError: captions are wanted, and there are none, or none is of an image of the folder.
    """
    if not settings.captions:
        return FolderSource(files.root, files.names, remote=files.remote)
    with _caption_folder(files) as folder:
        columns = (settings.image_column, settings.caption_column)
        pairs = match_captions(folder, files.names, *columns, settings.max_bad_share)
    return FolderSource(files.root, *pairs, files.remote)


@contextmanager
def _caption_folder(files: DataFiles) -> Iterator[str]:
    """A local folder with the captions: that of the images, or one with a copy of a remote folder's file."""
    if files.remote is None or (files.root and not is_remote(files.root)):
        yield files.root
        return
    with TemporaryDirectory() as folder:
        for name in ("captions.json", "captions.jsonl") if is_remote(files.root) else ():
            try:
                Path(folder, name).write_bytes(files.remote.read_whole(f"{files.root}/{name}", keep=False))
            except MissingFileError:
                continue
            break
        try:
            yield folder
        except ValueError as error:
            raise ValueError(str(error).replace(folder, bare(files.root) or files.path)) from None


def check_files(files: DataFiles, settings: SourceSettings) -> None:
    """Check that there are captions, where they are wanted.

    Raises:
        ValueError: there is none.
    """
    if settings.captions:
        with _caption_folder(files) as folder:
            require_captions(folder, files.names)


def has_images(files: DataFiles, settings: SourceSettings) -> bool:
    """Images are the data wherever no other format claims the folder."""
    return True

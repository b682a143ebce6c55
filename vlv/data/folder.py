"""A folder of images, with captions of any kind of `vlv.data.folder_captions` where samples are pairs."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pyarrow as pa

from vlv.data.files import display_name, pack_names, split_evenly
from vlv.data.folder_captions import FolderCaptions, match_captions, require_captions
from vlv.data.formats import DataFiles, SourceSettings
from vlv.data.sample import BadSample, RawSample

# A file is read for itself, so a folder needs no shards for the sake of reading; they bound the memory of the order,
# which permutes whole shards and holds one pool of them.
_SHARD_SAMPLES = 1_000_000


class FolderSource:
    """Image files under a folder, with captions where given."""

    pool_shards = 1  # its shards bound the order's memory, no more

    def __init__(
        self, root: str, names: Sequence[str] | pa.LargeBinaryArray, captions: FolderCaptions | None = None
    ) -> None:
        """Take names relative to `root`, and captions for each, as `match_captions` gives them, or none at all."""
        # Bytes all through: a name need not be UTF-8, and is what the file system gave.
        self._root = os.fsencode(root)
        self._names: pa.LargeBinaryArray = pack_names(names) if isinstance(names, Sequence) else names
        self._captions = captions
        self.shard_sizes = split_evenly(len(self._names), _SHARD_SAMPLES)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._names)

    def name(self, index: int) -> str:
        """Return the file's name relative to the folder."""
        return display_name(self._names[index].as_py())

    def read(self, index: int) -> RawSample:
        """Read the file's bytes and its captions; an unreadable file is a BadSample."""
        path = os.path.join(self._root, self._names[index].as_py())
        caption = None if self._captions is None else self._captions.read(index)
        try:
            with open(path, "rb") as file:
                return RawSample(file.read(), caption)
        except OSError as error:
            raise BadSample(f"the file cannot be read: {error.strerror}") from None


def open_files(files: DataFiles, settings: SourceSettings) -> FolderSource:
    """Open the images; of pairs, those that have a caption.

    Raises:
        ValueError: captions are wanted, and there are none, or none is of an image of the folder.
    """
    if not settings.captions:
        return FolderSource(files.root, files.names)
    pairs = match_captions(files.root, files.names, settings.image_column, settings.caption_column)
    return FolderSource(files.root, *pairs)


def check_files(files: DataFiles, settings: SourceSettings) -> None:
    """Check that there are captions, where they are wanted.

    Raises:
        ValueError: there is none.
    """
    if settings.captions:
        require_captions(files.root, files.names)


def has_images(files: DataFiles, settings: SourceSettings) -> bool:
    """Images are the data wherever no other format claims the folder."""
    return True

"""Image files that a table names instead of holding them: beside the table, and never outside of the dataset."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

from vlv.data.sample import BadSample


def linked_files(folder: str, roots: Sequence[str]) -> Callable[[str], bytes]:
    """A function that reads the files which the rows of a table name.

    Args:
        folder: that the names are relative to, the table's.
        roots: folders of the dataset; nothing outside of them is read.
    """
    return partial(_read, folder, roots)


def _read(folder: str, roots: Sequence[str], name: str) -> bytes:
    """Read a file.

    Raises:
        BadSample: its name leads out of the dataset, or it cannot be read.
    """
    if "://" in name:
        raise BadSample(f"the row has a URL and no image: {name[:200]!r} is not downloaded")
    if "\0" in name:
        raise BadSample(f"the image's path {name[:200]!r} is none")
    # Normalised before it is opened too: what is checked is what is read. Rows come from elsewhere, and must not name
    # any file of this machine.
    path = os.path.abspath(os.path.join(folder, name))
    if not any(os.path.commonpath([path, root]) == root for root in map(os.path.abspath, roots)):
        raise BadSample(f"the image's path {name[:200]!r} leads out of the dataset's folder")
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise BadSample(f"the image file {name[:200]!r} cannot be read: {error.strerror}") from None

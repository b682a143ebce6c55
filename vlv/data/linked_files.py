"""Image files that a table names instead of holding them: beside the table, and never outside of the dataset."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from vlv.data.sample import BadSample


def linked_files(table: str, root: str) -> Callable[[str], bytes]:
    """A function that reads the files which the rows of a table name.

    Args:
        table: path of the table's file, whose folder the names are relative to.
        root: folder of the dataset.
    """
    return partial(_read, os.path.dirname(table), root)


def _read(folder: str, root: str, name: str) -> bytes:
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
    if os.path.commonpath([path, os.path.abspath(root)]) != os.path.abspath(root):
        raise BadSample(f"the image's path {name[:200]!r} leads out of the dataset's folder")
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise BadSample(f"the image file {name[:200]!r} cannot be read: {error.strerror}") from None

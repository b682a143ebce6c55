"""Which captions the images of a folder have: by the names in files of captions, and by what lies beside each image."""

from __future__ import annotations

import logging
import os
import posixpath
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vlv.data.caption_file import caption_entries, is_coco
from vlv.data.damaged_shards import leave_out
from vlv.data.files import display_name, extension
from vlv.data.pairing import CAPTION_JSON, CAPTION_TEXT
from vlv.data.sample import BadSample, Caption, one_or_several
from vlv.data.sidecars import Beside, find_beside, in_chunks, normal_form
from vlv.data.tar_shards import caption_text

_CHUNK = 10_000  # captions that are Python's strings at once
_NO_IMAGE, _UNCLEAR = -1, -2
_log = logging.getLogger(__name__)


class FolderCaptions:
    """The captions of N images: in memory where a file has those of many, read from the disk where each has its own."""

    def __init__(
        self, texts: pa.ChunkedArray, images: np.ndarray, root: str, sidecars: pa.LargeBinaryArray, field: str
    ) -> None:
        """Join the two kinds.

        Args:
            texts: [M], packed as UTF-8.
            images: [M], numbers of the images that the texts are of; an image may have several.
            root: the folder.
            sidecars: [N], the file of each image, relative to the root; null where it has texts.
            field: of .json files beside images.
        """
        self._texts = texts
        self._rows = np.argsort(images, kind="stable")  # stable: the captions of an image stay in their order
        self._ends = np.cumsum(np.bincount(images, minlength=len(sidecars)))
        self._root, self._sidecars, self._field = os.fsencode(root), sidecars, field

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._sidecars)

    def read(self, index: int) -> Caption:
        """Return the captions of an image.

        Raises:
            BadSample: the file beside it cannot be read, or holds no caption.
        """
        rows = self._rows[self._ends[index - 1] if index else 0 : self._ends[index]]
        if len(rows):
            return one_or_several([_unpack_text(self._texts[int(row)].as_py()) for row in rows])
        name: bytes = self._sidecars[index].as_py()
        try:
            with open(os.path.join(self._root, name), "rb") as file:
                data = file.read()
        except OSError as error:
            raise BadSample(f"the caption beside it cannot be read: {error.strerror}") from None
        kind = CAPTION_JSON if extension(display_name(name)) == "json" else CAPTION_TEXT
        return caption_text(kind, data, self._field)


class _Table(NamedTuple):
    """The M captions of a file. Its chunks are replaced one by one, as there may not be room for all of them twice."""

    path: str
    names: pa.LargeBinaryArray  # [M], of the images, relative to the root
    texts: list[pa.Array]


def match_captions(
    folder: str, names: pa.LargeBinaryArray, image_column: str, caption_column: str, max_bad_share: float = 1.0
) -> tuple[pa.LargeBinaryArray, FolderCaptions]:
    """Keep the images that have a caption, and give the captions in the same order.

    An image takes its captions from the first file that names it, by the precedence of `find_beside`, or from the .txt
    or .json beside it. What is left out on either side is counted in a warning.

    Raises:
        ValueError: there are no captions, a broken file of them, or none that is of an image of the folder; with
            max_bad_share=0 also an image without one.
    """
    beside = find_beside(folder, names)
    _require_any(folder, beside)
    has_text = np.zeros(len(names), dtype=bool)
    texts: list[pa.Array] = []
    images: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
    example: tuple[str, bytes] | None = None
    for where, name in beside.files:
        table = _read_table(folder, where, name, image_column, caption_column)
        example = example or (table.path, table.names[0].as_py() if len(table.names) else b"nothing")
        found = _find_images(table, names, where)
        used = _claim(table, found, has_text)
        images.append(found[used])
        texts += _keep(table.texts, used)
        has_text[found[used]] = True
    has_file = np.asarray(beside.sidecars.is_valid())
    _warn(
        folder, "captions beside images are not used, as a file names the image", beside.sidecars, has_file & has_text
    )
    has_file &= ~has_text
    kept = has_text | has_file
    if example and not kept.any():
        path, name = example
        raise ValueError(
            f"{path} names none of the {len(names)} images of {folder}: it has {display_name(name)!r}, and an image "
            f"there is {display_name(names[0].as_py())!r}; names are relative to the file's folder"
        )
    unclear = np.isin(np.arange(len(names)), beside.unclear) & ~kept
    for what, which in (
        ("images are left out, as what lies beside them may be another's caption", unclear),
        ("images have no caption and are left out", ~kept & ~unclear),
    ):
        if which.any():
            leave_out(_counted(folder, what, names, which), max_bad_share)
    number = np.cumsum(kept) - 1  # among those that are kept
    none = pa.scalar(None, pa.large_binary())
    sidecars = pc.if_else(pa.array(has_file), beside.sidecars, none)  # pyright: ignore[reportAttributeAccessIssue]
    captions = FolderCaptions(
        pa.chunked_array(texts, type=pa.large_binary()),
        number[np.concatenate(images)],
        folder,
        sidecars.filter(pa.array(kept)),
        caption_column,
    )
    return names.filter(pa.array(kept)), captions


def require_captions(folder: str, names: pa.LargeBinaryArray) -> None:
    """Check that there is a file of captions, or one beside an image; none is opened.

    Raises:
        ValueError: there is none.
    """
    _require_any(folder, find_beside(folder, names))


def _require_any(folder: str, beside: Beside) -> None:
    if not beside.files and beside.sidecars.null_count == len(beside.sidecars):
        raise ValueError(
            f'{folder} has no captions: put captions.json ({{"a.jpg": "its caption"}}), captions.jsonl or '
            'metadata.jsonl (lines of {"file_name": "a.jpg", "caption": "..."}), or a .txt for each image beside the '
            "images"
        )


def _read_table(folder: str, where: bytes, name: bytes, image_column: str, caption_column: str) -> _Table:
    path = os.path.join(folder, os.fsdecode(where), os.fsdecode(name))
    above, root = os.fsdecode(where), os.path.abspath(folder)
    names: list[pa.Array] = []
    texts: list[pa.Array] = []
    fresh: list[tuple[bytes, bytes]] = []

    def pack() -> None:
        for chunks, values in zip((names, texts), zip(*fresh, strict=True), strict=False):
            chunks.append(pa.array(values, type=pa.large_binary()))
        fresh.clear()

    for entry in caption_entries(path, image_column, caption_column):
        fresh.append((_file_name(_relative(entry.name, above, root)), _pack_text(entry.caption)))
        if len(fresh) == _CHUNK:
            pack()
    pack()
    return _Table(path, pa.concat_arrays([pa.array([], type=pa.large_binary()), *names]), texts)


def _find_images(table: _Table, images: pa.LargeBinaryArray, where: bytes) -> np.ndarray:
    """The number of each caption's image, int64 [M]: by its exact name, else where only one can be meant."""
    rows = pc.index_in(table.names, value_set=images)  # pyright: ignore[reportAttributeAccessIssue]
    found = rows.fill_null(_NO_IMAGE).to_numpy(zero_copy_only=False).astype(np.int64)
    left = [(row, name) for row, name in _left(table.names, found) if not name.isascii()]
    if left:
        numbers = _numbers(images, found, lambda name: None if name.isascii() else normal_form(name))
        for row, name in left:
            found[row] = numbers.get(normal_form(name), _NO_IMAGE)
    if (found == _NO_IMAGE).any() and is_coco(table.path):
        numbers = _numbers(images, found, os.path.basename)
        for row, name in _left(table.names, found):
            number = numbers.get(os.path.basename(name), _NO_IMAGE)
            given = b"/" + name.removeprefix(os.path.join(where, b""))
            if number < 0 or (b"/" + images[number].as_py()).endswith(given):
                found[row] = number
    return found


def _left(names: pa.LargeBinaryArray, found: np.ndarray) -> Iterator[tuple[int, bytes]]:
    if (found == _NO_IMAGE).any():
        yield from ((row, name) for row, name in enumerate(in_chunks(names)) if found[row] == _NO_IMAGE)


def _numbers(images: pa.LargeBinaryArray, found: np.ndarray, form: Callable[[bytes], bytes | None]) -> dict[bytes, int]:
    """The numbers of the images that were not found, by a form of their names; `_UNCLEAR` where several share it."""
    taken = np.zeros(len(images), dtype=bool)
    taken[found[found >= 0]] = True
    numbers: dict[bytes, int] = {}
    for number, name in enumerate(in_chunks(images)):
        if not taken[number] and (key := form(name)) is not None:
            numbers[key] = _UNCLEAR if key in numbers else number
    return numbers


def _claim(table: _Table, found: np.ndarray, has_text: np.ndarray) -> np.ndarray:
    """Which of a file's captions are used, bool [M]; warns of the others."""
    _warn(table.path, "captions have no image", table.names, found == _NO_IMAGE)
    _warn(table.path, "captions are left out, as several images may be meant", table.names, found == _UNCLEAR)
    used = (found >= 0) & ~has_text[found]
    _warn(table.path, "captions are not used, as another file goes first", table.names, (found >= 0) & ~used)
    return used


def _keep(texts: list[pa.Array], used: np.ndarray) -> list[pa.Array]:
    if not used.all():
        ends = np.cumsum([len(chunk) for chunk in texts])
        for place, end in enumerate(ends):
            texts[place] = texts[place].filter(pa.array(used[end - len(texts[place]) : end]))
    return texts


def _warn(path: str, what: str, names: pa.LargeBinaryArray, which: np.ndarray) -> None:
    if which.any():
        _log.warning("%s", _counted(path, what, names, which))


def _counted(path: str, what: str, names: pa.LargeBinaryArray, which: np.ndarray) -> str:
    example = display_name(names[int(np.argmax(which))].as_py())
    return f"{path}: {which.sum()} of {len(names)} {what}, as {example}"


def _relative(name: str, above: str, root: str) -> str:
    if os.path.isabs(name):
        return posixpath.normpath(os.path.relpath(name, root))
    return posixpath.normpath(posixpath.join(above, name))


def _file_name(name: str) -> bytes:
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:  # no file can be called so: it stays a caption without an image
        return _pack_text(name)


def _pack_text(text: str) -> bytes:
    # JSON can write lone surrogates, which Arrow's strings cannot hold. The sample that has one is bad, not the file.
    return text.encode("utf-8", "surrogatepass")


def _unpack_text(packed: bytes) -> str:
    return packed.decode("utf-8", "surrogatepass")

"""What lies beside the images of a folder and may hold captions: a .txt or .json for each image, files for many."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from vlv.data.pairing import CAPTION_SEVERAL, is_sample_file, pair_names, webdataset_key

# In the order in which they go before one another, and all of them before what lies beside a single image. The last
# are COCO's: captions_val2017.json.
_FILES = re.compile(
    rb"(captions\.json)|(captions\.jsonl)|(metadata\.jsonl)|(metadata\.csv)|(captions_.*\.json|.*_captions\.json)"
)
_ANNOTATIONS = b"annotations"  # COCO's folder of them, beside those of the images
_ENDINGS = frozenset({b"txt", b"json", b"jsonl", b"csv"})
_CHUNK = 100_000


class Beside(NamedTuple):
    """What N images have beside them.

    files: of captions, as (folder, name), the folder relative to the root; the one that goes first first.
    sidecars: [N], the file of each image alone, relative to the root; null where there is none.
    unclear: numbers of the images that may have such a file, which may be another's.
    """

    files: list[tuple[bytes, bytes]]
    sidecars: pa.LargeBinaryArray
    unclear: np.ndarray


def find_beside(root: str, names: pa.LargeBinaryArray) -> Beside:
    """Look into the folders of the images, those above them up to the root, and `annotations` in the latter.

    Args:
        names: of the images, relative to the root.

    Raises:
        ValueError: a folder cannot be listed.
    """
    folders, folder_of = _folders(names)
    order = np.argsort(folder_of, kind="stable")
    ends = np.cumsum(np.bincount(folder_of, minlength=len(folders)))
    chunks: list[pa.Array] = []
    unclear: list[np.ndarray] = []
    files: list[tuple[bytes, bytes]] = []
    for folder, end, start in zip(folders, ends, [0, *ends], strict=False):
        others = _list_captions(root, folder)
        images = order[start:end]
        base_names = [os.path.basename(name) for name in names.take(pa.array(images)).to_pylist()] if others else []
        sidecars, doubtful = _pair(base_names, [name for name in others if not _is_named(name)])
        taken = set(sidecars)
        files += [(folder, name) for name in others if _rank(name) is not None and name not in taken]
        unclear.append(images[doubtful])
        paths = [None if name is None else os.path.join(folder, name) for name in sidecars] or [None] * len(images)
        chunks.append(pa.array(paths, type=pa.large_binary()))
    for folder in _around(folders):
        files += [(folder, name) for name in _list_captions(root, folder) if _rank(name) is not None]
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    sidecars = pa.concat_arrays(chunks).take(pa.array(places))
    return Beside(sorted(files, key=_precedence), sidecars, np.sort(np.concatenate(unclear)))


def normal_form(name: bytes) -> bytes:
    """A file name with its accents in one of the forms that Unicode has for them: macOS writes the other."""
    return name if name.isascii() else os.fsencode(unicodedata.normalize("NFC", os.fsdecode(name)))


def in_chunks(names: pa.LargeBinaryArray) -> Iterator[bytes]:
    """The names of an array, without all of them as Python's objects at once."""
    for start in range(0, len(names), _CHUNK):
        yield from names.slice(start, _CHUNK).to_pylist()


def _folders(names: pa.LargeBinaryArray) -> tuple[list[bytes], np.ndarray]:
    """The folders of the images, and which of them each is in: int64 [N]."""
    numbers: dict[bytes, int] = {}
    found = (numbers.setdefault(os.path.dirname(name), len(numbers)) for name in in_chunks(names))
    folder_of = np.fromiter(found, dtype=np.int64, count=len(names))
    return list(numbers), folder_of


def _around(folders: Sequence[bytes]) -> list[bytes]:
    """Folders without images of their own in which captions of some may lie."""
    above: set[bytes] = {b""}
    for folder in folders:
        while folder and not os.path.isabs(folder) and (folder := os.path.dirname(folder)) not in above:
            above.add(folder)
    return sorted((above | {os.path.join(folder, _ANNOTATIONS) for folder in above}) - set(folders))


def _list_captions(root: str, folder: bytes) -> list[bytes]:
    """The files of a folder that may hold captions."""
    path = os.path.join(os.fsencode(root), folder)
    try:
        with os.scandir(path) as entries:
            return sorted(
                entry.name
                for entry in entries
                if entry.name.rpartition(b".")[2].lower() in _ENDINGS
                and is_sample_file(entry.name)
                and not entry.is_dir()
            )
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ValueError(f"{os.fsdecode(path)} cannot be listed: {error.strerror}") from None


def _rank(name: bytes) -> int | None:
    found = _FILES.fullmatch(name)
    return None if found is None else found.lastindex


def _is_named(name: bytes) -> bool:
    """Whether a file is one of captions whatever images are called; captions_1.json may belong to captions_1.jpg."""
    return (_rank(name) or _FILES.groups) < _FILES.groups


def _precedence(file: tuple[bytes, bytes]) -> tuple[int, int, bytes, bytes]:
    """By kind; of one kind the file that is deeper in the tree, and so nearer to its images, goes first."""
    folder, name = file
    return _rank(name) or 0, -folder.count(b"/") - bool(folder), folder, name


def _pair(images: Sequence[bytes], others: Sequence[bytes]) -> tuple[list[bytes | None], list[int]]:
    """The file of each image of a folder, as in a tar, else by normal form; and the images that are unclear."""
    if not others:
        return [None] * len(images), []
    partners, unclear = _pair_exactly(images, others)
    left = [n for n, partner in enumerate(partners) if partner is None and not images[n].isascii()]
    if left := sorted(set(left) - set(unclear)):
        taken = set(partners)
        free = [n for n, name in enumerate(others) if n not in taken and not name.isascii()]
        found, doubtful = _pair_exactly([normal_form(images[n]) for n in left], [normal_form(others[n]) for n in free])
        for place, partner in zip(left, found, strict=True):
            partners[place] = None if partner is None else free[partner]
        unclear += [left[n] for n in doubtful]
    return [None if partner is None else others[partner] for partner in partners], unclear


def _pair_exactly(images: Sequence[bytes], others: Sequence[bytes]) -> tuple[list[int | None], list[int]]:
    keys = {webdataset_key(name) for name in others}
    found = pair_names([*images, *others])
    partners: list[int | None] = [None] * len(images)
    unclear = [place for place in found.left_out if webdataset_key(images[place]) in keys]
    for pair in found.pairs:
        if pair.kind == CAPTION_SEVERAL:
            unclear.append(pair.image)
        elif pair.caption is not None:
            partners[pair.image] = pair.caption - len(images)
    return partners, unclear

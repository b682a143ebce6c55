"""The captions of a folder of images: captions.json or captions.jsonl beside them."""

from __future__ import annotations

import json
import logging
import os
import posixpath
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vlv.data.files import display_name

_NAME_FIELDS = ("file_name", "image", "filename", "path", "name")
_CAPTION_FIELDS = ("caption", "text")
_log = logging.getLogger(__name__)


def match_captions(
    folder: str, names: pa.LargeBinaryArray, image_column: str, caption_column: str
) -> tuple[pa.LargeBinaryArray, pa.LargeBinaryArray]:
    """Keep the images that have a caption, and give the captions in the same order, packed for `unpack_text`.

    Images without a caption, and captions without an image, are counted in a warning.

    Raises:
        ValueError: no caption file, a broken one, or none of its names is an image of the folder.
    """
    path = find_caption_file(folder)
    captions = read_captions(path, image_column, caption_column)
    relative = {_relative(name, folder): caption for name, caption in captions.items()}
    keys = pa.array([_file_name(name) for name in relative], type=pa.large_binary())
    all_rows = pc.index_in(names, value_set=keys)  # pyright: ignore[reportAttributeAccessIssue]
    matched, rows = names.filter(all_rows.is_valid()), all_rows.drop_null()
    if not len(matched):
        example = next(iter(relative), "nothing")
        raise ValueError(
            f"{path} names none of the {len(names)} images of {folder}: it has {example!r}, and an image there is "
            f"{display_name(names[0].as_py())!r}; names are relative to the folder"
        )
    _warn(path, len(names), "images have no caption and are left out", names.filter(all_rows.is_null()))
    used = np.zeros(len(keys), dtype=bool)
    used[rows.to_numpy()] = True
    _warn(path, len(keys), "captions have no image", keys.filter(pa.array(~used)))
    return matched, pa.array([_pack_text(text) for text in relative.values()], type=pa.large_binary()).take(rows)


def unpack_text(packed: bytes) -> str:
    """Return a caption as the file had it."""
    return packed.decode("utf-8", "surrogatepass")


def _pack_text(text: str) -> bytes:
    # JSON can write lone surrogates, which Arrow's strings cannot hold. The sample that has one is bad, not the file.
    return text.encode("utf-8", "surrogatepass")


def _file_name(name: str) -> bytes:
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:  # no file can be called so: it stays a caption without an image
        return _pack_text(name)


def _warn(path: str, total: int, what: str, names: pa.LargeBinaryArray) -> None:
    if len(names):
        _log.warning("%s: %d of %d %s, as %s", path, len(names), total, what, display_name(names[0].as_py()))


def find_caption_file(folder: str) -> str:
    """Return the path of a folder's captions.json or captions.jsonl.

    Raises:
        ValueError: there is none.
    """
    for name in ("captions.json", "captions.jsonl"):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            return path
    raise ValueError(
        f'{folder} has no captions: put captions.json ({{"a.jpg": "its caption"}}) or captions.jsonl '
        '(lines of {"file_name": "a.jpg", "caption": "..."}) beside the images'
    )


def read_captions(path: str, image_column: str = "image", caption_column: str = "caption") -> dict[str, str]:
    """Read {name: caption} from captions.json or .jsonl; entries without a text as caption are left out.

    Raises:
        ValueError: a file that is not valid JSON or UTF-8.
    """
    try:
        # -sig: editors on Windows write a byte order mark, which JSON refuses.
        with open(path, encoding="utf-8-sig") as file:
            records: object = _read_lines(path, file) if path.endswith("l") else json.load(file)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8: save it as UTF-8") from None
    if isinstance(records, dict):
        pairs = list(records.items())
    elif isinstance(records, list):
        name_fields, caption_fields = (image_column, *_NAME_FIELDS), (caption_column, *_CAPTION_FIELDS)
        pairs = [(_first(record, name_fields), _first(record, caption_fields)) for record in records]
    else:
        raise ValueError(f'{path} holds {type(records).__name__}: wanted {{"a.jpg": "its caption", ...}}')
    return {name: caption for name, caption in pairs if isinstance(name, str) and isinstance(caption, str)}


def _read_lines(path: str, lines: Iterable[str]) -> list[object]:
    records: list[object] = []
    for number, text in enumerate(lines, 1):
        try:
            if text.strip():
                records.append(json.loads(text))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not valid JSON: {error}") from None
    return records


def _first(record: object, fields: tuple[str, ...]) -> str | None:
    """The first of the fields that is a text: whoever names another column still has the usual ones read."""
    if not isinstance(record, dict):
        return None
    return next((value for field in fields if isinstance(value := record.get(field), str)), None)


def _relative(name: str, folder: str) -> str:
    if os.path.isabs(name):
        name = os.path.relpath(name, os.path.abspath(folder))
    return posixpath.normpath(name)

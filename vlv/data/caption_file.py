"""Files of captions: .json, .jsonl, .csv and COCO's annotations, read entry by entry, however long they are."""

from __future__ import annotations

import csv
import json
import mmap
import os
import re
from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from typing import IO, Any, Literal, NamedTuple

from vlv.data.files import extension
from vlv.data.sample import texts_of

_NAME_FIELDS = ("file_name", "image", "filename", "path", "name")
_CAPTION_FIELDS = ("caption", "text")
_COCO_KEYS = frozenset({"images", "annotations", "info", "licenses", "type", "categories"})
# A pair, or a backslash that is escaped itself, is passed over as a whole.
_SURROGATES = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<lone>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # editors on Windows write it, and JSON refuses it


class CaptionEntry(NamedTuple):
    """A caption and the name of its image, as a file has them."""

    name: str
    caption: str


class _Fields(NamedTuple):
    """The fields of a record that are looked at, the first of them that holds what is wanted."""

    names: tuple[str, ...]
    captions: tuple[str, ...]


def caption_entries(path: str, image_column: str = "image", caption_column: str = "caption") -> Iterator[CaptionEntry]:
    """Read a .json, .jsonl or .csv file entry by entry; what has no text as name or caption is left out.

    An image with several captions has several entries: of a list, of repeated lines, of COCO's annotations.

    Raises:
        ValueError: the file cannot be read, or is not valid JSON, CSV or UTF-8.
    """
    fields = _Fields((image_column, *_NAME_FIELDS), (caption_column, *_CAPTION_FIELDS))
    try:
        with _open(path) as file:
            if extension(path) == "json":
                yield from _read_tolerantly(path, file, fields)
            else:
                lines = TextIOWrapper(file, encoding="utf-8", newline="")
                records = csv.DictReader(lines) if extension(path) == "csv" else _read_lines(path, lines)
                yield from _of_records(records, fields)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except csv.Error as error:
        raise ValueError(f"{path} is not valid CSV: {error}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8: save it as UTF-8") from None


def read_captions(path: str, image_column: str = "image", caption_column: str = "caption") -> dict[str, str]:
    """Read {name: caption}, the first where an image has several; errors as `caption_entries` has them."""
    captions: dict[str, str] = {}
    for name, caption in caption_entries(path, image_column, caption_column):
        captions.setdefault(name, caption)
    return captions


def is_coco(path: str) -> bool:
    """Whether a .json file has COCO's annotations, whose names have no folders; False where it is damaged."""
    import ijson

    try:
        with _open(path) as file:
            return extension(path) == "json" and _json_kind(path, file, ijson) == "coco"
    except (OSError, ValueError):
        return False


def _open(path: str) -> IO[bytes]:
    file = open(path, "rb")  # noqa: SIM115  (the caller closes it)
    file.seek(len(_BYTE_ORDER_MARK) if file.read(len(_BYTE_ORDER_MARK)) == _BYTE_ORDER_MARK else 0)
    return file


def _read_tolerantly(path: str, file: IO[bytes], fields: _Fields) -> Iterator[CaptionEntry]:
    """Read JSON, also where a text has half a character (a lone surrogate), which is a matter of one sample.

    Parsers in C stop at it, or put another character in its place without a word; the one in Python keeps it.
    """
    import ijson  # here, as it alone needs it

    parser = ijson.get_backend("python") if _has_lone_surrogate(file) else ijson
    yield from _read_json(path, file, fields, parser)


def _has_lone_surrogate(file: IO[bytes]) -> bool:
    r"""Whether JSON escapes half a character: a `\ud800` to `\udfff` that is no half of a pair."""
    if not os.fstat(file.fileno()).st_size:
        return False
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # Most files escape no surrogate at all, and looking for that much is as quick as the disk.
        if content.find(rb"\ud") < 0 and content.find(rb"\uD") < 0:
            return False
        return any(found["lone"] for found in _SURROGATES.finditer(content))


def _read_json(path: str, file: IO[bytes], fields: _Fields, ijson: Any) -> Iterator[CaptionEntry]:
    from ijson.common import JSONError

    start = file.tell()
    kind = _json_kind(path, file, ijson)
    file.seek(start)
    try:
        if kind == "list":
            yield from _of_records(ijson.items(file, "item"), fields)
        elif kind == "coco":
            names = {
                image["id"]: image["file_name"]
                for image in ijson.items(file, "images.item")
                if isinstance(image, dict) and isinstance(image.get("file_name"), str) and _is_id(image.get("id"))
            }
            file.seek(start)
            for note in ijson.items(file, "annotations.item"):
                if isinstance(note, dict) and _is_id(number := note.get("image_id")) and number in names:
                    yield from _entries(names[number], _captions(note, fields))
        else:
            for name, value in ijson.kvitems(file, ""):
                yield from _entries(name, texts_of(value))
    except JSONError as error:
        raise _damage(path, error) from None


def _json_kind(path: str, file: IO[bytes], ijson: Any) -> Literal["names", "list", "coco"]:
    """What a file's first values show; `names` are those of images, with a caption or a list of them."""
    from ijson.common import JSONError

    try:
        for prefix, event, value in ijson.parse(file):
            if prefix:
                if event == "start_map" and prefix in ("images.item", "annotations.item"):
                    return "coco"
            elif event == "start_array":
                return "list"
            elif event == "map_key":
                if value not in _COCO_KEYS:
                    return "names"
            elif event not in ("start_map", "end_map"):
                raise ValueError(f'{path} holds a {event}: wanted {{"a.jpg": "its caption", ...}}')
    except JSONError as error:
        raise _damage(path, error) from None
    return "names"


def _damage(path: str, error: Exception) -> ValueError:
    reason = " ".join(str(error).replace("\\n", "\n").removeprefix("b'").splitlines()[:1])
    if "utf" in reason.lower():
        return ValueError(f"{path} is not UTF-8: save it as UTF-8")
    return ValueError(f"{path} is not valid JSON: {reason}")


def _is_id(value: object) -> bool:
    return isinstance(value, int | str)


def _read_lines(path: str, lines: Iterable[str]) -> Iterator[object]:
    for number, text in enumerate(lines, 1):
        try:
            if text.strip():
                yield json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not valid JSON: {error}") from None


def _of_records(records: Iterable[object], fields: _Fields) -> Iterator[CaptionEntry]:
    for record in records:
        if isinstance(record, dict):
            name = next((value for field in fields.names if isinstance(value := record.get(field), str)), None)
            yield from _entries(name, _captions(record, fields))


def _captions(record: dict[str, object], fields: _Fields) -> list[str]:
    """Of the first field that has a text: whoever names another column still has the usual ones read."""
    return next((texts for field in fields.captions if (texts := texts_of(record.get(field)))), [])


def _entries(name: str | None, captions: Iterable[str]) -> Iterator[CaptionEntry]:
    if name is not None:
        yield from (CaptionEntry(name, caption) for caption in captions)

"""Where captions go: one JSON file, JSON lines, a text beside each image, parquet files, or shards with the images."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from vlv.atomic import whole_file, write_whole
from vlv.data.formats import IMAGE_EXTENSIONS
from vlv.inference.blocks import REASON, BlockRecords, Output, partial_folder
from vlv.inference.journal import JsonObject
from vlv.redaction import printable

MANIFEST = "manifest.json"
# A file, of records that have captions; returns by index why some are not in it after all.
PartWriter = Callable[[Path, Sequence[JsonObject]], dict[int, str]]


def said(record: JsonObject) -> str | list[str]:
    """The caption of a record, or all of them where there are several."""
    captions = record["captions"]
    return captions[0] if len(captions) == 1 else captions


def captioned(records: Iterable[JsonObject]) -> Iterator[JsonObject]:
    """The records that have captions."""
    return (record for record in records if "captions" in record)


def _all_captioned(blocks: Iterable[BlockRecords]) -> Iterator[JsonObject]:
    return (record for block in blocks for record in captioned(block.records))


class JsonFile(Output):
    """`{"name": "caption", ...}`, in the source's order; written at the end, in a flow."""

    is_replaced = True

    def __init__(self, path: Path) -> None:
        """Write into one file.

        Raises:
            ValueError: it is a folder.
        """
        if path.is_dir():
            raise ValueError(f"output_path={path} is a folder: give a file")
        self.path = path

    def wanted(self, name: str) -> bool:
        """Every image is."""
        return True

    def is_whole(self) -> bool:
        """Whether the file is there."""
        return self.path.is_file()

    def write_block(self, number: int, records: Sequence[JsonObject]) -> Sequence[JsonObject]:
        """Nothing: the blocks' own records are read at the end."""
        return records

    def finish(self, blocks: Iterator[BlockRecords]) -> None:
        """Write the file."""
        with whole_file(self.path) as temporary, temporary.open("wb") as file:
            file.write(b"{")
            for place, record in enumerate(_all_captioned(blocks)):
                pair = (
                    f"{json.dumps(record['name'], ensure_ascii=False)}: {json.dumps(said(record), ensure_ascii=False)}"
                )
                file.write(_bytes(f"{',' if place else ''}\n  {pair}"))
            file.write(b"\n}\n")


class JsonLines(JsonFile):
    """A line for each image, `{"image": "name", "caption": "..."}`, as folders of training data have them."""

    def finish(self, blocks: Iterator[BlockRecords]) -> None:
        """Write the file."""
        with whole_file(self.path) as temporary, temporary.open("wb") as file:
            for record in _all_captioned(blocks):
                line = {"image": record["name"], "caption": said(record)}
                file.write(_bytes(json.dumps(line, ensure_ascii=False) + "\n"))


class TextFiles(Output):
    """`photo.txt` for `photo.jpg`, one caption a line, beside it or in a tree of the same folders."""

    is_replaced = True

    def __init__(self, path: Path, names: Iterator[str], overwrite: bool = False) -> None:
        """Write below a folder.

        Args:
            path: the images' own root, or another folder.
            names: of all images.
            overwrite: also where there is a text already.

        Raises:
            ValueError: two images would have one text, or one's name leads out of the folder; names them.
        """
        self.path, self._overwrite = path, overwrite
        first: dict[str, str] = {}
        for name in names:
            if (other := first.setdefault(_text_name(name), name)) != name:
                raise ValueError(f"{other} and {name} would both have {_text_name(name)}: rename one, or take to=jsonl")

    def wanted(self, name: str) -> bool:
        """Whether it has no text yet."""
        return self._overwrite or not (self.path / _text_name(name)).exists()

    def is_whole(self) -> bool:
        """Never: whether a text is there is asked of each image."""
        return False

    def write_block(self, number: int, records: Sequence[JsonObject]) -> Sequence[JsonObject]:
        """Write the texts of a block."""
        for record in captioned(records):
            target = self.path / _text_name(record["name"])
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(target, durable=False) as temporary:
                temporary.write_bytes(
                    _bytes("".join(" ".join(caption.splitlines()) + "\n" for caption in record["captions"]))
                )
        return records

    def finish(self, blocks: Iterator[BlockRecords]) -> None:
        """Nothing is left to do."""


class PartFiles(Output):
    """A folder with a file for each block, and a manifest once it is whole."""

    is_replaced = False

    def __init__(self, path: Path, extension: str, write: PartWriter) -> None:
        """Write into a folder.

        Args:
            extension: of its files.
            write: writes one of them.

        Raises:
            ValueError: the folder holds something else.
        """
        self.path, self._extension, self._write = path, extension, write
        started = partial_folder(path).is_dir() or self.is_whole()
        if path.is_dir() and any(path.iterdir()) and not started:
            raise ValueError(f"output_path={path} is a folder that is not empty: give another, or remove it")

    def wanted(self, name: str) -> bool:
        """Every image is."""
        return True

    def is_whole(self) -> bool:
        """Whether the manifest is there."""
        return (self.path / MANIFEST).is_file()

    def write_block(self, number: int, records: Sequence[JsonObject]) -> Sequence[JsonObject]:
        """Write the block's file; none for a block without a caption."""
        if not (found := list(captioned(records))):
            return records
        self.path.mkdir(exist_ok=True)
        with whole_file(self._file(number)) as temporary:
            lost = self._write(temporary, found)
        return [_without_captions(record, lost.get(record["index"])) for record in records]

    def finish(self, blocks: Iterator[BlockRecords]) -> None:
        """Remove the files of blocks that there are no longer, and write the manifest."""
        counts = {
            self._file(block.number): count for block in blocks if (count := sum(1 for _ in captioned(block.records)))
        }
        # An earlier run may have had more blocks: another search, another number of processes, more images.
        for file in self.path.glob(f"{'[0-9]' * 8}.{self._extension}"):
            if file not in counts:
                file.unlink()
        content = {"samples": sum(counts.values()), "files": [file.name for file in counts]}
        write_whole(self.path / MANIFEST, (json.dumps(content, indent=2) + "\n").encode())

    def _file(self, number: int) -> Path:
        return self.path / f"{number:08}.{self._extension}"


def write_caption_table(path: Path, records: Sequence[JsonObject]) -> dict[int, str]:
    """Write columns `image`, the name, and `caption`, a list of texts."""
    table = pa.table(
        {
            "image": pa.array([record["name"] for record in records], pa.string()),
            "caption": pa.array([record["captions"] for record in records], pa.list_(pa.string())),
        }
    )
    pq.write_table(table, path, compression="zstd")
    return {}


def _without_captions(record: JsonObject, reason: str | None) -> JsonObject:
    """The record of an image that could not be written, as that of one that could not be read."""
    if reason is None:
        return record
    return {**{key: value for key, value in record.items() if key != "captions"}, REASON: reason}


def _text_name(name: str) -> str:
    """Where an image's text lies, below the folder.

    Raises:
        ValueError: outside of it, as the name of a member of a .tar may say.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{printable(name)} leads out of the folder of texts: take to=jsonl")
    stem, ending = os.path.splitext(name)  # a row of a table, `photos.parquet:3`, has no ending of an image
    return f"{stem if ending[1:].lower() in IMAGE_EXTENSIONS else name}.txt"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")

"""Scenes written as training data: a folder of pictures, tar shards, or parquet."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

from vlv.shapes.describe import annotate
from vlv.shapes.render import render
from vlv.shapes.scene import SPLITS, Scene, Split, make_scene

DataFormat = Literal["folder", "webdataset", "parquet"]
SHARD = 2_000  # scenes of a shard, and of one process's turn
_ROW_GROUP = 100


def scene_name(split: Split, number: int) -> str:
    """Name of a scene's picture, without suffix: `named_scene` finds the scene from it."""
    return f"{split}-{number:08d}"


def named_scene(name: str) -> Scene:
    """The scene that a picture of ours shows, from its file name.

    Raises:
        ValueError: a name that `scene_name` did not give.
    """
    split, _, number = Path(name).stem.partition("-")
    for known in SPLITS:
        if split == known and number.isdigit():
            return make_scene(known, int(number))
    raise ValueError(f"{name} is no picture of the small world: those are named like {scene_name('test', 7)}.png")


def write_scenes(
    out: Path, split: Split, numbers: range, form: DataFormat, captions: bool, processes: int | None = None
) -> int:
    """Write scenes; the same call writes the same bytes, whatever the number of processes.

    Args:
        numbers: which scenes of the split.
        captions: write descriptions too: captions.json, .txt members, or a column.
        processes: None takes one a core.

    Returns:
        how many were written.

    Raises:
        ValueError: `out` is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: name another folder, or remove it first")
    out.mkdir(parents=True, exist_ok=True)
    # Shards are cut by number, not by process, so that their bytes do not depend on how many processes write.
    shards = [numbers[start : start + SHARD] for start in range(0, len(numbers), SHARD)]
    write = partial(_WRITERS[form], out, split, captions)
    with ProcessPoolExecutor(processes or os.cpu_count()) as pool:
        list(pool.map(write, range(len(shards)), shards))
    if form == "folder" and captions:
        texts = {f"{scene_name(split, number)}.png": caption(split, number) for number in numbers}
        (out / "captions.json").write_text(json.dumps(texts, indent=0) + "\n")
    return len(numbers)


def caption(split: Split, number: int) -> str:
    """The description that goes with a scene's picture."""
    return annotate(make_scene(split, number), number)


def _png(split: Split, number: int) -> bytes:
    buffer = io.BytesIO()
    render(make_scene(split, number), number).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _write_folder(out: Path, split: Split, captions: bool, shard: int, numbers: range) -> None:
    for number in numbers:
        (out / f"{scene_name(split, number)}.png").write_bytes(_png(split, number))


def _write_webdataset(out: Path, split: Split, captions: bool, shard: int, numbers: range) -> None:
    with tarfile.open(out / f"{split}-{shard:05d}.tar", "w") as tar:
        for number in numbers:
            members = {"png": _png(split, number)}
            if captions:
                members["txt"] = caption(split, number).encode()
            for suffix, content in members.items():
                # A new TarInfo has time 0 and no owner: the same scenes make the same bytes.
                member = tarfile.TarInfo(f"{scene_name(split, number)}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _write_parquet(out: Path, split: Split, captions: bool, shard: int, numbers: range) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    def columns(part: range) -> Iterator[tuple[str, list[bytes] | list[str]]]:
        yield "name", [f"{scene_name(split, number)}.png" for number in part]
        yield "image", [_png(split, number) for number in part]
        if captions:
            yield "caption", [caption(split, number) for number in part]

    fields = [("name", pa.string()), ("image", pa.binary())] + ([("caption", pa.string())] if captions else [])
    schema = pa.schema(fields)
    with parquet.ParquetWriter(out / f"{split}-{shard:05d}.parquet", schema) as writer:
        for start in range(0, len(numbers), _ROW_GROUP):
            part = numbers[start : start + _ROW_GROUP]
            writer.write_table(pa.table(dict(columns(part)), schema=schema))


_WRITERS: dict[DataFormat, Callable[[Path, Split, bool, int, range], None]] = {
    "folder": _write_folder,
    "webdataset": _write_webdataset,
    "parquet": _write_parquet,
}

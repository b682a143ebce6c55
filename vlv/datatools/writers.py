"""Shards written: the same samples give the same bytes, wherever and whenever."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from vlv.config import ShardsConfig
from vlv.data.sample import Caption

_BLOCK = tarfile.BLOCKSIZE


class Member(NamedTuple):
    """A sample of a shard; `key` is unique in the dataset, `name` is what the source called it."""

    key: str
    name: str
    image: bytes
    extension: str
    caption: Caption | None


Writer = Callable[[Path, Iterable[Member], ShardsConfig, bool], int]


def write_tar(path: Path, members: Iterable[Member], config: ShardsConfig, captions: bool) -> int:
    """Write a webdataset shard: KEY.jpg, KEY.txt and, where names are kept, KEY.json; returns the samples."""
    return write_members(path, members, config.keep_names)


def write_members(path: Path, members: Iterable[Member], keep_names: bool) -> int:
    """Write samples as a webdataset shard; returns how many."""
    count = 0
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for count, member in enumerate(members, 1):  # noqa: B007
            for extension, data in tar_files(member, keep_names):
                # A new TarInfo has time, owner and group 0 and mode 0644.
                info = tarfile.TarInfo(f"{member.key}.{extension}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  # tarfile keeps every one
    return count


def tar_files(member: Member, keep_names: bool) -> list[tuple[str, bytes]]:
    """The files of a sample as (extension, content)."""
    files = [(member.extension, member.image)]
    record: dict[str, object] = {"name": member.name} if keep_names else {}
    if isinstance(member.caption, tuple):
        record["caption"] = list(member.caption)
    elif member.caption is not None:
        text = member.caption.encode()
        # Readers strip a .txt, and take a byte order mark from it.
        if text.decode("utf-8-sig").strip() == member.caption:
            files.append(("txt", text))
        else:
            record["caption"] = member.caption
    if record:
        files.append(("json", json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace")))
    return files


def tar_bytes(member: Member, keep_names: bool) -> int:
    """What a sample takes in a tar: its files in blocks of 512 bytes, each after a header of one."""
    return sum(_BLOCK + -(-len(data) // _BLOCK) * _BLOCK for _, data in tar_files(member, keep_names))


def write_parquet(path: Path, members: Iterable[Member], config: ShardsConfig, captions: bool) -> int:
    """Write columns image, caption (of pairs) and name (where kept); returns the rows."""
    columns = ["image", *(["caption"] if captions else []), *(["name"] if config.keep_names else [])]
    return write_table(path, members, columns, config.row_group_size)


def write_table(path: Path, members: Iterable[Member], columns: Sequence[str], row_group_size: int) -> int:
    """Write these fields of the samples as a parquet file's columns; returns the rows."""
    schema = pa.schema([pa.field(name, pa.binary() if name == "image" else pa.string()) for name in columns])
    rows, held = 0, []
    # Image files are compressed already, and statistics would repeat whole images in the footer.
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    with pq.ParquetWriter(path, schema, **plain) as writer:

        def write_group() -> None:
            table = pa.table({name: [getattr(member, name) for member in held] for name in columns}, schema)
            writer.write_table(table, row_group_size=len(held))
            held.clear()

        for rows, member in enumerate(members, 1):  # noqa: B007
            if isinstance(member.caption, tuple):
                raise ValueError(
                    f"{member.name} has several captions, of which format=parquet holds one: use webdataset"
                )
            held.append(member)
            if len(held) == row_group_size:
                write_group()
        if held:
            write_group()
    return rows


def count_samples(path: Path) -> int:
    """Read how many samples a shard holds.

    Raises:
        ValueError, OSError: it is no whole shard.
    """
    if path.suffix == ".parquet":
        return pq.read_metadata(path).num_rows
    from vlv.data.tar_index import index_shard

    index = index_shard(str(path))
    if index.cut:
        raise ValueError(index.cut)
    return len(index)


WRITERS: dict[str, tuple[str, Writer]] = {"webdataset": ("tar", write_tar), "parquet": ("parquet", write_parquet)}

"""The indexes of all shards of a dataset in one file, mapped into memory: a machine's processes share its pages.

Opening it reads the end of the file alone, and a sample costs the pages that its row lies in. Each shard is a record
batch, so that no column spans shards, and what is wrong with the shard is the batch's metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from vlv.atomic import whole_file
from vlv.data.pairing import CAPTION_NONE

SCHEMA = pa.schema(
    [
        ("name", pa.large_binary()),
        ("image_offset", pa.int64()),
        ("image_size", pa.int64()),
        ("caption_offset", pa.int64()),
        ("caption_size", pa.int64()),
        ("caption_kind", pa.uint8()),
    ]
)
Identity = dict[str, object]  # of a shard: its path, size and version


class ShardIndex(NamedTuple):
    """One shard's samples, and what is wrong with the shard."""

    rows: pa.RecordBatch  # SCHEMA
    cut: str  # where and why reading ended before the archive's end; "" for a whole one
    left_out: list[str]  # names of images left out because it is not clear which sample they are
    lone_captions: int  # captions whose image is missing
    others: dict[str, int]  # members of samples without an image, by kind

    def __len__(self) -> int:
        return self.rows.num_rows

    @property
    def facts(self) -> dict[str, object]:
        """All but the rows, by the names of these fields."""
        return {name: getattr(self, name) for name in self._fields if name != "rows"}

    @property
    def has_captions(self) -> bool:
        """Whether any of the samples has a caption."""
        return bool((self.rows["caption_kind"].to_numpy() != CAPTION_NONE).any())


def merged_file(folder: Path, paths: Sequence[str]) -> Path:
    """Where the merged index of these shards is."""
    digest = hashlib.sha256()  # of the paths alone: a shard that changes takes the place of its former index
    for path in paths:
        digest.update(path.encode("utf-8", "surrogateescape") + b"\0")
    return folder / f"{digest.hexdigest()[:32]}.merged.arrow"


def write_merged(file: Path, identities: Sequence[Identity], indexes: Iterable[ShardIndex]) -> None:
    """Write the indexes as they come, so that those of a shard at a time are held.

    Raises:
        OSError: there is no room, or no right to write.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    schema = SCHEMA.with_metadata({"shards": _digest(identities)})
    with whole_file(file) as temporary, pa.ipc.new_file(str(temporary), schema) as writer:
        for index in indexes:
            # Of the batch, not of the schema, which stands before the first index is known.
            facts = {"vlv": json.dumps(index.facts)}
            writer.write_batch(index.rows.replace_schema_metadata(None), custom_metadata=facts)


def open_merged(file: Path, identities: Sequence[Identity]) -> list[ShardIndex] | None:
    """Map the file; None where there is none, or it is of other shards."""
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(file)))
        same = (reader.schema.metadata or {}).get(b"shards") == _digest(identities).encode()
        if not same or reader.num_record_batches != len(identities):
            return None
        # A batch is a view of the mapped file: nothing of its rows is read here.
        batches = map(reader.get_batch_with_custom_metadata, range(len(identities)))
        return [ShardIndex(batch.batch, **json.loads(batch.custom_metadata[b"vlv"])) for batch in batches]
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError):
        return None  # none, or not one of ours: it is built anew


def _digest(identities: Sequence[Identity]) -> str:
    return hashlib.sha256(json.dumps(list(identities)).encode()).hexdigest()

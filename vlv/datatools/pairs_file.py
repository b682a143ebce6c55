"""Images and their captions in one parquet file, as stage 2 reads it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def write_pairs(path: Path, groups: Iterable[tuple[list[bytes], list[str]]]) -> int:
    """Write row groups as they come, columns `image` and `caption`; returns the number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([pa.field("image", pa.binary()), pa.field("caption", pa.string())])
    rows = 0
    # Image files are compressed already, and statistics would repeat whole images in the footer.
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    with pq.ParquetWriter(path, schema, **plain) as writer:
        for images, captions in groups:
            writer.write_table(pa.table({"image": images, "caption": captions}, schema), row_group_size=len(images))
            rows += len(images)
    return rows

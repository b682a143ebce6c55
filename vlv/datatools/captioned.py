"""Images and their new captions as a webdataset shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from vlv.data.sample import BadSample, SampleSource, one_or_several
from vlv.datatools.conversion import stored_image
from vlv.datatools.writers import Member, write_members
from vlv.inference.journal import JsonObject


def write_captioned_shard(source: SampleSource, path: Path, records: Sequence[JsonObject]) -> None:
    """Write the images of some records, as they are stored, with their captions.

    Args:
        records: each with the sample's `index` and `name` in the source, and its `captions`.
    """
    write_members(path, _members(source, records), keep_names=True)


def _members(source: SampleSource, records: Sequence[JsonObject]) -> Iterator[Member]:
    for record in records:
        try:
            data, extension = stored_image(source.read(record["index"]).image)
        except BadSample:
            continue  # it was read a moment ago: the file has gone meanwhile
        caption = one_or_several(record["captions"])
        yield Member(f"{record['index']:09}", record["name"], data, extension, caption)

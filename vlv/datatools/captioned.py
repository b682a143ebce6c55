"""Images and their new captions as a webdataset shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from vlv.data.remote import RemoteError
from vlv.data.sample import BadSample, SampleSource, one_or_several
from vlv.datatools.conversion import stored_image
from vlv.datatools.writers import Member, write_members
from vlv.inference.journal import JsonObject


def write_captioned_shard(source: SampleSource, path: Path, records: Sequence[JsonObject]) -> dict[int, str]:
    """Write the images of some records, as they are stored, with their captions.

    Args:
        records: each with the sample's `index` and `name` in the source, and its `captions`.

    Returns:
        By index, why an image is not in it: it could be read when it was captioned, and has gone meanwhile.
    """
    gone: dict[int, str] = {}
    write_members(path, _members(source, records, gone), keep_names=True)
    return gone


def _members(source: SampleSource, records: Sequence[JsonObject], gone: dict[int, str]) -> Iterator[Member]:
    for record in records:
        try:
            data, extension = stored_image(source.read(record["index"]).image)
        except (BadSample, RemoteError) as error:
            gone[record["index"]] = f"captioned, and gone meanwhile: {error}"
            continue
        caption = one_or_several(record["captions"])
        yield Member(f"{record['index']:09}", record["name"], data, extension, caption)

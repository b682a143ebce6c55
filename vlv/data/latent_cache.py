"""Latents that were computed before training: Arrow files of VAE moments beside the encoder's small image.

`vlv data latents` writes them. A row has `image` (the decoder's crop, R x R, as an image file, from which the encoder's
view is made), `moments` (mean and standard deviation of the VAE's posterior, 2 x C x h x w numbers), `crop` (where the
crop lay in the image), and `caption` (a list) where there are captions. Moments and not latents, so that the
sampling stays random.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vlv.data.formats import SourceSettings
from vlv.data.mapped_rows import MappedRows, checked
from vlv.data.mixture import MixedSource
from vlv.data.sample import BadSample, LatentImage, RawSample, SampleSource, one_or_several

MANIFEST = "latents.json"
IMAGE, CAPTION = "image", "caption"
NUMBERS = {"fp16": np.dtype("<f2"), "fp32": np.dtype("<f4")}


@dataclass(frozen=True)
class LatentFacts:
    """What latents are of; a training with others would learn something else without a word.

    vae: hashes of the VAE's config and weights. resolution: R, the side of the crop in pixels. shape: (2, C, h, w).
    numbers: format of the moments, fp16 or fp32.
    """

    vae: dict[str, str]
    resolution: int
    shape: tuple[int, int, int, int]
    numbers: str

    def differences(self, wanted: LatentFacts) -> list[str]:
        """What is else than wanted, in words; the number format alone may differ."""
        found = []
        if self.vae != wanted.vae:
            found.append("another VAE")
        if self.resolution != wanted.resolution:
            found.append(f"decoder_resolution={self.resolution} instead of {wanted.resolution}")
        if self.shape != wanted.shape:
            found.append(f"moments of shape {list(self.shape)} instead of {list(wanted.shape)}")
        return found


def schema(captions: bool, facts: LatentFacts) -> pa.Schema:
    """Columns of a shard."""
    size = int(np.prod(facts.shape)) * NUMBERS[facts.numbers].itemsize
    fields = [
        pa.field("name", pa.string()),
        pa.field(IMAGE, pa.binary()),
        pa.field("crop", pa.list_(pa.int32(), 4)),
        pa.field("moments", pa.binary(size)),
    ]
    return pa.schema([*fields, pa.field(CAPTION, pa.list_(pa.string()))] if captions else fields)


def write_manifest(folder: Path, facts: LatentFacts, shards: list[dict[str, Any]]) -> None:
    """Write the manifest, which makes the folder a source: it comes last."""
    from vlv.atomic import write_whole

    content = {"format": "vlv_latents", **asdict(facts), "shards": shards}
    write_whole(folder / MANIFEST, (json.dumps(content, indent=2) + "\n").encode())


def read_manifest(folder: Path) -> tuple[LatentFacts, list[dict[str, Any]]]:
    """Facts and shards of a cache.

    Raises:
        ValueError: the manifest is broken.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text())
        facts = LatentFacts(content["vae"], content["resolution"], tuple(content["shape"]), content["numbers"])
        return facts, content["shards"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}): make the latents anew") from None


def is_latent_cache(folder: str) -> bool:
    """Whether a folder holds finished latents."""
    return os.path.isfile(os.path.join(folder, MANIFEST))


class LatentSource:
    """Rows of the Arrow files of a cache, mapped into memory."""

    pool_shards = 1

    def __init__(self, folder: str, settings: SourceSettings) -> None:
        """Map the files that the manifest lists.

        Raises:
            ValueError: the manifest or too many files are broken, or captions are wanted and not there.
        """
        self.facts, shards = read_manifest(Path(folder))
        self._captions = settings.captions
        sizes = {os.path.join(folder, str(shard["file"])): shard["samples"] for shard in shards}

        def check(path: str, table: pa.Table) -> None:
            if not table.schema.equals(schema(CAPTION in table.column_names, self.facts)):
                raise ValueError(f"{path} has other columns than latents: {', '.join(table.column_names)}")
            if table.num_rows != sizes[path]:
                raise ValueError(
                    f"{path} has {table.num_rows} samples, and {MANIFEST} says {sizes[path]}: make it anew"
                )

        self._rows = MappedRows(folder, list(sizes), check, settings.max_bad_share)
        if self._captions and CAPTION not in self._rows.schema.names:
            raise ValueError(f"{folder} has latents without captions: make them anew with captions=true")
        self.shard_sizes = self._rows.sizes

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def name(self, index: int) -> str:
        """Return the sample's name in the source that it is from."""
        try:
            return checked(self._rows[index].select(["name"]))["name"][0].as_py()
        except BadSample:  # the row has no other name, and `read` says what is wrong with it
            return str(index)

    def read(self, index: int) -> RawSample:
        """Read one row."""
        row = checked(self._rows[index])
        caption = one_or_several(row[CAPTION][0].as_py()) if self._captions else None
        moments = np.frombuffer(row["moments"][0].as_buffer(), dtype=NUMBERS[self.facts.numbers])
        image = LatentImage(row[IMAGE][0].as_py(), moments.reshape(self.facts.shape), row["crop"][0].as_py())
        return RawSample(image, caption)


def facts_of(source: SampleSource) -> LatentFacts | None:
    """The facts of a source of latents; None of one of images.

    Raises:
        ValueError: a mixture of both, or of different latents.
    """
    if isinstance(source, LatentSource):
        return source.facts
    if not isinstance(source, MixedSource):
        return None
    found = [facts_of(one) for one in source.sources]
    for name, facts in zip(source.names, found, strict=True):
        if facts != found[0]:
            raise ValueError(
                f"sources {source.names[0]!r} and {name!r} cannot be mixed: one has other latents than the other, or "
                "none"
            )
    return found[0]

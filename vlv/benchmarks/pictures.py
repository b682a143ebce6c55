"""Images that cost what photos cost, and datasets of them in each format."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

_QUALITY = 90
_SHARDS = 4  # of each dataset
_ROW_GROUP = 16


def jpegs(count: int, side: int) -> list[bytes]:
    """JPEGs with the detail of photos at every scale: about 2 bits a pixel at quality 90."""
    rng = np.random.default_rng(0)
    return [_jpeg(rng, side, side if number % 2 else side * 2 // 3) for number in range(count)]


def _jpeg(rng: np.random.Generator, width: int, height: int) -> bytes:
    # Noise alone would compress worse than any photo, and smooth fields better: both change what decoding costs.
    pixels = np.full((height, width, 3), 128, np.float32)
    cells = 4
    while cells <= max(width, height):  # halving amplitudes: the spectrum of natural images
        field = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        octave = np.asarray(field.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
        pixels += (octave - 128) * (4 / cells) ** 0.6
        cells *= 2
    content = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()


def shard_names(first: int = 0, end: int = _SHARDS) -> str:
    """Names of a dataset's shards, without their endings, as one pattern: {000..003}."""
    return f"{{{first:03}..{end - 1:03}}}"


def write_tar(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write files, each a name and its content, as a .tar."""
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_datasets(root: Path, images: Sequence[bytes]) -> dict[str, str]:
    """Write the images as a folder, .tar shards, parquet and Arrow files, and a mixture; returns the path of each."""
    names = [f"{number:06}.jpg" for number in range(len(images))]
    folder = root / "folder"
    folder.mkdir()
    for name, content in zip(names, images, strict=True):
        (folder / name).write_bytes(content)
    for kind in ("tar", "parquet", "arrow"):
        (root / kind).mkdir()
    for shard in range(_SHARDS):
        part = range(shard * len(images) // _SHARDS, (shard + 1) * len(images) // _SHARDS)
        write_tar(root / "tar" / f"{shard:03}.tar", ((names[number], images[number]) for number in part))
        table = pa.table({"image": [images[number] for number in part]})
        pq.write_table(table, root / "parquet" / f"{shard:03}.parquet", row_group_size=_ROW_GROUP, compression="none")
        with pa.ipc.new_file(str(root / "arrow" / f"{shard:03}.arrow"), table.schema) as writer:
            writer.write_table(table)
    half = _SHARDS // 2
    halves = (f"tar/{shard_names(0, half)}.tar", f"parquet/{shard_names(half)}.parquet")
    sources = [{"path": f"{root}/{path}"} for path in halves]
    (root / "mixture.yaml").write_text(json.dumps({"sources": sources}))  # JSON is YAML
    return {kind: str(root / kind) for kind in ("folder", "tar", "parquet", "arrow")} | {
        "mixture of tar and parquet": str(root / "mixture.yaml")
    }

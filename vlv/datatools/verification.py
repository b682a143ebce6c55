"""A folder of shards compared with its manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from vlv.datatools.manifest import Manifest, ShardRecord, read_manifest
from vlv.datatools.writers import WRITERS, count_samples


def verify(folder: Path) -> tuple[Manifest, list[str]]:
    """Read every shard again.

    Returns:
        (the manifest, what differs from it: a line each that begins with the file's name).

    Raises:
        ValueError: the folder has no manifest, or packing has not ended.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise ValueError(f"{folder} has no manifest.json: verify=true takes a folder that vlv data shards has written")
    if not manifest["complete"]:
        raise ValueError(f"{folder} is not complete: call vlv data shards as before to continue")
    found = [f"{shard['name']}: {fault}" for shard in manifest["shards"] if (fault := _fault(folder, shard))]
    return manifest, [*found, *_totals(manifest), *_unknown(folder, manifest)]


def _fault(folder: Path, shard: ShardRecord) -> str:
    path = folder / shard["name"]
    try:
        size = path.stat().st_size
        if size != shard["bytes"]:
            return f"{size:,} bytes, the manifest says {shard['bytes']:,}"
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != shard["sha256"]:
                return "its sha256 is not the manifest's"
        samples = count_samples(path)
    except FileNotFoundError:
        return "it is missing"
    except (OSError, ValueError) as error:
        return f"it cannot be read: {error}"
    return "" if samples == shard["samples"] else f"{samples:,} samples, the manifest says {shard['samples']:,}"


def _totals(manifest: Manifest) -> Iterator[str]:
    for total, parts in (
        (manifest["samples"], [shard["samples"] for shard in manifest["shards"]]),
        (manifest["bytes"], [shard["bytes"] for shard in manifest["shards"]]),
    ):
        if total != sum(parts):
            yield f"manifest.json: a total of {total:,}, its shards have {sum(parts):,}"


def _unknown(folder: Path, manifest: Manifest) -> list[str]:
    known = {shard["name"] for shard in manifest["shards"]}
    endings = tuple(f".{extension}" for extension, _ in WRITERS.values())
    names = sorted(path.name for path in folder.iterdir() if path.name.endswith(endings))
    return [f"{name}: it is not in the manifest" for name in names if name not in known]

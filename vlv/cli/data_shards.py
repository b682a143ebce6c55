"""Pack any dataset that vlv reads by index into .tar shards (webdataset) or parquet files, with a manifest.

A killed call is continued by the same call; the shards are the same bytes for any num_workers. Images keep their bytes
unless short_side makes them smaller. What cannot be read is left out and listed in bad_samples.jsonl. verify=true reads
the shards again and compares them with the manifest.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from vlv.cli.entry import BAD_CALL, FAILED_RUN, Call, parse, stop
from vlv.config import ShardsConfig
from vlv.extras import missing_packages
from vlv.redaction import redact

if TYPE_CHECKING:
    from vlv.datatools.manifest import Manifest


def main(arguments: list[str]) -> None:
    """Read the call, pack or verify, and print what is there."""
    config = parse(ShardsConfig, Call("vlv data shards", __doc__ or "", ("source", "destination")), arguments)
    try:
        if config.verify:
            _verify(config)
        else:
            _pack(config)
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)


def _pack(config: ShardsConfig) -> None:
    from vlv.cli.lock import place_lock
    from vlv.datatools.opening import open_dataset
    from vlv.datatools.packing import pack

    if config.duplicates == "near" and (problem := missing_packages("duplicates=near", "duplicates", "imagehash")):
        raise ValueError(problem)
    opened = open_dataset(config.source, config, config.captions)
    if config.counts_words and not opened.captions:
        raise ValueError(f"{config.source} has no captions, whose words are to be counted: drop the limits of words")
    what = "samples with captions" if opened.captions else "images without captions"
    print(f"{redact(config.source)}: {opened.kind}, {len(opened.source):,} {what}")
    for note in opened.notes:
        print(f"  {note}")
    folder = Path(config.destination)
    try:
        with place_lock(f"destination={folder}", folder / ".lock"):
            manifest = pack(opened, config)
    except OSError as error:
        _stop_writing(folder, error)
    for line in described(folder, manifest):
        print(line)


def described(folder: Path, manifest: Manifest) -> list[str]:
    """What a folder of shards holds, and what was left out of it."""
    kind, shards, size = manifest["settings"]["format"], manifest["shards"], manifest["bytes"] / 1e6
    lines = [f"{folder}: {len(shards):,} {kind} shards, {manifest['samples']:,} samples, {size:,.1f} MB"]
    if manifest["left_out"]:
        counts = ", ".join(f"{count:,} {name}" for name, count in manifest["left_out"].items())
        lines.append(f"  left out: {counts}")
    if manifest["bad_reasons"]:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in manifest["bad_reasons"].items())
        lines.append(f"  bad, listed in bad_samples.jsonl: {reasons}")
    if manifest["truncated"]:
        lines.append(f"  truncated, and read: {manifest['truncated']:,}")
    return lines


def _verify(config: ShardsConfig) -> None:
    from vlv.datatools.verification import verify

    folder = Path(config.folder)
    manifest, differences = verify(folder)
    for line in differences:
        print(line)
    if differences:
        stop(f"{folder}: {len(differences):,} differences from its manifest", FAILED_RUN)
    print(f"{folder}: {len(manifest['shards']):,} shards with {manifest['samples']:,} samples are as they were written")


def _stop_writing(folder: Path, error: OSError) -> NoReturn:
    from vlv.atomic import is_disk_full

    if is_disk_full(error):
        stop(f"{folder}: no room ({error}); free some space and call again, finished shards stay", FAILED_RUN)
    stop(f"{folder} cannot be written: {error}", BAD_CALL)

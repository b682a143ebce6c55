"""Any source packed into shards, in parallel; a killed call is continued by the same call.

A shard holds the samples of one range of the source, less those that are left out, so that its content depends on the
plan alone and on no other shard. It is done when its record lies in the folder `.parts`; the records become the
manifest at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from vlv.atomic import remove_leftovers, whole_file, write_whole
from vlv.config import ShardsConfig
from vlv.data.bad_samples import reason_of
from vlv.data.sample import SampleSource
from vlv.datatools.conversion import Converted, Filtered, convert
from vlv.datatools.duplicates import Fingerprints, repeated
from vlv.datatools.manifest import (
    TRUNCATED,
    BadRecord,
    Manifest,
    PartRecord,
    Plan,
    ShardRecord,
    changes,
    make_plan,
    read_manifest,
    write_manifest,
)
from vlv.datatools.opening import Opened
from vlv.datatools.pool import in_processes
from vlv.datatools.writers import WRITERS, Member, tar_bytes
from vlv.progress import Progress

_PARTS = ".parts"
_SIZED_BY = 200  # samples from whose mean size shard_mb goes
_LEAST_DIGITS = 5


def pack(opened: Opened, config: ShardsConfig) -> Manifest:
    """Pack a source into `config.destination`, or continue to; the caller holds its lock.

    Raises:
        ValueError: the folder holds other data or another call's shards, or not one sample is left.
        OSError: it cannot be written.
    """
    folder = Path(config.destination)
    if os.path.isdir(config.source) and folder.resolve().is_relative_to(Path(config.source).resolve()):
        raise ValueError(f"{folder} lies in {config.source}, where it would become data itself: give another folder")
    before = read_manifest(folder)
    if before is None:
        _require_empty(folder)
        size = _samples_per_shard(opened.source, config)
    else:
        size = before["samples_per_shard"]
    plan = make_plan(config, opened.source, opened.captions, size)
    if before is not None and (found := changes(before, plan)):
        raise ValueError(
            f"{folder} holds shards of another call: {'; '.join(found)}. Give another folder, or remove this one"
        )
    if before is not None and before["complete"]:
        return _with_samples(before)
    if before is None:
        write_manifest(folder, plan)
    _remove_leftovers(folder)
    packing = _Packing(opened.source, config, opened.captions, folder, plan)
    if config.duplicates != "keep":
        packing.repeated = _find_repeated(packing)
    records = _write_shards(packing)
    manifest = write_manifest(folder, plan, records)
    shutil.rmtree(folder / _PARTS, ignore_errors=True)
    return _with_samples(manifest)


@dataclass
class _Packing:
    """What every worker needs; a fork hands it over.

    repeated: indices of samples that are duplicates, sorted.
    """

    source: SampleSource
    config: ShardsConfig
    captions: bool
    folder: Path
    plan: Plan
    repeated: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def count(self) -> int:
        """How many shards there are."""
        return -(-len(self.source) // self.plan["samples_per_shard"])

    def indices(self, number: int) -> range:
        """The samples of a shard."""
        size = self.plan["samples_per_shard"]
        return range(number * size, min((number + 1) * size, len(self.source)))

    def stem(self, number: int) -> str:
        """What a shard's files are called, without an extension."""
        return str(number).zfill(max(_LEAST_DIGITS, len(str(self.count - 1))))

    def record(self, number: int) -> Path:
        """Where a finished shard is noted."""
        return self.folder / _PARTS / f"{self.stem(number)}.json"

    def scan(self, number: int) -> Path:
        """Where the fingerprints of a shard's samples lie."""
        return self.folder / _PARTS / f"{self.stem(number)}.npy"

    def read_record(self, number: int) -> PartRecord | None:
        """What a finished shard came to; None where it is not finished, or its file has gone."""
        try:
            record = cast("PartRecord", json.loads(self.record(number).read_bytes()))
            shard = record["shard"]
            if shard["samples"] and (self.folder / shard["name"]).stat().st_size != shard["bytes"]:
                return None
        except (OSError, ValueError, LookupError):
            return None
        return record

    def write(self, number: int) -> int:
        """Write a shard and its record; returns how many samples of the source that were."""
        extension, write = WRITERS[self.config.format]
        path = self.folder / f"{self.stem(number)}.{extension}"
        outcome = Outcome()
        repeated = set(self.repeated[slice(*np.searchsorted(self.repeated, _ends(self.indices(number))))].tolist())
        with whole_file(path) as temporary:
            samples = write(temporary, self._members(number, repeated, outcome), self.config, self.captions)
            with temporary.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = temporary.stat().st_size
        if not samples:
            path.unlink()
        shard = ShardRecord(name=path.name, samples=samples, bytes=size if samples else 0, sha256=digest)
        record = PartRecord(
            shard=shard, truncated=outcome.truncated, left_out=dict(outcome.left_out), bad=outcome.records
        )
        write_whole(self.record(number), json.dumps(record).encode())
        return len(self.indices(number))

    def _members(self, number: int, repeated: set[int], outcome: Outcome) -> Iterator[Member]:
        for index in self.indices(number):
            if index in repeated:
                outcome.left_out["duplicate"] += 1
            elif (sample := convert_at(self.source, index, self.config, outcome)) is not None:
                # Of the place in the source: unique, and the same for any size of shards.
                key = f"{index:09d}"
                yield Member(key, self.source.name(index), sample.image, sample.extension, sample.caption)

    def fingerprint(self, number: int) -> int:
        """Write the fingerprints of the samples that no filter leaves out; returns the samples read."""
        kept = [
            (index, sample.fingerprint)
            for index in self.indices(number)
            if (sample := convert_at(self.source, index, self.config, Outcome())) is not None
        ]
        with whole_file(self.scan(number)) as temporary, temporary.open("wb") as file:
            np.save(file, Fingerprints.of(kept).table)
        return len(self.indices(number))


@dataclass
class Outcome:
    """What became of the samples that were read."""

    left_out: Counter[str] = field(default_factory=Counter)
    records: list[BadRecord] = field(default_factory=list)
    truncated: int = 0

    def note(self, source: SampleSource, index: int, reason: str) -> None:
        """List a sample as training lists it."""
        self.records.append(BadRecord(dataset="source", name=source.name(index), position=index, reason=reason))


def convert_at(source: SampleSource, index: int, config: ShardsConfig, outcome: Outcome) -> Converted | None:
    """Read and convert a sample; None, and why in `outcome`, for one that is left out."""
    try:
        sample = convert(source.read(index), config)
    except Filtered as name:
        outcome.left_out[str(name)] += 1
        return None
    except Exception as error:  # noqa: BLE001  (what is no matter of the sample is raised again)
        text = reason_of(error)
    else:
        if sample.truncated:
            outcome.truncated += 1
            outcome.note(source, index, TRUNCATED)
        return sample
    outcome.left_out["bad"] += 1
    outcome.note(source, index, text)
    return None


def _ends(indices: range) -> tuple[int, int]:
    return indices.start, indices.stop


def _require_empty(folder: Path) -> None:
    others = sorted(path.name for path in folder.iterdir() if path.name != ".lock")
    if others:
        raise ValueError(f"{folder} holds other data ({others[0]}): give a new or empty folder")


def _remove_leftovers(folder: Path) -> None:
    for place in (folder, folder / _PARTS):
        place.mkdir(exist_ok=True)
        remove_leftovers(place)


def _samples_per_shard(source: SampleSource, config: ShardsConfig) -> int:
    """The samples of a shard; of shard_mb, by the mean size of samples from all over the source."""
    if config.shard_mb is None:
        return config.samples_per_shard
    indices = np.unique(np.linspace(0, len(source) - 1, min(_SIZED_BY, len(source))).astype(np.int64)).tolist()
    total = 0
    for index in indices:
        if (sample := convert_at(source, index, config, Outcome())) is not None:
            member = Member(f"{index:09d}", source.name(index), sample.image, sample.extension, sample.caption)
            total += tar_bytes(member, config.keep_names)
    if not total:
        raise ValueError(f"shard_mb={config.shard_mb:g}: not one of {len(indices)} samples is left, so none has a size")
    return max(1, int(config.shard_mb * 1e6 * len(indices) / total))


def _find_repeated(packing: _Packing) -> np.ndarray:
    """Fingerprint every sample, then compare them all; the first of equal ones stays."""
    todo = [number for number in range(packing.count) if not packing.scan(number).exists()]
    _run(packing.fingerprint, todo, packing, "comparing")
    tables = [np.load(packing.scan(number)) for number in range(packing.count)]
    return repeated(Fingerprints(np.concatenate(tables)))


def _write_shards(packing: _Packing) -> list[PartRecord]:
    todo = [number for number in range(packing.count) if packing.read_record(number) is None]
    _run(packing.write, todo, packing, "packing")
    records = [packing.read_record(number) for number in range(packing.count)]
    return [record for record in records if record is not None]


def _run(work: Callable[[int], int], todo: list[int], packing: _Packing, label: str) -> None:
    progress = Progress(label, sum(len(packing.indices(number)) for number in todo))
    for samples in in_processes(work, todo, packing.config.num_workers):
        progress.advance(samples)
    progress.close()


def _with_samples(manifest: Manifest) -> Manifest:
    if not manifest["samples"]:
        why = ", ".join(f"{count:,} {name}" for name, count in manifest["left_out"].items())
        raise ValueError(
            f"not one of the {manifest['source_samples']:,} samples of {manifest['source']} is left: {why}"
        )
    return manifest

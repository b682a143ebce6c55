"""The manifest of a folder of shards: the plan before anything is written, and what came of it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from vlv.atomic import write_whole
from vlv.config import ShardsConfig
from vlv.config.tools import FREE
from vlv.data.sample import SampleSource
from vlv.redaction import redact, redact_values
from vlv.settings.declare import settings_of, shown

MANIFEST = "manifest.json"
BAD_SAMPLES = "bad_samples.jsonl"
TRUNCATED = "truncated, read"  # the reason under which training lists such samples


class BadRecord(TypedDict):
    """A sample that could not be used, or whose truncated image was: a line of bad_samples.jsonl."""

    dataset: str
    name: str
    position: int
    reason: str


class ShardRecord(TypedDict):
    """A shard as the manifest names it. One whose samples were all left out has no file: samples 0."""

    name: str
    samples: int
    bytes: int
    sha256: str


class PartRecord(TypedDict):
    """What packing one shard's samples came to."""

    shard: ShardRecord
    truncated: int
    left_out: dict[str, int]
    bad: list[BadRecord]


class Plan(TypedDict):
    """What decides every byte of the shards."""

    source: str
    source_samples: int
    source_names_sha256: str
    captions: bool
    samples_per_shard: int
    settings: dict[str, object]


class Manifest(Plan):
    """The plan, and, once `complete`, the shards."""

    complete: bool
    samples: int
    bytes: int
    truncated: int
    left_out: dict[str, int]
    bad_reasons: dict[str, int]
    shards: list[ShardRecord]


def make_plan(config: ShardsConfig, source: SampleSource, captions: bool, samples_per_shard: int) -> Plan:
    """Describe a call. The source is known by its samples' names: it may have moved."""
    digest = hashlib.sha256()
    for index in range(len(source)):
        digest.update(source.name(index).encode("utf-8", "backslashreplace") + b"\0")
    settings = {key: getattr(config, key) for key in settings_of(ShardsConfig) if key not in FREE}
    return Plan(
        source=redact(config.source),
        source_samples=len(source),
        source_names_sha256=digest.hexdigest(),
        captions=captions,
        samples_per_shard=samples_per_shard,
        settings=redact_values(settings),
    )


def changes(before: Plan, now: Plan) -> list[str]:
    """What a call has else than the plan that its folder was begun with, in words."""
    keys = [key for key in now["settings"] if before["settings"].get(key) != now["settings"][key]]
    found = [f"{key} was {shown(before['settings'].get(key))} and is {shown(now['settings'][key])}" for key in keys]
    if before["captions"] != now["captions"]:
        found.append(f"samples {'had' if before['captions'] else 'had no'} captions and now {_have(now['captions'])}")
    if before["source_samples"] != now["source_samples"]:
        found.append(f"the source had {before['source_samples']:,} samples and has {now['source_samples']:,}")
    elif before["source_names_sha256"] != now["source_names_sha256"]:
        found.append("the source's samples have other names")
    return found


def _have(captions: bool) -> str:
    return "have them" if captions else "have none"


def read_manifest(folder: Path) -> Manifest | None:
    """Read a folder's manifest; None where it has none.

    Raises:
        ValueError: it is none of ours.
    """
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): remove {folder} and pack again") from None
    if not isinstance(found, dict) or not Manifest.__required_keys__ <= found.keys():
        raise ValueError(f"{path} is not a manifest of vlv data shards: give another folder")
    return found  # pyright: ignore[reportReturnType]


def write_manifest(folder: Path, plan: Plan, parts: Sequence[PartRecord] | None = None) -> Manifest:
    """Write the manifest: of a plan that is under way, or with all that came of it."""
    done = parts or ()
    shards = [part["shard"] for part in done if part["shard"]["samples"]]
    bad = [record for part in done for record in part["bad"]]
    left_out = sum((Counter(part["left_out"]) for part in done), Counter[str]())
    truncated = sum(part["truncated"] for part in done)
    reasons = Counter(record["reason"].split(":")[0] for record in bad if record["reason"] != TRUNCATED)
    manifest = Manifest(
        **plan,
        complete=parts is not None,
        samples=sum(shard["samples"] for shard in shards),
        bytes=sum(shard["bytes"] for shard in shards),
        truncated=truncated,
        left_out=dict(sorted(left_out.items())),
        bad_reasons=dict(sorted(reasons.items())),
        shards=shards,
    )
    if bad:
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in bad)
        write_whole(folder / BAD_SAMPLES, lines.encode("utf-8", "backslashreplace"))
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    write_whole(folder / MANIFEST, text.encode("utf-8", "backslashreplace"))
    return manifest

"""What img2dataset wrote and could not fetch, from the *_stats.json that it leaves beside each shard."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

_STATS = "*_stats.json"
# The first that matches names the kind: img2dataset counts by the message, which may hold a host's name.
_KINDS = (
    (r"HTTP Error (\d+)", r"HTTP \1"),
    (r"timed out|timeout", "time-out"),
    (r"name or service not known|name resolution|nodename|no address associated|getaddrinfo", "host not found"),
    (r"certificate|ssl|tls", "TLS"),
    (r"refused|reset|unreachable|remote end closed|incompleteread|broken pipe|no route", "connection failed"),
    (r"x-robots-tag", "refused by X-Robots-Tag"),
    (r"image too small", "smaller than the metadata says"),
    (r"aspect ratio too large", "narrower than the metadata says"),
    (r"imreader|image area too large|CV_IO_MAX_IMAGE|pixels", "too many pixels"),
    (r"image decoding error|imdecode|opencv", "no image, or a damaged one"),
)


class _Stats(TypedDict):
    """What is read of a *_stats.json."""

    count: int
    successes: int
    status_dict: dict[str, int]


@dataclass(frozen=True)
class Downloads:
    """Finished shards, images asked for and written, bytes of the tars, and failures by kind."""

    shards: int
    asked: int
    written: int
    num_bytes: int
    failures: Counter[str]


def kind_of_failure(message: str) -> str:
    """Name the kind of what img2dataset says of an image."""
    for pattern, kind in _KINDS:
        if found := re.search(pattern, message, re.IGNORECASE):
            return found.expand(kind)
    return f"other: {' '.join(message.split())[:60]}"


def remove_torn(folder: Path) -> int:
    """Remove statistics that a kill cut short, by which a shard counts as finished; returns how many."""
    torn = [path for path in folder.glob(_STATS) if _read(path) is None]
    for path in torn:
        path.unlink()
    return len(torn)


def downloads(folder: Path) -> Downloads:
    """Sum up the finished shards of a folder."""
    shards = asked = written = num_bytes = 0
    failures: Counter[str] = Counter()
    for path in sorted(folder.glob(_STATS)):
        if (stats := _read(path)) is None:
            continue
        tar = path.with_name(path.name.replace("_stats.json", ".tar"))
        shards += 1
        asked += stats["count"]
        written += stats["successes"]
        num_bytes += tar.stat().st_size if tar.exists() else 0
        for message, count in stats["status_dict"].items():
            if message != "success":
                failures[kind_of_failure(message)] += count
    return Downloads(shards, asked, written, num_bytes, failures)


def lines(found: Downloads) -> list[str]:
    """The statistics for a terminal."""
    share, size = found.written / max(1, found.asked), found.num_bytes / 1e6
    shown = [f"{found.shards:,} shards: {found.written:,} of {found.asked:,} images ({share:.1%}), {size:,.1f} MB"]
    width = max((len(f"{count:,}") for count in found.failures.values()), default=0)
    for kind, count in found.failures.most_common():
        shown.append(f"  {count:>{width},}  {kind}")
    return shown


def _read(path: Path) -> _Stats | None:
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        return None
    return cast("_Stats", found) if isinstance(found, dict) and _Stats.__required_keys__ <= found.keys() else None

"""The facts of a dataset: its files, and what a probe of its samples shows."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

import numpy as np

from vlv.config import InspectDataConfig
from vlv.datatools.distribution import Distribution, of_aspects, of_counts, of_sides
from vlv.datatools.opening import Opened
from vlv.datatools.probe import BadKind, Probe
from vlv.redaction import redact

_SIZED = 10_000  # files whose size is asked for; of more, their mean stands for the others
WORKERS = 8  # that the estimate of speed is for


@dataclass(frozen=True)
class Speed:
    """What the loader can be expected to give, from one process here.

    Milliseconds an image; images a second of one process, and of 8 that have a core each; hours that 8 need for every
    sample once. cores: those of this machine.
    """

    read_ms: float
    decode_ms: float
    resize_ms: float
    one_process: float
    eight_workers: float
    epoch_hours: float
    cores: int


@dataclass(frozen=True)
class Inspection:
    """What `vlv data inspect` finds; shares are of the good samples of the probe.

    num_files, num_bytes: 0 where that is not known, as of a hub's dataset, a mixture and URLs; bytes are `estimated`
    from some files where there are many. num_shards: tar files, row groups, or
    parts of a folder, which have no meaning but the order's. shard_samples: least, median and most in one.
    above_limit: share of captions longer than max_caption_tokens; None where tokens were not counted.
    enlarged: share of images whose short side is below decoder_resolution.
    """

    source: str
    kind: str
    num_files: int
    num_bytes: int
    estimated: bool
    num_samples: int
    captions: bool
    num_shards: int
    shard_samples: list[int]
    notes: list[str]
    probed: int
    good: int
    truncated: int
    repeated: int
    bad: list[BadKind]
    formats: dict[str, int]
    modes: dict[str, int]
    profiles: int
    turned: int
    transparent: int
    sides: Distribution | None
    aspects: Distribution | None
    enlarged: float
    decoder_resolution: int
    lengths: dict[str, Distribution]
    max_caption_tokens: int
    above_limit: float | None
    speed: Speed | None

    def as_json(self) -> dict[str, object]:
        """Every fact, for a JSON file."""
        return dataclasses.asdict(self)


def inspection(opened: Opened, probe: Probe, config: InspectDataConfig) -> Inspection:
    """Put together what is known."""
    num_bytes, estimated = _size(opened)
    sizes = opened.source.shard_sizes
    counts = {"tokens": probe.tokens, "words": probe.words, "characters": probe.characters}
    lengths = {unit: spread for unit, values in counts.items() if (spread := of_counts(values)) is not None}
    above = [count > config.max_caption_tokens for count in probe.tokens]
    small = [side < config.decoder_resolution for side in probe.sides]
    return Inspection(
        source=redact(config.source),
        kind=opened.kind,
        num_files=0 if opened.files is None else len(opened.files.names),
        num_bytes=num_bytes,
        estimated=estimated,
        num_samples=len(opened.source),
        captions=opened.captions,
        num_shards=len(sizes),
        shard_samples=[int(number) for number in (sizes.min(), np.median(sizes), sizes.max())],
        notes=[redact(note) for note in opened.notes],
        probed=probe.samples,
        good=probe.good,
        truncated=probe.truncated,
        repeated=probe.repeated,
        bad=probe.bad_kinds(),
        formats=dict(probe.formats.most_common()),
        modes=dict(probe.modes.most_common()),
        profiles=probe.profiles,
        turned=probe.turned,
        transparent=probe.transparent,
        sides=of_sides(probe.sides),
        aspects=of_aspects(probe.aspects),
        enlarged=sum(small) / max(1, len(small)),
        decoder_resolution=config.decoder_resolution,
        lengths=lengths,
        max_caption_tokens=config.max_caption_tokens,
        above_limit=sum(above) / len(above) if above else None,
        speed=_speed(probe, len(opened.source)),
    )


def _size(opened: Opened) -> tuple[int, bool]:
    """Bytes of the files, and whether they are estimated."""
    if opened.files is None:
        return 0, False
    names = opened.files.names
    places = np.unique(np.linspace(0, len(names) - 1, min(_SIZED, len(names))).astype(np.int64)).tolist()
    total = 0
    for place in places:
        try:
            total += os.stat(os.path.join(os.fsencode(opened.files.root), names[place].as_py())).st_size
        except OSError:  # a link to nothing is a bad sample
            continue
    return total * len(names) // len(places), len(places) < len(names)


def _speed(probe: Probe, num_samples: int) -> Speed | None:
    total = sum(probe.seconds.values())
    if not probe.good or not total:
        return None
    rate = probe.good / total
    parts = {part: 1000 * seconds / probe.good for part, seconds in probe.seconds.items()}
    return Speed(
        read_ms=parts["read"],
        decode_ms=parts["decode"],
        resize_ms=parts["resize"],
        one_process=rate,
        eight_workers=WORKERS * rate,
        epoch_hours=num_samples / (WORKERS * rate) / 3600,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )

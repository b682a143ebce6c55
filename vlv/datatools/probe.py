"""Some samples of a dataset, read as training would read them, and what they show."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from vlv.data.bad_samples import reason_of
from vlv.data.caption_text import require_text
from vlv.data.formats import DecodeSettings
from vlv.data.sample import BadSample, SampleSource, caption_at
from vlv.data.transforms import DECODE_ERRORS, damage, decode_image, is_truncated, orientation, upright_size
from vlv.datatools.pictures import encoded, rgb

if TYPE_CHECKING:
    from vlv.data.preparation import ImageProcessor

_SHOWN = 24  # samples on the page
_THUMBNAIL = (320, 320)
_WHOLE_SHARDS = 64  # of a source whose shards are read as a whole, as parquet's are: each costs its full decoding


class Shown(NamedTuple):
    """A sample on the page: its picture as JPEG, small."""

    name: str
    picture: bytes
    size: tuple[int, int]  # of the whole image, upright, in pixels
    caption: str | None


@dataclass(frozen=True)
class BadKind:
    """Samples that are bad for one reason, and the first of them."""

    reason: str
    count: int
    example: str


@dataclass
class Probe:
    """What the samples showed. Lists have an entry for each good sample, in the order of the source.

    seconds: reading, decoding, both resizes, summed over good samples.
    """

    samples: int = 0
    bad: dict[str, list[str]] = field(default_factory=dict)  # reason -> "name: detail"
    truncated: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    profiles: int = 0
    turned: int = 0
    transparent: int = 0
    repeated: int = 0
    sides: list[int] = field(default_factory=list)
    aspects: list[float] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    characters: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "decode": 0.0, "resize": 0.0})
    shown: list[Shown] = field(default_factory=list)

    @property
    def good(self) -> int:
        """Samples that training could use."""
        return len(self.sides)

    def bad_kinds(self) -> list[BadKind]:
        """The reasons, the most frequent first."""
        kinds = [BadKind(reason, len(names), names[0]) for reason, names in self.bad.items()]
        return sorted(kinds, key=lambda kind: (-kind.count, kind.reason))


@dataclass(frozen=True)
class Prober:
    """Reads samples.

    process: the two resizes of training. count_tokens: raises BadSample for what is no caption; None counts no tokens.
    captions: whether samples are pairs. pictures: whether small pictures are kept.
    """

    source: SampleSource
    decoding: DecodeSettings
    process: ImageProcessor
    count_tokens: Callable[[str], int] | None
    captions: bool
    pictures: bool

    def look(self, indices: list[int], advance: Callable[[int], None]) -> Probe:
        """Read the samples at the indices; `advance` is called after each, with 1."""
        probe, seen = Probe(samples=len(indices)), set[bytes]()
        shown = set(evenly(indices, _SHOWN)) if self.pictures else set[int]()
        due = 0  # pictures that bad samples left out: the next good one stands in
        for index in indices:
            due += index in shown
            try:
                digest = self._look_at(index, probe, bool(due))
                due -= bool(due)
                probe.repeated += digest in seen
                seen.add(digest)
            except Exception as error:  # noqa: BLE001  (what is no matter of the sample is raised again)
                _note(probe, self.source.name(index), reason_of(error))
            advance(1)
        return probe

    def _look_at(self, index: int, probe: Probe, show: bool) -> bytes:
        """Add a good sample to the probe; returns a digest of its image."""
        started = time.perf_counter()
        sample = self.source.read(index)
        read = time.perf_counter()
        image = decode_image(sample.image, self.decoding)
        decoded = time.perf_counter()
        try:
            self.process(image)
        except DECODE_ERRORS as error:
            raise BadSample(damage(error)) from None
        resized = time.perf_counter()
        width, height = upright_size(image)
        name = self.source.name(index)
        caption = None if sample.caption is None else caption_at(sample.caption, name, None)
        self._count_caption(caption, probe)  # the last that can fail: nothing is counted of a bad sample
        self._describe(image, probe)
        probe.sides.append(min(width, height))
        probe.aspects.append(width / height)
        for part, seconds in zip(("read", "decode", "resize"), np.diff([started, read, decoded, resized]), strict=True):
            probe.seconds[part] += float(seconds)
        if show:
            small = rgb(image)
            small.thumbnail(_THUMBNAIL)
            picture = encoded(small, "jpeg", 85)
            probe.shown.append(Shown(name, picture, (width, height), caption))
        data = sample.image.tobytes() if isinstance(sample.image, np.ndarray) else sample.image
        return hashlib.sha256(data).digest()

    def _count_caption(self, caption: str | None, probe: Probe) -> None:
        if not self.captions:
            return
        if caption is None:
            raise BadSample("it has no caption")
        if self.count_tokens is not None:
            probe.tokens.append(self.count_tokens(caption))
        else:
            require_text(caption)
        probe.words.append(len(caption.split()))
        probe.characters.append(len(caption))

    def _describe(self, image: Image.Image, probe: Probe) -> None:
        probe.formats[image.format or "raw pixels"] += 1
        probe.modes[image.mode] += 1
        probe.profiles += "icc_profile" in image.info
        probe.turned += orientation(image) != 1
        probe.transparent += image.has_transparency_data
        probe.truncated += is_truncated(image)


def _note(probe: Probe, name: str, reason: str) -> None:
    kind, _, detail = " ".join(reason.split()).partition(":")
    probe.bad.setdefault(kind, []).append(f"{name}:{detail}" if detail else name)


def probe_indices(shard_sizes: np.ndarray, kind: str, count: int) -> list[int]:
    """Choose at most `count` samples, spread evenly and always the same; of parquet, from at most 64 row groups."""
    ends = np.cumsum(shard_sizes)
    total = int(ends[-1])
    if kind != "parquet":
        return evenly(range(total), count)
    filled = np.flatnonzero(shard_sizes).tolist()
    chosen = evenly(filled, _WHOLE_SHARDS)
    # Each in proportion to its size, so that no sample counts more for lying in a small group.
    candidates = [index for shard in chosen for index in range(int(ends[shard] - shard_sizes[shard]), int(ends[shard]))]
    return evenly(candidates, count)


def evenly(items: range | list[int], count: int) -> list[int]:
    """At most `count` of the items, spread evenly; the first and the last are among them where there are two."""
    places = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).astype(np.int64))
    return [items[place] for place in places.tolist()]

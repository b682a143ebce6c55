"""Several sources as one: a YAML file lists them with their weights, and every batch has its share of each.

The position stays one number. Positions come in blocks, in which each source has a fixed number of places, spread
evenly; the m-th place of a source, counted over all blocks, is position m of its own order. So each source is read
exactly once in each of its own epochs, whatever the weights are, and resuming needs nothing beside the position.
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import yaml

from vlv.data.formats import FORMATS, RAW_SIZE_ADVICE, SourceSettings, is_raw_size, raw_shape
from vlv.data.order import SampleOrder, default_window, recall
from vlv.data.sample import RawSample, SampleSource
from vlv.redaction import redact

MIXTURE_ENDINGS = (".yaml", ".yml")
_BLOCK = 1024  # places, at least: enough for weights of a percent to be the same in every batch
_LARGEST_BLOCK = 1_000_000  # places; a weight that needs more would be read once in so many samples
# An entry's own settings that are texts: the run's setting, and the field of `SourceSettings`.
_TEXTS = {
    "image_column": "image_column",
    "caption_column": "caption_column",
    "data_split": "split",
    "data_subset": "subset",
    "data_revision": "revision",
}
_KEYS = ("path", "weight", "name", "data_format", "raw_image_size", *_TEXTS)


@dataclass(frozen=True)
class MixtureEntry:
    """A source of a mixture, as the file lists it.

    settings: what the entry sets of `SourceSettings`.
    weight: its share of the samples, relative to the others'; None where no entry has one.
    """

    name: str
    path: str
    weight: float | None
    settings: dict[str, Any]

    def apply(self, settings: SourceSettings) -> SourceSettings:
        """The run's settings with the entry's own."""
        return replace(settings, **self.settings)


class MixedSource:
    """Samples of several sources, one source after another by index."""

    pool_shards = 1

    def __init__(self, names: Sequence[str], sources: Sequence[SampleSource], weights: Sequence[float]) -> None:
        """Join sources, whose weights are positive."""
        self.names, self.sources, self.weights = tuple(names), tuple(sources), tuple(weights)
        self.shard_sizes = np.concatenate([source.shard_sizes for source in sources])
        self._ends = np.cumsum([len(source) for source in sources])

    def __len__(self) -> int:
        """Return the number of samples of all sources."""
        return int(self._ends[-1])

    def source_of(self, index: int) -> int:
        """The number of the source that a sample is of."""
        return int(np.searchsorted(self._ends, index, side="right"))

    def name(self, index: int) -> str:
        """Return source:name, as in photos:a/1.jpg."""
        number = self.source_of(index)
        return f"{self.names[number]}:{self.sources[number].name(index - self._start(number))}"

    def read(self, index: int) -> RawSample:
        """Read one sample of its source."""
        number = self.source_of(index)
        return self.sources[number].read(index - self._start(number))

    def _start(self, number: int) -> int:
        return int(self._ends[number]) - len(self.sources[number])


class _Block(NamedTuple):
    """The places of a block, [P] each."""

    sources: np.ndarray  # the source of a place
    positions: np.ndarray  # which position of that source's order it is


class MixedOrder:
    """Maps a position n to the index of a sample in a `MixedSource`."""

    def __init__(self, orders: Sequence[SampleOrder], weights: Sequence[float]) -> None:
        """Mix the sources' own orders.

        Raises:
            ValueError: a weight so small that its source would hardly be read.
        """
        self._orders = tuple(orders)
        sizes = [len(order) for order in orders]
        self._starts = np.cumsum(sizes) - sizes
        self._length = sum(sizes)
        # Exact: with floats, blocks far out would be counted differently where rounding differs.
        shares = [Fraction(weight) for weight in weights]
        total = sum(shares)
        self._ends = [sum(shares[: number + 1], Fraction(0)) / total for number in range(len(shares))]
        # Two places at least for each source, or rounding could give one a negative number of them in some block.
        self._block = max(_BLOCK, math.ceil(2 * total / min(shares)))
        if self._block > _LARGEST_BLOCK:
            least = float(2 * total / _LARGEST_BLOCK)
            raise ValueError(f"a weight of {min(weights):g} is too small beside the others: give at least {least:.2g}")
        self._blocks: OrderedDict[object, _Block] = OrderedDict()

    def __len__(self) -> int:
        """The samples of all sources. After so many positions a source may have been read more or less than once."""
        return self._length

    def __getitem__(self, n: int) -> int:
        """Return the source index of position n, for any n >= 0."""
        source, position = self._place(n)
        return int(self._starts[source]) + self._orders[source][position]

    __iter__ = None  # the order is endless; ask for positions

    def epoch(self, n: int) -> int:
        """Return the epoch of its own source that position n is in."""
        source, position = self._place(n)
        return self._orders[source].epoch(position)

    def _place(self, n: int) -> tuple[int, int]:
        """The source of position n, and the position in that source's order."""
        if n < 0:
            raise IndexError(f"position {n} is negative")
        number, place = divmod(n, self._block)
        block = recall(self._blocks, number, lambda: self._lay_out(number))
        return int(block.sources[place]), int(block.positions[place])

    def _lay_out(self, number: int) -> _Block:
        before, after = self._places_before(number), self._places_before(number + 1)
        counts = after - before
        sources = np.repeat(np.arange(len(counts)), counts)
        ranks = np.concatenate([np.arange(count) for count in counts])
        # Evenly: the k-th of c places of a source lies at (k + 1/2) / c of the block.
        spread = np.argsort((ranks + 0.5) / counts[sources], kind="stable")
        return _Block(sources[spread], (before[sources] + ranks)[spread])

    def _places_before(self, block: int) -> np.ndarray:
        """How many places each source has before a block, int64 [sources]; together block x P."""
        ends = [math.floor(block * self._block * end + Fraction(1, 2)) for end in self._ends]
        return np.diff(np.array([0, *ends], dtype=np.int64))


def build_order(source: SampleSource, seed: int, window: int | None, shuffle: bool = True) -> SampleOrder | MixedOrder:
    """The order of a source, or of a mixture: that of each of its sources, mixed by weight.

    Args:
        window: the shuffle window of each source; None is its `default_window`.
    """
    if isinstance(source, MixedSource):
        orders = [SampleOrder(one.shard_sizes, seed, window or default_window(one), shuffle) for one in source.sources]
        return MixedOrder(orders, source.weights)
    return SampleOrder(source.shard_sizes, seed, window or default_window(source), shuffle)


def is_mixture(path: str) -> bool:
    """Whether a path names a file that lists sources."""
    return path.lower().endswith(MIXTURE_ENDINGS)


def open_mixture(
    path: str, settings: SourceSettings, open_source: Callable[[str, SourceSettings], SampleSource]
) -> MixedSource:
    """Open the sources that a file lists; without weights, each sample of all of them counts alike.

    Raises:
        ValueError: the file is no such list, or a source of it cannot be opened; names the entry.
    """
    entries = read_mixture(path)
    sources = [_named(path, entry, settings, open_source) for entry in entries]
    weights = [
        float(len(source)) if entry.weight is None else entry.weight
        for entry, source in zip(entries, sources, strict=True)
    ]
    return MixedSource([entry.name for entry in entries], sources, weights)


def check_mixture(path: str, settings: SourceSettings, check: Callable[[str, SourceSettings], None]) -> None:
    """Check the file, and each source that it lists, as `check_source` does."""
    for entry in read_mixture(path):
        _named(path, entry, settings, check)


def _named(path: str, entry: MixtureEntry, settings: SourceSettings, use: Callable[[str, SourceSettings], Any]) -> Any:
    try:
        return use(entry.path, entry.apply(settings))
    except ValueError as error:
        raise ValueError(f"{path}, source {entry.name!r}: {error}") from None


def read_mixture(path: str) -> list[MixtureEntry]:
    """Read the list of sources.

    Raises:
        ValueError: it cannot be read, or an entry is not as it should be.
    """
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as a list of sources: {reason}") from None
    listed = content.get("sources") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not listed or not all(isinstance(entry, dict) for entry in listed):
        raise ValueError(f"{path} lists no sources: write `sources:`, then entries such as `- {{path: a, weight: 2}}`")
    entries = [_entry(path, number, entry) for number, entry in enumerate(listed, 1)]
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{path} has {names.count(name)} sources called {name!r}: give each a `name` of its own")
    if len({entry.weight is None for entry in entries}) > 1:
        raise ValueError(f"{path} gives weights to some sources alone: give all of them a weight, or none")
    return entries


def _entry(path: str, number: int, entry: dict[str, Any]) -> MixtureEntry:
    here = f"{path}, source {number}"
    if unknown := [key for key in entry if key not in _KEYS]:
        raise ValueError(f"{here}: unknown {', '.join(map(str, unknown))}; an entry can have {', '.join(_KEYS)}")
    place, weight = entry.get("path"), entry.get("weight")
    if not isinstance(place, str) or not place:
        raise ValueError(f"{here}: path={place!r} is no path: every entry needs one")
    if is_mixture(place):
        raise ValueError(f"{here}: {place} is a mixture itself: list its sources here")
    if weight is not None and not _is_weight(weight):
        raise ValueError(f"{here}: weight={weight!r} cannot be used: give a positive number")
    if not is_raw_size(entry.get("raw_image_size")):
        raise ValueError(f"{here}: raw_image_size={entry['raw_image_size']!r} cannot be used: {RAW_SIZE_ADVICE}")
    if (wanted := entry.get("data_format", "auto")) not in ("auto", *FORMATS):
        raise ValueError(f"{here}: data_format={wanted!r} is unknown: give auto, {', '.join(FORMATS)}")
    for key in _TEXTS:
        if not isinstance(entry.get(key, ""), str):
            raise ValueError(f"{here}: {key}={entry[key]!r} is no text")
    name = str(entry.get("name") or os.path.basename(redact(place).rstrip("/")))
    if "/" in name:  # names stand in metrics before a slash
        raise ValueError(f"{here}: name={name!r} cannot be used: give one without a slash")
    settings = {field: entry[key] for key, field in _TEXTS.items() if key in entry}
    settings |= {"data_format": wanted} if "data_format" in entry else {}
    if "raw_image_size" in entry:
        settings["raw_image_shape"] = raw_shape(entry["raw_image_size"])
    return MixtureEntry(name, place, None if weight is None else float(weight), settings)


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf

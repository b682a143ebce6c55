"""How numbers are spread: least, median, largest, and a histogram with bounds that a reader knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_Label = Callable[[float, float], str]
_MOST_BINS = 14
_BAR = 40  # characters of the longest bar
_SIDES = (0, 128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
_ASPECTS = (0, 1 / 3, 1 / 2, 2 / 3, 4 / 5, 1, 5 / 4, 3 / 2, 2, 3)


@dataclass(frozen=True)
class Bin:
    """The numbers from `low` on and below `high` (None: no bound)."""

    label: str
    low: float
    high: float | None
    count: int


@dataclass(frozen=True)
class Distribution:
    """Of at least one number. bins: in order, without the empty ones at both ends."""

    count: int
    least: float
    median: float
    mean: float
    p95: float
    largest: float
    bins: list[Bin]


def of_sides(values: Sequence[int]) -> Distribution | None:
    """Sides in pixels."""
    return _distribution(values, _SIDES, lambda low, high: f"{low:g} to {high - 1:g}")


def of_aspects(values: Sequence[float]) -> Distribution | None:
    """Width / height; bounds are the same for both orientations."""
    return _distribution(values, _ASPECTS, lambda low, high: f"{low:.2f} to {high:.2f}")


def of_counts(values: Sequence[int]) -> Distribution | None:
    """Whole numbers such as lengths, in at most 14 bins of a round width."""
    if not values:
        return None
    width = next(
        step * 10**power
        for power in range(12)
        for step in (1, 2, 5)
        if max(values) // (step * 10**power) - min(values) // (step * 10**power) < _MOST_BINS
    )
    first = min(values) // width * width
    bounds = np.arange(first, max(values) + 2 * width, width).tolist()
    label = "{:g}" if width == 1 else "{:g} to {:g}"
    return _distribution(values, bounds, lambda low, high: label.format(low, high - 1))


def summary(spread: Distribution) -> str:
    """The numbers of a distribution in one line."""
    numbers = {"": spread.least, "median ": spread.median, "mean ": spread.mean, "95 % below ": spread.p95}
    first, *others = (f"{name}{number_text(number)}" for name, number in numbers.items())
    return f"{first} to {number_text(spread.largest)}, {', '.join(others)}"


def number_text(number: float) -> str:
    """A number with as many digits as a reader needs."""
    return f"{number:,.0f}" if number >= 100 or number == int(number) else f"{number:.3g}"


def bars(spread: Distribution) -> Iterator[str]:
    """The histogram for a terminal, a line for each range."""
    width = max(len(item.label) for item in spread.bins)
    most = max(item.count for item in spread.bins)
    for item in spread.bins:
        bar = "█" * round(_BAR * item.count / most) or ("▏" if item.count else "")
        yield f"  {item.label:>{width}}  {item.count:>7,}  {share_text(item.count, spread.count):>6}  {bar}".rstrip()


def share_text(count: int, total: int) -> str:
    """A share in per cent."""
    return f"{count / total:.1%}"


def _distribution(values: Sequence[float], bounds: Sequence[float], label: _Label) -> Distribution | None:
    if not values:
        return None
    numbers = np.asarray(values, dtype=np.float64)
    edges = [*bounds, np.inf]
    counts = np.histogram(numbers, edges)[0].tolist()
    bins = [
        Bin(_label(low, high, label), low, None if high == np.inf else high, count)
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]
    filled = [place for place, item in enumerate(bins) if item.count]
    median, p95 = np.percentile(numbers, [50, 95]).tolist()
    return Distribution(
        count=len(numbers),
        least=float(numbers.min()),
        median=median,
        mean=float(numbers.mean()),
        p95=p95,
        largest=float(numbers.max()),
        bins=bins[filled[0] : filled[-1] + 1],
    )


def _label(low: float, high: float, label: _Label) -> str:
    if high == np.inf:
        return f"{low:g} and more"
    return label(low, high)

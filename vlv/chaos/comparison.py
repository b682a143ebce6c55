"""What a run that was killed has else than the one that nobody touched."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

Values = Mapping[str, float | None]  # of one line of metrics.jsonl
_OF_MEASURES = 1e-3  # relative
_TIMES = ("train/images_per_second", "train/data_wait_share")


@dataclass
class Tally:
    """Things that were compared, and the names of those that differ."""

    compared: int = 0
    different: list[str] = field(default_factory=list)

    def add(self, name: str, equal: bool) -> None:
        """Count one."""
        self.compared += 1
        if not equal:
            self.different.append(name)


@dataclass
class Findings:
    """All comparisons of all runs of a job, by what was compared.

    lost, repeated: steps or images that a finished run has not, or more than once. loss_difference: the largest
    relative one of a logged loss. rounded: pictures and measures that differ by rounding alone, which counts as equal.
    """

    tallies: dict[str, Tally] = field(default_factory=dict)
    lost: int = 0
    repeated: int = 0
    loss_difference: float = 0.0
    rounded: int = 0

    @property
    def different(self) -> int:
        """How many comparisons found a difference."""
        return sum(len(tally.different) for tally in self.tallies.values())

    def add(self, kind: str, name: str, equal: bool) -> None:
        """Count one comparison."""
        self.tallies.setdefault(kind, Tally()).add(name, equal)

    def count(self, found: Iterable[object], wanted: Iterable[object]) -> None:
        """Count what a finished run lacks of all that it should have once, and what it has too often."""
        found, wanted = Counter(found), Counter(wanted)
        self.lost += (wanted - found).total()
        self.repeated += (found - wanted).total()

    def compare_files(self, kind: str, folder: Path, reference: Path, pattern: str) -> None:
        """Compare the bytes of all files of a pattern, on both sides."""
        for ours, theirs in _pairs(folder, reference, pattern):
            equal = ours.is_file() and theirs.is_file() and ours.read_bytes() == theirs.read_bytes()
            self.add(kind, str(ours), equal)
            self.add("files there", str(ours), ours.is_file() and theirs.is_file())

    def compare_pictures(self, folder: Path, reference: Path, pattern: str) -> None:
        """Compare pictures of equal names: no value of theirs may differ by more than one level of 255.

        A run that goes on has batches of other sizes, so that sums are rounded in another order.
        """
        for ours, theirs in _pairs(folder, reference, pattern):
            difference = _levels_between(ours, theirs)
            self.rounded += difference == 1
            self.add("pictures", str(ours), difference <= 1)

    def compare_measures(self, folder: Path, reference: Path) -> None:
        """Compare the numbers of metrics.json, within what such pictures change."""
        first, second = (json.loads((top / "metrics.json").read_text())["seeds"] for top in (folder, reference))
        for ours, theirs in zip(first, second, strict=True):
            for name in (name for name, value in theirs.items() if isinstance(value, float)):
                self.rounded += ours[name] != theirs[name]
                equal = math.isclose(ours[name], theirs[name], rel_tol=_OF_MEASURES)
                self.add("measures", f"{folder.name}: {name}", equal)

    def compare_losses(self, name: str, lines: Mapping[str, Values], reference: Mapping[str, Values]) -> None:
        """Compare logged numbers by their line, those of work that was done again too."""
        for key, values in lines.items():
            expected = reference.get(key, {})
            self.add("logged losses", f"{name}: {key}", values == expected)
            for number in (number for number in {**values, **expected} if number.endswith("loss")):
                self.loss_difference = max(self.loss_difference, _relative(values.get(number), expected.get(number)))


def _relative(value: float | None, expected: float | None) -> float:
    """The relative difference of two numbers; infinite where one of them is none."""
    if value == expected:
        return 0.0
    return abs(value / expected - 1) if value is not None and expected else math.inf


def _pairs(folder: Path, reference: Path, pattern: str) -> list[tuple[Path, Path]]:
    """The files of a pattern that are in either folder, as they would be in both."""
    names = {path.relative_to(top) for top in (folder, reference) for path in top.glob(pattern)}
    return [(folder / name, reference / name) for name in sorted(names)]


def _levels_between(ours: Path, theirs: Path) -> int:
    """The largest difference of a value of two pictures; 255 where one is not there, or of another size."""
    if not (ours.is_file() and theirs.is_file()):
        return 255
    first, second = (np.asarray(Image.open(path).convert("RGB"), dtype=np.int16) for path in (ours, theirs))
    return int(np.abs(first - second).max()) if first.shape == second.shape else 255


def logged(folder: Path) -> list[tuple[str, Values]]:
    """The lines of a run's metrics.jsonl, without times: their step and kind, and their numbers.

    A last line that was torn is left out.
    """
    path = folder / "metrics.jsonl"
    lines = []
    for text in path.read_text().splitlines() if path.is_file() else []:
        try:
            record = json.loads(text)
        except ValueError:
            continue
        kind = "validation" if any(key.startswith("val/") for key in record) else "step"
        values = {key: value for key, value in record.items() if key != "step" and key not in _TIMES}
        lines.append((f"{kind} {record['step']}", values))
    return lines

"""What a run that was killed has else than the one that nobody touched."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Values = Mapping[str, float | None]  # of one line of metrics.jsonl
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
    relative one of a logged loss.
    """

    tallies: dict[str, Tally] = field(default_factory=dict)
    lost: int = 0
    repeated: int = 0
    loss_difference: float = 0.0

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
        for name in sorted({str(path.relative_to(top)) for top in (folder, reference) for path in top.glob(pattern)}):
            ours, theirs = folder / name, reference / name
            equal = ours.is_file() and theirs.is_file() and ours.read_bytes() == theirs.read_bytes()
            self.add(kind, str(ours), equal)

    def compare_losses(self, name: str, lines: Mapping[str, Values], reference: Mapping[str, Values]) -> None:
        """Compare logged numbers by their line, those of work that was done again too."""
        for key, values in lines.items():
            expected = reference.get(key, {})
            self.add("logged losses", f"{name}: {key}", values == expected)
            for number in (number for number in values if number.endswith("loss")):
                value, other = values[number], expected.get(number)
                if value is not None and other:
                    self.loss_difference = max(self.loss_difference, abs(value / other - 1))


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

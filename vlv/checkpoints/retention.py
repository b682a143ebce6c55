"""Which checkpoints of a run stay on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlv.checkpoints.resume import list_checkpoints, sound_checkpoints, validation_of


@dataclass(frozen=True)
class Retention:
    """What stays, of the checkpoints that validation did not find ruined.

    last: so many of the newest; 0 keeps all.
    every: those whose step is a multiple of it, for good; 0 keeps none for that.
    best: the one with the lowest value of this metric of the validation; of equal ones the first. None: no metric.
    """

    last: int = 3
    every: int = 0
    best: str | None = None

    def obsolete(self, folder: Path) -> list[Path]:
        """The checkpoints in a folder that may go, oldest first.

        A ruined one does not count for the newest: else a run that goes on with ruined weights would push out the good.
        """
        sound = sound_checkpoints(folder)
        if not self.last or len(sound) <= self.last:
            return []
        kept = {path for path in sound if self.every and _step(path) % self.every == 0} | {self.best_of(sound)}
        oldest = sound[-self.last].name
        return [path for path in list_checkpoints(folder) if path.name < oldest and path not in kept]

    def best_of(self, checkpoints: Sequence[Path]) -> Path | None:
        """The best of some checkpoints; None where no metric is asked for, or none of them has it."""
        if self.best is None:
            return None
        values = {path: validation_of(path).get(self.best) for path in checkpoints}
        measured = {path: value for path, value in values.items() if isinstance(value, (int, float))}
        return min(measured, key=lambda path: measured[path], default=None)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step_"))

"""The wall time that a run loses by being stopped and started again."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from vlv.checkpoints.identity import TRAINER_STATE_NAME

RESTARTS = "restarts.jsonl"


@dataclass(frozen=True)
class Restart:
    """One restart, in seconds.

    step: of the checkpoint. again: from that checkpoint to the last line of metrics, which is work that is taken again.
    away: from then to the start of this process. starting: from there to the end of its first step.
    """

    step: int
    again: float
    away: float
    starting: float

    @property
    def lost(self) -> float:
        """All of it."""
        return self.again + self.away + self.starting


class RestartClock:
    """Made before a resumed run touches its folder; tells after its first step what the restart took."""

    def __init__(self, checkpoint: Path, metrics: Path, step: int) -> None:
        """Look at the times of the checkpoint and of the metrics, by the file system."""
        saved = (checkpoint / TRAINER_STATE_NAME).stat().st_mtime
        seen = max(saved, metrics.stat().st_mtime) if metrics.is_file() else saved
        # Clocks of two machines may differ: no part is less than nothing.
        self._started = max(seen, psutil.Process().create_time())
        self._step, self._again, self._away = step, seen - saved, self._started - seen

    def stop(self) -> Restart:
        """The restart, as its first step has just ended."""
        return Restart(self._step, self._again, self._away, max(0.0, time.time() - self._started))


def describe(restart: Restart, path: Path) -> str:
    """What a restart took, and all restarts of a run together.

    Args:
        path: restarts.jsonl, without this one.
    """
    before = [lost for line in _lines(path) if (lost := _lost(line)) is not None]
    lost = restart.lost + sum(before)
    return (
        f"restart {len(before) + 1}: {restart.again:.0f} s of work is taken again, {restart.away:.0f} s away, "
        f"{restart.starting:.0f} s to the end of the first step; {lost:,.0f} s lost to restarts in all"
    )


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.is_file() else []


def _lost(line: str) -> float | None:
    """What a line says; None for one that a power loss has torn."""
    try:
        return float(json.loads(line)["lost"])
    except (ValueError, LookupError, TypeError):
        return None


def as_record(restart: Restart) -> dict[str, float]:
    """A line of restarts.jsonl."""
    return {key: round(value, 1) for key, value in {**asdict(restart), "lost": restart.lost}.items()}

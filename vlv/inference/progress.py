"""Progress of all processes over a set of images, as the first one reports it."""

from __future__ import annotations

from typing import TextIO

from vlv.inference.processes import Processes
from vlv.progress import Progress


class SharedProgress(Progress):
    """Only the first process reports.

    It counts each of its images once for every process: the shares are equal up to one image, so that is the state of
    the whole run without a message between processes.
    """

    def __init__(self, label: str, total: int, processes: Processes, stream: TextIO | None = None) -> None:
        """Start the clock for `total` images of all processes; reports go to `stream` (stderr)."""
        super().__init__(label, total, enabled=processes.is_first, stream=stream)
        self._processes = processes.count

    def advance(self, units: int) -> None:
        """Count images that this process has finished."""
        super().advance(units * self._processes)

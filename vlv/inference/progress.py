"""Progress over a set of images: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import TextIO

from tqdm import tqdm

from vlv.inference.processes import Processes

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Images done of all images, with images per second and the time that is left.

    Only the first process reports. It counts each of its images once for every process: the shares are
    equal up to one image, so that is the state of the whole run without a message between processes.
    """

    def __init__(self, label: str, total: int, processes: Processes, stream: TextIO | None = None) -> None:
        """Start the clock for `total` images of all processes; reports go to `stream` (stderr)."""
        self._label, self._total, self._step = label, total, processes.count
        self._stream = stream or sys.stderr
        self._enabled = processes.is_first and total > 0
        self._done = 0
        self._started = self._last_line = time.monotonic()
        on_terminal = self._enabled and self._stream.isatty()
        self._bar = tqdm(total=total, desc=label, unit="image", file=self._stream) if on_terminal else None

    def advance(self, images: int) -> None:
        """Count images that this process has finished."""
        # The shares of other processes may be one image smaller than the first's.
        step = min(images * self._step, self._total - self._done)
        self._done += step
        if self._bar is not None:
            self._bar.update(step)
        elif self._enabled and time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._print_line()

    def close(self) -> None:
        """Print the last line."""
        if self._bar is not None:
            self._bar.close()
        elif self._enabled:
            self._print_line()

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        speed = self._done / max(self._last_line - self._started, 1e-9)
        left = (self._total - self._done) / speed if self._done else float("inf")
        eta = str(timedelta(seconds=round(left))) if self._done else "unknown"
        line = f"{self._label}: {self._done}/{self._total} images, {speed:.2f} images/s, ETA {eta}"
        print(line, file=self._stream, flush=True)

"""Progress over things that are counted: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import TextIO

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Units done of all, with units per second and the time that is left."""

    def __init__(
        self, label: str, total: int, unit: str = "image", enabled: bool = True, stream: TextIO | None = None
    ) -> None:
        """Start the clock for `total` units; reports go to `stream` (stderr)."""
        self._label, self._total, self._unit = label, total, unit
        self._stream = stream or sys.stderr
        self._enabled = enabled and total > 0
        self._done = 0
        self._started = self._last_line = time.monotonic()
        on_terminal = self._enabled and self._stream.isatty()
        self._bar = tqdm(total=total, desc=label, unit=unit, file=self._stream) if on_terminal else None

    def advance(self, units: int) -> None:
        """Count units that have been finished; never more than all."""
        step = min(units, self._total - self._done)
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
        line = f"{self._label}: {self._done}/{self._total} {self._unit}s, {speed:.2f} {self._unit}s/s, ETA {eta}"
        print(line, file=self._stream, flush=True)

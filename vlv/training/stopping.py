"""A run that is asked to stop: it ends its step, saves, and says so. Standard library alone, for the launcher too."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

STOPPED = 75  # exit code of a run that was stopped and saved: EX_TEMPFAIL, try again later
STOP_FILE_VARIABLE = "VLV_STOP_FILE"  # set by the launcher, which makes the file when it is asked to stop
# What a scheduler, a terminal, and Slurm's warning before a time limit (--signal=USR1@300) send.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class TrainingStopped(Exception):  # noqa: N818 - no error: the run did what it was asked to
    """A run has saved and ended early, as it was asked to; the message says where."""


class StopRequest:
    """Whether this process was asked to stop: by a signal, or by the launcher's file."""

    def __init__(self) -> None:
        """Look for the file that the environment names."""
        path = os.environ.get(STOP_FILE_VARIABLE)
        self._file = Path(path) if path else None
        self._by_signal = False

    @property
    def asked(self) -> bool:
        """Whether to stop. A look at a local file, which costs microseconds, so each step can ask."""
        return self._by_signal or (self._file is not None and self._file.exists())

    def listen(self) -> Callable[[], None]:
        """Take the signals from here on; a second one, or one after the launcher's file, ends the process at once.

        Returns:
            What puts the former handlers back.
        """
        owner, former = os.getpid(), {}

        def handle(number: int, frame: FrameType | None) -> None:
            if os.getpid() != owner:  # a loader worker that was forked later: its parent still needs it for the step
                return
            if self.asked:
                os._exit(128 + number)
            self._by_signal = True

        for number in SIGNALS:
            former[number] = signal.signal(number, handle)

        def restore() -> None:
            for number, handler in former.items():
                signal.signal(number, handler)

        return restore

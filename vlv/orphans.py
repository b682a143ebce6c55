"""A process that ends with the one that started it. Standard library alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys


def end_with_parent() -> None:
    """Let the kernel end this process when its parent is killed, so that nothing runs on unseen; Linux alone can."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    # A parent that was killed before this line is no parent any more, and its end will not come again.
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:
        os.kill(os.getpid(), signal.SIGKILL)

"""Calls that a measurement makes in processes of their own."""

from __future__ import annotations

import signal
from pathlib import Path


class BenchmarkError(RuntimeError):
    """A measured call that failed; the message is its last line."""


def require_done(what: str, code: int, log: Path) -> None:
    """Check an exit code.

    Raises:
        BenchmarkError: it is not 0; with the last line of the call's output.
    """
    if code:
        if code == -signal.SIGKILL:
            raise BenchmarkError(f"{what} was killed, most likely for memory")
        lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
        raise BenchmarkError(f"{what} ended with exit code {code}: {lines[-1]}")

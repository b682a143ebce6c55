"""Writing beside training: one thread that does its jobs in order."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class BackgroundWriter:
    """Does jobs one after another in a thread of its own; a job that fails is known to whoever waits.

    A thread is enough: what takes time is the disk, hashing and copying, none of which holds Python's lock.
    """

    def __init__(self) -> None:
        """Start no thread yet."""
        self._pool: ThreadPoolExecutor | None = None
        self._jobs: list[Future[None]] = []

    def start(self, job: Callable[[], None]) -> None:
        """Do a job after those that were given before; returns at once."""
        self._pool = self._pool or ThreadPoolExecutor(1, "checkpoint")
        self._jobs.append(self._pool.submit(job))

    def wait(self) -> None:
        """Wait until all is done.

        Raises:
            BaseException: what the first of the jobs raised that have failed since the last wait.
        """
        # Forgotten first: a failure is raised once, and the next save starts afresh.
        jobs, self._jobs = self._jobs, []
        failures = [error for job in jobs if (error := job.exception()) is not None]
        if failures:
            raise failures[0]

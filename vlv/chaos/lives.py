"""One life of a run: started as a user starts it, and killed at some moment if it has not ended before."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

Victim = Literal["all processes", "the launcher", "one process"]
VICTIMS: tuple[Victim, ...] = ("all processes", "the launcher", "one process")
_LOOK_EVERY = 0.0005  # seconds: a save of the small world takes some milliseconds
LONGEST = 3600.0  # seconds of a life, where nothing tells how long it should take
_PATIENCE = 60.0  # seconds until what a kill left behind has to be gone


@dataclass(frozen=True)
class Moment:
    """When a life is killed.

    name: what the report calls it.
    mark: a look at the run's folder that changes when the thing happens; None kills after a time alone.
    within: seconds after the last change, or after the start, among which one is drawn.
    changes: which change counts at most; one of the first so many is drawn.
    """

    name: str
    mark: Callable[[], Hashable] | None
    within: float
    changes: int = 1


@dataclass(frozen=True)
class Ending:
    """How a life ended.

    code: exit code of the launcher. victim: what was killed; None where the life ended by itself. left_behind:
    processes that outlived the kill by a minute.
    """

    code: int
    victim: Victim | None
    left_behind: int = 0


def live(
    call: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    moment: Moment | None,
    victim: Victim,
    draw: random.Random,
    limit: float = LONGEST,
) -> Ending:
    """Start a run and kill it at a moment (SIGKILL), unless it ends before; its output goes to `log`.

    A life that takes longer than `limit` seconds hangs: it is ended, and its exit code is not 0.
    """
    with log.open("wb") as output:
        launcher = psutil.Popen(
            list(call), env=dict(environment), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        watch = threading.Timer(limit, launcher.kill)  # the others end with it
        watch.start()
        try:
            if moment is None or not _reached(launcher, moment, draw):
                return Ending(launcher.wait(), None)
        finally:
            watch.cancel()
        running, killed = _kill(launcher, victim, draw)
        if killed is None:
            return Ending(launcher.wait(), None)
        _, alive = psutil.wait_procs(running, timeout=_PATIENCE)
        for process in alive:
            process.kill()
        return Ending(launcher.wait(), killed, len(alive))


def _reached(launcher: psutil.Popen, moment: Moment, draw: random.Random) -> bool:
    """Wait for the moment; returns whether the run still runs then."""
    if moment.mark is not None:
        before, left = moment.mark(), draw.randint(1, moment.changes)
        while left:
            if launcher.poll() is not None:
                return False
            time.sleep(_LOOK_EVERY)
            if (now := moment.mark()) != before:
                before, left = now, left - 1
    until = time.monotonic() + draw.uniform(0, moment.within)
    while time.monotonic() < until:
        if launcher.poll() is not None:
            return False
        time.sleep(min(0.02, max(0.0, until - time.monotonic())))
    return launcher.poll() is None


def _kill(launcher: psutil.Popen, victim: Victim, draw: random.Random) -> tuple[list[psutil.Process], Victim | None]:
    """Kill the victim; returns all that ran, and what was killed: None where the run has just ended by itself."""
    running: list[psutil.Process] = [launcher]
    try:
        running += launcher.children(recursive=True)
    except psutil.NoSuchProcess:
        return running, None
    if launcher.poll() is not None:
        return running, None
    # Looked at before anything is killed: orphans have no parent to be found by.
    workers = [process for process in running[1:] if _is_worker(process)]
    if victim == "one process" and workers:
        targets = [draw.choice(workers)]
    elif victim == "the launcher":
        targets = [launcher]
    else:
        victim, targets = "all processes", running
    for process in targets:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    return running, victim


def _is_worker(process: psutil.Process) -> bool:
    """Whether a process is one of the run's own, and not a loader worker of it, which would be replaced."""
    try:
        parent = process.parent()
        # A forked loader worker has the command line of its parent, which tells it from a process of the run.
        here = " ".join(process.cmdline())
        return "vlv.cli.worker" in here and (parent is None or " ".join(parent.cmdline()) != here)
    except psutil.Error:
        return False


def environment_of(processes: int) -> dict[str, str]:
    """The environment of every life: on the CPU, as many threads in each, whose number decides the order of sums."""
    threads = max(1, (os.cpu_count() or 1) // processes)
    return {"OMP_NUM_THREADS": str(threads), **os.environ, "ACCELERATE_USE_CPU": "true"}

"""Kill a job's runs so many times, let each come to its end, and compare."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from vlv.chaos.comparison import Findings
from vlv.chaos.jobs import Job
from vlv.chaos.lives import LONGEST, VICTIMS, Ending, Moment, environment_of, live
from vlv.config import ChaosConfig

_WORKERS = (0, 1, 2)  # loader workers of a life
_MOST_KILLS = 12  # of one run; after them it is let finish, so that several runs are compared


class ChaosError(RuntimeError):
    """A run that failed without being killed; the message names its log."""


@dataclass
class Report:
    """What happened.

    untouched_seconds: what the untouched run took, start included. runs: runs that came to their end. places, victims:
    kills by what they hit, and by what was killed. torn: files and folders found half written. again: steps taken
    again. left_behind: processes that outlived a kill.
    """

    kills: int = 0
    runs: int = 0
    untouched_seconds: float = 0.0
    places: Counter[str] = field(default_factory=Counter)
    victims: Counter[str] = field(default_factory=Counter)
    torn: int = 0
    again: int = 0
    left_behind: int = 0
    findings: Findings = field(default_factory=Findings)


def wreak(job: Job, config: ChaosConfig, folder: Path, advance: Callable[[int], None]) -> Report:
    """Run the job once untouched and then until it was killed `config.kills` times.

    Args:
        folder: of the runs and their logs; a run that is as it should be is removed.
        advance: told of each kill.

    Raises:
        ChaosError: a life failed without being killed.
    """
    report = Report()
    # Killed processes leave their temporary files; in a short path, since sockets are among them.
    with TemporaryDirectory(prefix="vlv-") as temporary:
        environment = {**environment_of(max(config.processes)), "TMPDIR": temporary}
        lives = _Lives(job, config, random.Random(config.seed), environment)
        # A run like the others, its own start included: what a user would call the run without any fault.
        reference = folder / "untouched"
        started = time.monotonic()
        _require_done(lives.live(reference), reference)
        report.untouched_seconds = time.monotonic() - started
        while report.kills < config.kills or not report.runs:
            run = folder / f"run_{report.runs:03d}"
            different = report.findings.different
            _run(lives, run, reference, report, advance)
            job.finish(run, reference, report.findings)
            report.runs += 1
            if different == report.findings.different:
                shutil.rmtree(run)
    return report


@dataclass(frozen=True)
class _Lives:
    """Starts lives of a job, each with numbers of processes and of loader workers of its own."""

    job: Job
    config: ChaosConfig
    draw: random.Random
    environment: Mapping[str, str]

    def live(self, run: Path, moment: Moment | None = None, limit: float = LONGEST) -> Ending:
        run.mkdir(parents=True, exist_ok=True)
        call = self.job.call(run, self.draw.choice(self.config.processes), self.draw.choice(_WORKERS))
        return live(call, self.environment, _log(run), moment, self.draw.choice(VICTIMS), self.draw, limit)


def _run(lives: _Lives, run: Path, reference: Path, report: Report, advance: Callable[[int], None]) -> None:
    """One run, from nothing to its end, with its kills."""
    job, config = lives.job, lives.config
    last = min(config.kills, report.kills + _MOST_KILLS)
    while True:
        moment = None
        if report.kills < last:
            weights, moments = zip(*job.moments(run, report.untouched_seconds), strict=True)
            moment = lives.draw.choices(moments, weights)[0]
        before = job.mark(run)
        # Many times what it should take: the machine may do something else.
        ending = lives.live(run, moment, 300 + 20 * report.untouched_seconds)
        job.compare(run, reference, report.findings)
        if ending.victim is None:
            return _require_done(ending, run)
        hit = job.look(run, before)
        report.kills += 1
        report.places[hit.place] += 1
        report.victims[ending.victim] += 1
        report.torn += hit.torn
        report.again += hit.again
        report.left_behind += ending.left_behind
        advance(1)


def _require_done(ending: Ending, run: Path) -> None:
    if ending.code:
        log = _log(run)
        last = (log.read_text(errors="replace").strip().splitlines() or ["no output"])[-1]
        raise ChaosError(f"a life of {run} that nobody killed ended with exit code {ending.code}: {last} (in {log})")


def _log(run: Path) -> Path:
    """The output of a run's last life, beside its folder."""
    return run.with_name(f"{run.name}.log")

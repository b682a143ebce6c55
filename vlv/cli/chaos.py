"""Kill runs of the small world again and again, and compare what they come to with a run that nobody touched.

The job is stage1, stage2, caption or reconstruct, with the small world's own recipe. Kills are SIGKILL: of the whole
run, of the launcher alone, or of one of its processes, at random moments, half of them within a save, a validation or
another write. Each life has another number of loader workers. Exit code 1 where anything differs.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

from vlv.cli.entry import BAD_CALL, FAILED_RUN, Call, parse, stop
from vlv.cli.lock import place_lock
from vlv.config import ChaosConfig, ConfigError

_MARK = ".vlv-chaos"  # in a folder that this command made, and may empty


def main(arguments: list[str]) -> None:
    """Read the call, kill, and print the table."""
    config = parse(ChaosConfig, Call("vlv chaos", __doc__ or "", ("job",)), arguments)
    from vlv.chaos.harness import ChaosError, wreak
    from vlv.chaos.jobs import build_job
    from vlv.chaos.report import facts, passed, table
    from vlv.inference.journal import write_json
    from vlv.progress import Progress

    folder = Path(config.output_dir).resolve()
    runs = folder / str(config.job)
    try:
        _claim(folder)
        with place_lock(f"output_dir={folder} of {config.job}", folder / f".{config.job}.lock"):
            shutil.rmtree(runs, ignore_errors=True)  # of an earlier call; its data stay
            job = build_job(config, folder / "data")
            progress = Progress(f"{config.job}, killed", config.kills, "time")
            report = wreak(job, config, runs, progress.advance)
    except ConfigError as error:
        stop(str(error), BAD_CALL)
    except ChaosError as error:
        stop(str(error), FAILED_RUN)
    progress.close()
    print(table(report, job.unit))
    if config.json is not None:
        settings = asdict(replace(config, output_dir="", json=None))  # places say nothing about what was found
        content = {"settings": settings, **facts(report)}
        write_json(Path(config.json), content)
    if not passed(report, to_the_bit=len(set(config.processes)) == 1):
        stop(f"not everything is as in the run that nobody touched; what differs is kept in {runs}", FAILED_RUN)


def _claim(folder: Path) -> None:
    """Mark a folder as this command's, which may remove runs in it.

    Raises:
        ConfigError: it holds something else.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARK).exists():
        raise ConfigError(f"output_dir={folder} holds something else: give an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).touch()

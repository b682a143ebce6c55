"""Measure how long `--help`, a dry run and the first training step take from the start, on tiny components."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from vlv.cli.entry import BAD_CALL, FAILED_RUN, Call, load_libraries, parse, stop
from vlv.config import BenchmarkStartupConfig


def main(arguments: list[str]) -> None:
    """Read the call, measure, and print the table."""
    config = parse(BenchmarkStartupConfig, Call("vlv benchmark startup", __doc__ or ""), arguments)
    load_libraries()
    from vlv.benchmarks.calls import BenchmarkError
    from vlv.benchmarks.machine import describe_machine
    from vlv.benchmarks.startup import measure, number_of_calls
    from vlv.benchmarks.worlds import make_world
    from vlv.inference.journal import write_json
    from vlv.progress import Progress

    try:
        world = make_world(Path(config.folder).resolve() / "tiny", "tiny", "qwen", captioner=False)
        progress = Progress("measuring", config.rounds * number_of_calls(), "call")
        seconds = measure(world, config.rounds, progress.advance)
    except OSError as error:
        stop(str(error), BAD_CALL)
    except BenchmarkError as error:
        stop(str(error), FAILED_RUN)
    progress.close()
    machine = describe_machine([])
    print(f"{machine.title}\n\n{table(seconds)}")
    if config.json is not None:
        content = {"rounds": config.rounds, "machine": asdict(machine), "seconds": seconds}
        write_json(Path(config.json), content)


def table(seconds: dict[str, list[float]]) -> str:
    """What was measured, as Markdown: the medians, and the fastest of each."""
    from statistics import median

    lines = ["| call | seconds | fastest |", "| --- | --- | --- |"]
    lines += [f"| {name} | {median(found):.2f} | {min(found):.2f} |" for name, found in seconds.items()]
    return "\n".join(lines)

"""Measure whether an image costs as much in a dataset of a million as in one of a thousand.

The folder gets .tar shards and image files of each size (64 pixels; 3 GB for a million). A training's loader reads one
shuffled epoch of the shards, and a captioning goes through the files with everything but the model: a captioner that
says the same of every image. Each is a process of its own, without loader workers.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from vlv.cli.entry import BAD_CALL, Call, load_libraries, parse, stop
from vlv.config import BenchmarkGrowthConfig


def main(arguments: list[str]) -> None:
    """Read the call, measure, and print the table."""
    config = parse(BenchmarkGrowthConfig, Call("vlv benchmark growth", __doc__ or "", ("folder",)), arguments)
    load_libraries()
    from vlv.benchmarks.growth import measure
    from vlv.benchmarks.machine import describe_machine
    from vlv.inference.journal import write_json

    machine = describe_machine([])
    found = {}
    try:
        for count in config.counts:
            found[count] = {name: cost._asdict() for name, cost in measure(Path(config.folder), count).items()}
    except OSError as error:
        stop(str(error), BAD_CALL)
    print(f"{machine.title}\n\n{table(found)}")
    if config.json is not None:
        write_json(Path(config.json), {"machine": asdict(machine), "costs": found})


def table(found: dict[int, dict[str, dict[str, float]]]) -> str:
    """What was measured, as Markdown."""
    kinds = next(iter(found.values()))
    lines = [
        f"| images | {' | '.join(f'{kind}: to the first batch, s | ms an image | MiB' for kind in kinds)} |",
        f"| --- |{' --- | --- | --- |' * len(kinds)}",
    ]
    for count, costs in found.items():
        cells = [
            f"{cost['opening']:.2f} | {1000 * cost['per_image']:.2f} | {cost['memory_mib']:,.0f}"
            for cost in costs.values()
        ]
        lines.append(f"| {count:,} | {' | '.join(cells)} |")
    return "\n".join(lines)

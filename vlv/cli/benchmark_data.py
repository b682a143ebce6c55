"""Measure how fast every kind of data is read, decoded and resized, beside plain code that does the same work.

JPEGs are made for it, in a temporary folder. Ways of reading take turns, so that they compare on a busy machine too;
images per CPU second count all processes, and are what an epoch costs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vlv.cli.entry import BAD_CALL, Call, load_libraries, parse, stop
from vlv.config import BenchmarkDataConfig

if TYPE_CHECKING:
    from vlv.benchmarks.loading import Run


def main(arguments: list[str]) -> None:
    """Read the call, measure, and print the table."""
    config = parse(BenchmarkDataConfig, Call("vlv benchmark data", __doc__ or ""), arguments)
    try:
        _measure(config)
    except OSError as error:
        stop(str(error), BAD_CALL)


def _measure(config: BenchmarkDataConfig) -> None:
    import os
    from contextlib import nullcontext
    from dataclasses import asdict
    from importlib.util import find_spec
    from tempfile import TemporaryDirectory

    from vlv.inference.journal import write_json
    from vlv.progress import Progress

    load_libraries()
    import torch

    from vlv.benchmarks.loading import change_by_reduction, measure, ways
    from vlv.benchmarks.machine import describe_machine
    from vlv.benchmarks.pictures import jpegs, write_datasets
    from vlv.benchmarks.serving import serve_folder

    torch.set_num_threads(1)
    with TemporaryDirectory(prefix="vlv-benchmark-") as folder:
        images = jpegs(config.images, config.side)
        size = sum(map(len, images)) / len(images) / 1000
        print(f"{config.images} JPEGs of {config.side} pixels, {size:,.0f} kB on average; {config.num_workers} workers")
        paths = write_datasets(Path(folder), images)
        mean, most = change_by_reduction(images[:64], config)
        del images
        # Without the package that reads URLs there is no row of them.
        server = serve_folder(Path(paths["tar"])) if find_spec("aiohttp") else nullcontext()
        os.environ["VLV_CACHE_DIR"] = str(Path(folder) / "cache")  # indexes of these shards are of no use later
        with server as url:
            arms = ways(paths, config, url)
            progress = Progress("measuring", config.rounds * len(arms), "run")
            runs = measure(arms, config.rounds, progress.advance)
            progress.close()
    machine = describe_machine([])
    print(f"{machine.title}\n\n{table(runs)}")
    print(f"\nreduced_jpeg=true changes the decoder's pixels by {mean:.2f} of 255 on average, {most:.2f} in one image")
    if config.json is not None:
        facts = {
            "settings": {**asdict(config), "json": None},
            "machine": asdict(machine),
            "runs": {name: [asdict(run) for run in found] for name, found in runs.items()},
        }
        write_json(Path(config.json), facts)


def table(runs: dict[str, list[Run]]) -> str:
    """What was measured, as Markdown: the medians, and each kind's fastest round."""
    from vlv.benchmarks.loading import PLAIN, WEBDATASET, median

    medians = {name: median(found) for name, found in runs.items()}
    head = ["data", "images/CPU s", "fastest", "beside torch", "beside webdataset", "images/s", "first batch, s"]
    head.append("MiB a worker")
    lines = [
        f"| {' | '.join(head)} |",
        f"| {' | '.join(['---'] * len(head))} |",
    ]
    for name, run in medians.items():
        ratios = [f"{run.per_cpu_second / medians[other].per_cpu_second:.2f}x" for other in (PLAIN, WEBDATASET)]
        memory = "" if run.worker_mib is None else f"{run.worker_mib:,.0f}"
        fastest = f"{max(one.per_cpu_second for one in runs[name]):.1f}"  # a busy machine's rounds are far apart
        numbers = [
            f"{run.per_cpu_second:.1f}",
            fastest,
            *ratios,
            f"{run.per_second:.1f}",
            f"{run.first_batch:.2f}",
            memory,
        ]
        lines.append(f"| {' | '.join([name, *numbers])} |")
    return "\n".join(lines)

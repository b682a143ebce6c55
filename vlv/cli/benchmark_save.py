"""Measure how long a training stands still for a checkpoint, beside copying the same tensors and writing them."""

from __future__ import annotations

from pathlib import Path

from vlv.cli.entry import BAD_CALL, Call, load_libraries, parse, stop
from vlv.config import BenchmarkSaveConfig


def main(arguments: list[str]) -> None:
    """Read the call, measure, and print the table."""
    config = parse(BenchmarkSaveConfig, Call("vlv benchmark save", __doc__ or "", ("folder",)), arguments)
    try:
        _measure(config)
    except OSError as error:
        stop(str(error), BAD_CALL)


def _measure(config: BenchmarkSaveConfig) -> None:
    from dataclasses import asdict
    from statistics import median
    from tempfile import TemporaryDirectory

    from vlv.inference.journal import write_json

    load_libraries()
    from vlv.benchmarks.saving import SaveRun, measure

    Path(config.folder).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="vlv-benchmark-", dir=config.folder) as folder:
        size, runs = measure(Path(folder), config.parameters, config.rounds)
    print(f"{size / 1e9:.2f} GB in a checkpoint: weights and AdamW's state of {config.parameters:,} parameters in fp32")

    def of(run: SaveRun) -> tuple[float, float, float, float]:
        return run.copy, run.stall, run.written, run.waiting

    copy, stall, written, waiting = (median(values) for values in zip(*map(of, runs), strict=True))
    print("| what | seconds |\n| --- | --- |")
    print(f"| copying all tensors | {copy:.2f} |")
    print(f"| training stands still | {stall:.2f} |")
    print(f"| until the checkpoint has its name, in the background | {written:.2f} |")
    print(f"| training stands still, where it waits for the write | {waiting:.2f} |")
    if config.json is not None:
        facts = {"settings": asdict(config), "bytes": size, "runs": [asdict(run) for run in runs]}
        write_json(Path(config.json), facts)

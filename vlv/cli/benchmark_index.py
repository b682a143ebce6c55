"""Measure how long the index of a large .tar dataset takes to open, and how much memory.

The folder gets shards that hold nothing, and an index of each as reading its headers would leave it (the time to read
headers is not measured). The first start merges them; then several processes open the dataset at once, as the ranks of
a machine do, and look up 1,000 samples each.
"""

from __future__ import annotations

from pathlib import Path

from vlv.cli.entry import BAD_CALL, Call, parse, stop
from vlv.config import BenchmarkIndexConfig


def main(arguments: list[str]) -> None:
    """Read the call, measure, and print the table."""
    config = parse(BenchmarkIndexConfig, Call("vlv benchmark index", __doc__ or "", ("folder",)), arguments)
    from vlv.benchmarks.index import make, starts

    folder = Path(config.folder)
    try:
        make(folder, config.samples, config.samples_per_shard)
        runs = {"first": starts(folder, 1), "later": starts(folder, config.processes)}
    except OSError as error:
        stop(str(error), BAD_CALL)
    print("| start | samples | processes | seconds | own memory, MiB each | with a share of mapped files, MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, found in runs.items():
        seconds, own, shared = (max(values) for values in zip(*[run[1:] for run in found], strict=True))
        print(f"| {name} | {found[0].samples:,} | {len(found)} | {seconds:.1f} | {own:,.0f} | {shared:,.0f} |")
    size = sum(file.stat().st_size for file in (folder / "cache").glob("*.merged.arrow"))
    print(f"\nThe merged index has {size / 1e9:.2f} GB.")

"""`vlv benchmark SUITE ...`: measurements on this machine, beside plain code that does the same work."""

from __future__ import annotations

from vlv.cli.commands import Command, call_command, summaries


def _speed(summary: str) -> Command:
    return Command("vlv.cli.benchmark_speed", summary, with_name=True)


SUITES = {
    "all": Command("vlv.cli.benchmark_all", "everything that docs/performance.md has for a machine, in one call"),
    "stage1": _speed("images per second of stage 1, beside the published recipe"),
    "stage2": _speed("samples per second of stage 2, beside the published recipe"),
    "caption": _speed("images captioned per second, beside the published recipe"),
    "reconstruct": _speed("images reconstructed per second, beside the published recipe"),
    "startup": Command("vlv.cli.benchmark_startup", "seconds until --help, a dry run and the first training step"),
    "data": Command("vlv.cli.benchmark_data", "images per second of each kind of data, beside torch and webdataset"),
    "save": Command("vlv.cli.benchmark_save", "seconds that a training stands still for a checkpoint"),
    "growth": Command("vlv.cli.benchmark_growth", "milliseconds an image, from a thousand images to a million"),
    "index": Command("vlv.cli.benchmark_index", "seconds and memory to open the index of a large .tar dataset"),
}


def main(arguments: list[str]) -> None:
    """Find the suite and run it; `--help` is answered here."""
    call_command(arguments, SUITES, usage, "vlv benchmark has no suite", prefix="benchmark ")


def usage() -> str:
    """What `vlv benchmark --help` prints."""
    return (
        f"usage: vlv benchmark SUITE [key=value ...]\n\nMeasures this machine.\n\n{summaries(SUITES)}\n\n"
        "vlv benchmark SUITE --help lists a suite's settings."
    )

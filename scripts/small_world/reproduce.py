"""The paper's questions on the embedded world: the full recipe, then the rows of the ablation table.

Every row is resumable and skipped where its result is there. `--only NAME` runs one row; `--list` names them.
Results go to OUT/results.json, OUT/table.md and OUT/report.html.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scripts.small_world.report import write_results
from scripts.small_world.rows import ROWS, World
from vlv.cli.entry import FAILED_RUN, stop
from vlv.shapes.runs import ROOT, RunError, make_data, one_at_a_time, say

OPTIONAL = ("smollm2",)  # needs more than the project installs


def main(arguments: list[str] | None = None) -> None:
    """Read the call and run the rows."""
    parser = argparse.ArgumentParser(
        prog="bash scripts/reproduce_tiny.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "reproduce_tiny", metavar="OUT")
    parser.add_argument("--only", choices=list(ROWS), action="append", help="this row alone; repeatable")
    parser.add_argument(
        "--kept", action="store_true", help="take stage 1 from assets/tiny/trained instead of training it"
    )
    parser.add_argument(
        "--jobs", type=int, default=2, choices=range(1, 9), metavar="N", help="rows that run side by side (2)"
    )
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(f"{name:<22} {title}" for name, (title, _) in ROWS.items()))
        return
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    world = World(out, make_data(out / "data", pictures=100_000, pairs=8_000, test=1_000, drawn=500), options.kept)
    names = options.only or [name for name in ROWS if name not in OPTIONAL]
    try:
        missing = [name for name in names if not row_path(name, world).exists()]
        if options.jobs > 1 and len(missing) > 1:
            run_side_by_side(missing, world, options.jobs)
        for name in names:
            run_row(name, world)
    except RunError as error:
        stop(str(error), FAILED_RUN)


def row_path(name: str, world: World) -> Path:
    """Where a row's result is, or will be."""
    return world.out / "rows" / f"{name}.json"


def run_row(name: str, world: World) -> None:
    """Run a row unless its result is there, and write table and report anew."""
    path = row_path(name, world)
    if not path.exists():
        say(f"row {name}")
        result = ROWS[name][1](world)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n")
    with one_at_a_time(world.out / "results"):
        write_results(world.out, {row: title for row, (title, _) in ROWS.items()})


def run_side_by_side(names: Sequence[str], world: World, jobs: int) -> None:
    """Run rows in processes of their own, each with its share of the cores.

    Small trainings do not keep several cores busy: two with one core each are a third faster than one after the other.

    Raises:
        RunError: some rows failed; the others were run.
    """
    # The first worker takes rows from the front, which need most of stage 1; the others take from the end, whose
    # stage 1s are their own, instead of waiting for the first one's.
    waiting, failed = deque(names), list[str]()
    threads = max(1, (os.cpu_count() or 1) // jobs)

    def work(worker: int) -> None:
        while waiting:
            try:
                name = waiting.popleft() if worker == 0 else waiting.pop()
            except IndexError:  # another worker has just taken the last
                return
            code = forward(row_command(name, world), name, threads)
            if code:
                failed.append(name)
                say(f"row {name} ended with exit code {code}; its message is above")

    with ThreadPoolExecutor(jobs) as pool:
        try:
            list(pool.map(work, range(jobs)))
        except BaseException:
            waiting.clear()  # interrupted: no further row starts
            raise
    if failed:
        rows = ", ".join(failed)
        raise RunError(f"not finished: {rows}. The same command goes on where they stopped; the other rows are done")


def row_command(name: str, world: World) -> list[str]:
    """The command that runs one row."""
    command = [sys.executable, "-m", "scripts.small_world.reproduce", "--out", str(world.out), "--only", name]
    return [*command, "--kept"] if world.kept else command


def forward(command: Sequence[str], name: str, threads: int) -> int:
    """Run a command and print each of its lines behind a name; returns the exit code."""
    # A waiting OpenMP thread that spins would take the other rows' cores.
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"{name}: {line}", end="", file=sys.stderr, flush=True)
    return process.returncode


if __name__ == "__main__":
    main(sys.argv[1:])

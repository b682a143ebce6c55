"""The paper's questions on the small world: the full recipe, then the rows of the ablation table.

Every row is resumable and skipped where its result is there. `only=ROW` runs one row, `only=[ROW,ROW]` several;
`list=true` names them. Results go to OUT/results.json, OUT/table.md and OUT/report.html.
"""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scripts.small_world.results import write_results
from scripts.small_world.rows import ROWS, World
from vlv.cli.entry import FAILED_RUN, Call, parse, stop
from vlv.settings import option, require
from vlv.shapes.quickstart import PAIRS, PICTURES
from vlv.shapes.runs import ROOT, RunError, log, make_data, one_at_a_time

FULL_PICTURES, FULL_PAIRS = 24_000, 24_000  # of the full recipe; the rows have the quickstart's
OPTIONAL = ("smollm2",)  # needs more than the project installs


@dataclass(frozen=True)
class ReproduceConfig:
    """Which rows run, and where everything goes."""

    out: str = option("./outputs/reproduce_tiny", "folder of data, runs and results", path="local")
    only: builtins.list[str] = option([], "rows to run; none given: all but smollm2")
    kept: bool = option(False, "take stage 1 from assets/tiny/trained instead of training it")
    jobs: int = option(2, "rows that run side by side, each with its share of the cores")
    list: bool = option(False, "name the rows and stop")  # hides the built-in one within this class

    def __post_init__(self) -> None:
        require(1 <= self.jobs <= 8, "jobs", self.jobs, "give 1 to 8")
        for name in self.only:
            require(name in ROWS, "only", name, f"the rows are {', '.join(ROWS)}")


def main(arguments: list[str] | None = None) -> None:
    """Parse the call and run the rows."""
    call = Call("bash scripts/reproduce_tiny.sh", __doc__ or "")
    given = sys.argv[1:] if arguments is None else arguments
    config = parse(ReproduceConfig, call, [_as_list(item) for item in given])
    if config.list:
        print("\n".join(f"{name:<22} {title}" for name, (title, _) in ROWS.items()))
        return
    try:
        reproduce(config)
    except RunError as error:
        stop(str(error), FAILED_RUN)


def _as_list(item: str) -> str:
    """`only=base` for `only=[base]`."""
    key, equals, value = item.partition("=")
    return f"only=[{value}]" if key == "only" and equals and not value.startswith("[") else item


def reproduce(config: ReproduceConfig) -> None:
    """Run the rows.

    Raises:
        RunError: some of them failed; the others were run.
    """
    out = Path(config.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    data = make_data(out / "data", pictures=PICTURES, pairs=PAIRS, test=1_000, unseen=500, subset=300)
    full_data = make_data(out / "data_full", pictures=FULL_PICTURES, pairs=FULL_PAIRS)
    world = World(out, data, full_data, config.kept)
    names = config.only or [name for name in ROWS if name not in OPTIONAL]
    missing = [name for name in names if not row_path(name, world).exists()]
    if config.jobs > 1 and len(missing) > 1:
        run_side_by_side(missing, world, config.jobs)
    for name in names:
        run_row(name, world)


def row_path(name: str, world: World) -> Path:
    """Where a row's result is, or will be."""
    return world.out / "rows" / f"{name}.json"


def run_row(name: str, world: World) -> None:
    """Run a row unless its result is there, and write table and report anew."""
    path = row_path(name, world)
    if not path.exists():
        log(f"row {name}")
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
                log(f"row {name} ended with exit code {code}; its message is above")

    with ThreadPoolExecutor(jobs) as pool:
        try:
            list(pool.map(work, range(jobs)))
        except BaseException:
            waiting.clear()  # interrupted: no further row starts
            raise
    if failed:
        rows = ", ".join(failed)
        raise RunError(f"not finished: {rows}. The same command resumes where they stopped; the other rows are done")


def row_command(name: str, world: World) -> list[str]:
    """The command that runs one row."""
    settings = [f"out={world.out}", f"only={name}", f"kept={str(world.kept).lower()}"]
    return [sys.executable, "-m", "scripts.small_world.reproduce", *settings]


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
    main()

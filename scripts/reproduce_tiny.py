"""The paper's questions on the embedded world: the full recipe, then the rows of the ablation table.

Every row is resumable and skipped where its result is there. `--only NAME` runs one row; `--list` names them.
Results go to OUT/results.json, OUT/table.md and OUT/report.html.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from scripts.entry import FAILED_RUN, stop
from scripts.tiny_report import write_results
from scripts.tiny_rows import ROWS, World
from scripts.tiny_runs import ROOT, RunError, make_data, say

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
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(f"{name:<22} {title}" for name, (title, _) in ROWS.items()))
        return
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    world = World(out, make_data(out / "data", pictures=100_000, pairs=8_000, test=1_000, drawn=500), options.kept)
    try:
        for name in options.only or [name for name in ROWS if name not in OPTIONAL]:
            run_row(name, world)
    except RunError as error:
        stop(str(error), FAILED_RUN)


def run_row(name: str, world: World) -> None:
    """Run a row unless its result is there, and write table and report anew."""
    path = world.out / "rows" / f"{name}.json"
    if not path.exists():
        say(f"row {name}")
        result = ROWS[name][1](world)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n")
    write_results(world.out, {row: title for row, (title, _) in ROWS.items()})


if __name__ == "__main__":
    main(sys.argv[1:])

"""Write pictures of the embedded world: scenes of plain shapes, each a function of its split and number.

The same call writes the same bytes. A picture's name says which scene it shows (test-00000012.png), so that
captions and reconstructions of it can be measured exactly: python -m vlv.shapes.measure_files.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from vlv.cli.entry import BAD_CALL, stop


def main(arguments: list[str] | None = None) -> None:
    """Read the call and write."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.small_world.make_scenes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write, new or empty")
    parser.add_argument("--split", choices=["train", "val", "test", "unseen"], default="train")
    parser.add_argument("--num", type=int, default=50_000, metavar="N", help="how many scenes (default 50000)")
    parser.add_argument("--start", type=int, default=0, metavar="N", help="number of the first scene (default 0)")
    parser.add_argument("--format", choices=["folder", "webdataset", "parquet"], default="folder")
    parser.add_argument("--captions", action="store_true", help="write descriptions too")
    options = parser.parse_args(arguments)
    try:
        if options.num < 1 or options.start < 0:
            raise ValueError(f"--num {options.num} --start {options.start}: give at least 1 scene, from 0 on")
        from vlv.shapes.writing import write_scenes

        started = time.monotonic()
        numbers = range(options.start, options.start + options.num)
        count = write_scenes(options.out, options.split, numbers, options.format, options.captions)
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)
        return
    seconds = time.monotonic() - started
    print(f"{count:,} scenes of {options.split} in {options.out} ({options.format}), {count / seconds:,.0f} a second")


if __name__ == "__main__":
    main(sys.argv[1:])

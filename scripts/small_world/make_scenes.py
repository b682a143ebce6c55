"""Write pictures of the small world: scenes of plain shapes, each a function of its split and number.

The same call writes the same bytes. A picture's name identifies its scene (test-00000012.png), so that captions and
reconstructions of it can be measured exactly: python -m vlv.shapes.measure_files.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlv.cli.entry import BAD_CALL, Call, parse, stop
from vlv.settings import option, require


@dataclass(frozen=True)
class ScenesConfig:
    """Which scenes are written, and how."""

    out: str = option("", "folder to write, new or empty", path="local")
    split: Literal["train", "val", "test", "unseen"] = option("train", "split of the scenes")
    num: int = option(50_000, "how many scenes")
    start: int = option(0, "number of the first scene")
    format: Literal["folder", "webdataset", "parquet"] = option("folder", "format of the data")
    captions: bool = option(False, "write descriptions too")

    def __post_init__(self) -> None:
        require(bool(self.out), "out", self.out, "name the folder to write")
        require(self.num >= 1, "num", self.num, "give at least 1 scene")
        require(self.start >= 0, "start", self.start, "give 0 or more")


def main(arguments: list[str] | None = None) -> None:
    """Parse the call and write."""
    call = Call("python -m scripts.small_world.make_scenes", __doc__ or "", positional=("out",))
    config = parse(ScenesConfig, call, sys.argv[1:] if arguments is None else arguments)
    from vlv.shapes.writing import write_scenes

    started = time.monotonic()
    numbers = range(config.start, config.start + config.num)
    try:
        count = write_scenes(Path(config.out), config.split, numbers, config.format, config.captions)
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)
    rate = count / (time.monotonic() - started)
    print(f"{count:,} scenes of {config.split} in {config.out} ({config.format}), {rate:,.0f} a second")


if __name__ == "__main__":
    main()

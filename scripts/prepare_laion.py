"""What scripts/prepare_laion.sh does beside img2dataset: select rows of the metadata, sum up the downloads.

python -m scripts.prepare_laion select METADATA OUT      rows into OUT/metadata
python -m scripts.prepare_laion summary METADATA OUT     what OUT/shards holds, and the call that trains on it
"""

from __future__ import annotations

import math
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlv.cli.entry import BAD_CALL, FAILED_RUN, Call, parse, stop
from vlv.settings import ConfigError, option, require


@dataclass(frozen=True)
class LaionConfig:
    """Which rows are selected, and where everything is."""

    step: Literal["select", "summary"] = option("select", "what is done")
    metadata: str = option("", "LAION's metadata: a .parquet file, a folder of them or a pattern", path="local")
    out: str = option("", "folder of metadata/ and shards/", path="local")
    min_side: int = option(512, "the short side is above this, in pixels")
    min_aspect: float = option(0.5, "least width / height")
    max_aspect: float = option(2.0, "largest width / height")
    max_watermark: float = option(0.5, "the probability of a watermark is below this")
    max_unsafe: float | None = option(None, "the probability of unsafe content is below this; null does not ask")
    min_aesthetic: float | None = option(None, "least aesthetic score; null does not ask")
    samples_per_shard: int = option(10_000, "rows of a shard")
    image_size: int = option(512, "short side of what is written, in pixels; 0 keeps every file")

    def __post_init__(self) -> None:
        if not (self.metadata and self.out):
            raise ConfigError("metadata and a folder are needed: set METADATA and OUTPUT")
        require(self.samples_per_shard >= 1, "samples_per_shard", self.samples_per_shard, "give at least 1")
        require(0 < self.min_aspect <= self.max_aspect, "min_aspect", self.min_aspect, "give at most max_aspect")


def main(arguments: list[str]) -> None:
    """Read the call and do the step."""
    call = Call("python -m scripts.prepare_laion", __doc__ or "", ("step", "metadata", "out"))
    config = parse(LaionConfig, call, arguments)
    try:
        _select(config) if config.step == "select" else _summary(config)
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)


def _select(config: LaionConfig) -> None:
    from vlv.datatools.download_statistics import remove_torn
    from vlv.datatools.laion_metadata import Selection, select

    out = Path(config.out)
    (out / "shards").mkdir(parents=True, exist_ok=True)
    selection = Selection(
        min_side=config.min_side,
        min_aspect=config.min_aspect,
        max_aspect=config.max_aspect,
        max_watermark=config.max_watermark,
        max_unsafe=config.max_unsafe,
        min_aesthetic=config.min_aesthetic,
    )
    download = {"samples_per_shard": config.samples_per_shard, "image_size": config.image_size}
    counts = select(config.metadata, out / "metadata", selection, download)
    print(f"{counts.kept:,} of {counts.rows:,} rows are kept")
    for condition, count in counts.failed.items():
        if count:
            print(f"  {count:,} fail {condition}")
    if torn := remove_torn(out / "shards"):
        print(f"{torn} shards have broken statistics, and are fetched again")


def _summary(config: LaionConfig) -> None:
    """Print the statistics; a set that is not whole is an error."""
    import pyarrow.parquet as pq

    from vlv.datatools.download_statistics import downloads, lines

    shards = Path(config.out) / "shards"
    rows = [pq.read_metadata(path).num_rows for path in sorted((Path(config.out) / "metadata").glob("*.parquet"))]
    wanted = sum(math.ceil(count / config.samples_per_shard) for count in rows)
    found = downloads(shards)
    print("\n".join(lines(found)))
    if found.shards < wanted:
        stop(f"{found.shards:,} of {wanted:,} shards are finished: the same command goes on", FAILED_RUN)
    if not found.written:
        stop(f"not one of {found.asked:,} images could be fetched: the failures above say why", FAILED_RUN)
    print(f"train on it with\n  train_dataset_path={shlex.quote(str(shards))} bash train_stage1.sh")


if __name__ == "__main__":
    main(sys.argv[1:])

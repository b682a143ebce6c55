"""The rows of LAION's metadata that the paper trains on, file by file: a killed call goes on after its last file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vlv.atomic import whole_file
from vlv.data.files import expand_pattern
from vlv.inference.journal import read_json, write_json

PLAN = "plan.json"
_COUNTS = b"vlv_rows"  # key of a file's metadata: what was counted while it was written
_KEPT = ("URL", "TEXT", "WIDTH", "HEIGHT", "similarity", "punsafe", "pwatermark", "AESTHETIC_SCORE", "hash")
_NEEDED = ("URL", "TEXT", "WIDTH", "HEIGHT", "pwatermark")


@dataclass(frozen=True)
class Selection:
    """Which rows are kept; a row without one of these numbers is not. Defaults are the paper's.

    min_side: the short side is above this, in pixels. min_aspect, max_aspect: of width / height, both included.
    max_watermark, max_unsafe: probabilities, excluded; min_aesthetic: score, included; None does not ask.
    """

    min_side: int = 512
    min_aspect: float = 0.5
    max_aspect: float = 2.0
    max_watermark: float = 0.5
    max_unsafe: float | None = None
    min_aesthetic: float | None = None


@dataclass(frozen=True)
class Counts:
    """Rows read and kept, and how many fail each condition; one may fail several."""

    rows: int
    kept: int
    failed: dict[str, int]


def select(pattern: str, folder: Path, selection: Selection, download: Mapping[str, object]) -> Counts:
    """Write the rows that are kept of each metadata file into a file of the same name in `folder`.

    Files are read by row groups; each appears when it is whole.

    Args:
        pattern: a parquet file, a folder of them, or a pattern.
        download: settings of the download that decide what its shards hold, and may not change either.

    Raises:
        ValueError: no such files, columns are missing, the folder is of another call, or no row is kept.
    """
    paths = _metadata_files(pattern)
    for path in paths:
        _require_columns(path, selection)
    folder.mkdir(parents=True, exist_ok=True)
    _require_same_call(folder, paths, {**asdict(selection), **download})
    total = Counts(0, 0, {})
    for number, path in enumerate(paths, 1):
        out = folder / path.name
        counts = _finished(out)
        if counts is None:
            counts = _select_file(path, out, selection)
            print(f"{number}/{len(paths)} {path.name}: {counts.kept:,} of {counts.rows:,} rows", flush=True)
        total = _sum((total, counts))
    if not total.kept:
        failed = ", ".join(f"{count:,} fail {condition}" for condition, count in total.failed.items())
        raise ValueError(f"{pattern}: none of its {total.rows:,} rows is left ({failed}): relax a condition")
    return total


def _metadata_files(pattern: str) -> list[Path]:
    given = Path(pattern).expanduser()
    found = sorted(given.glob("*.parquet")) if given.is_dir() else [Path(name) for name in expand_pattern(str(given))]
    if not found:
        raise ValueError(f"{pattern} holds no .parquet file: give the folder of the metadata")
    names = [path.name for path in found]
    if len(set(names)) < len(names):
        raise ValueError(f"{pattern}: two files have one name: give one folder")
    return found


def _require_columns(path: Path, selection: Selection) -> None:
    try:
        names = pq.read_schema(path).names
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"{path} is no parquet file: {error}") from None
    wanted = [*_NEEDED]
    wanted += ["punsafe"] if selection.max_unsafe is not None else []
    wanted += ["AESTHETIC_SCORE"] if selection.min_aesthetic is not None else []
    if missing := [name for name in wanted if name not in names]:
        raise ValueError(
            f"{path} lacks the columns {', '.join(missing)} of LAION's metadata; it has {', '.join(names)}"
        )


def _require_same_call(folder: Path, paths: list[Path], settings: dict[str, object]) -> None:
    """Hold the call against the one that began the folder: the shards' numbers and content follow from both.

    Raises:
        ValueError: they differ.
    """
    plan = {"settings": settings, "files": {path.name: path.stat().st_size for path in paths}}
    before = read_json(folder / PLAN)
    if not isinstance(before, dict):
        write_json(folder / PLAN, plan)
    elif before != plan:
        earlier = before.get("settings", {})
        pairs = [(key, earlier.get(key), value) for key, value in settings.items()]
        changed = [f"{key} was {old} and is {new}" for key, old, new in pairs if old != new]
        what = ", ".join(changed) or "it has other files of metadata"
        raise ValueError(f"{folder} was begun by another call: {what}; give the same, or another output folder")


def _finished(path: Path) -> Counts | None:
    if not path.exists():
        return None
    stored = (pq.read_metadata(path).metadata or {}).get(_COUNTS)
    return None if stored is None else Counts(**json.loads(stored))


def _select_file(path: Path, out: Path, selection: Selection) -> Counts:
    counts = Counts(0, 0, {})
    with pq.ParquetFile(path) as file, whole_file(out) as partial:
        columns = [name for name in _KEPT if name in file.schema_arrow.names]
        schema = pa.schema([file.schema_arrow.field(name) for name in columns])
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            for batch in file.iter_batches(columns=columns):
                kept, found = select_rows(batch, selection)
                counts = _sum((counts, found))
                if kept.num_rows:
                    writer.write_batch(kept)
            writer.add_key_value_metadata({_COUNTS: json.dumps(asdict(counts)).encode()})
    return counts


def select_rows(batch: pa.RecordBatch, selection: Selection) -> tuple[pa.RecordBatch, Counts]:
    """Return the rows that are kept, and the counts."""
    width, height = _numbers(batch, "WIDTH"), _numbers(batch, "HEIGHT")
    passed = {
        f"short side > {selection.min_side}": np.minimum(width, height) > selection.min_side,
        f"aspect {selection.min_aspect:g} to {selection.max_aspect:g}": (width >= selection.min_aspect * height)
        & (width <= selection.max_aspect * height),
        f"pwatermark < {selection.max_watermark:g}": _numbers(batch, "pwatermark") < selection.max_watermark,
        "URL is there": np.array([bool(url) for url in batch["URL"].to_pylist()], dtype=bool),
    }
    if selection.max_unsafe is not None:
        passed[f"punsafe < {selection.max_unsafe:g}"] = _numbers(batch, "punsafe") < selection.max_unsafe
    if selection.min_aesthetic is not None:
        score = _numbers(batch, "AESTHETIC_SCORE")
        passed[f"AESTHETIC_SCORE >= {selection.min_aesthetic:g}"] = score >= selection.min_aesthetic
    kept = batch.filter(pa.array(np.logical_and.reduce(list(passed.values()))))
    failed = {name: int((~mask).sum()) for name, mask in passed.items()}
    return kept, Counts(batch.num_rows, kept.num_rows, failed)


def _numbers(batch: pa.RecordBatch, column: str) -> np.ndarray:
    """A column as float64 [rows]; null becomes NaN, which passes no comparison."""
    return batch[column].cast(pa.float64()).to_numpy(zero_copy_only=False)


def _sum(counts: Iterable[Counts]) -> Counts:
    found = list(counts)
    names = dict.fromkeys(name for item in found for name in item.failed)
    failed = {name: sum(item.failed.get(name, 0) for item in found) for name in names}
    return Counts(sum(item.rows for item in found), sum(item.kept for item in found), failed)

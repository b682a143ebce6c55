"""Which rows of LAION's metadata are kept, counted by hand, and what a killed call leaves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlv.datatools.laion_metadata import Counts, Selection, select

ROOT = Path(__file__).resolve().parents[3]
DOWNLOAD = {"samples_per_shard": 10, "image_size": 512}
# name, width, height, pwatermark, kept
ROWS = [
    ("square", 513, 513, 0.1, True),
    ("just too small", 512, 900, 0.1, False),
    ("small height", 900, 512, 0.1, False),
    ("as wide as may be", 1200, 600, 0.1, True),
    ("too wide", 1201, 600, 0.1, False),
    ("as high as may be", 600, 1200, 0.1, True),
    ("too high", 600, 1201, 0.1, False),
    ("watermark", 800, 800, 0.5, False),
    ("nearly a watermark", 800, 800, 0.499, True),
    ("watermark unknown", 800, 800, None, False),
    ("width unknown", None, 800, 0.1, False),
    ("", 800, 800, 0.1, False),
    ("more pixels than an int32", 100_000, 90_000, 0.1, True),
]


INT32 = pa.int32()


def write(path, rows, sides=INT32):
    names, widths, heights, marks, _ = zip(*rows, strict=True)
    table = {
        "URL": [f"http://x/{name}" if name else None for name in names],
        "TEXT": [f"text of {name}" for name in names],
        "WIDTH": pa.array(widths, sides),
        "HEIGHT": pa.array(heights, sides),
        "similarity": [0.3] * len(rows),
        "punsafe": [0.01 * number for number in range(len(rows))],
        "pwatermark": pa.array(marks, pa.float32()),
        "AESTHETIC_SCORE": [4.5 + 0.1 * number for number in range(len(rows))],
        "hash": list(range(len(rows))),
        "unused": ["x"] * len(rows),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path, row_group_size=4)
    return path


def texts(folder):
    return [text for path in sorted(folder.glob("*.parquet")) for text in pq.read_table(path)["TEXT"].to_pylist()]


@pytest.mark.parametrize("sides", [pa.int32(), pa.int64(), pa.float64()])
def test_the_papers_rows_are_kept(tmp_path, sides):
    write(tmp_path / "in" / "a.parquet", ROWS, sides)
    counts = select(str(tmp_path / "in"), tmp_path / "out", Selection(), DOWNLOAD)
    assert texts(tmp_path / "out") == [f"text of {name}" for name, *_, kept in ROWS if kept]
    assert (counts.rows, counts.kept) == (13, 5)
    assert counts.failed == {
        "short side > 512": 3,
        "aspect 0.5 to 2": 3,  # too wide, too high, and the unknown width
        "pwatermark < 0.5": 2,
        "URL is there": 1,
    }
    assert "unused" not in pq.read_schema(tmp_path / "out" / "a.parquet").names


def test_further_conditions_only_where_they_are_asked_for(tmp_path):
    rows = [(f"{number}", 800, 800, 0.1, True) for number in range(10)]
    write(tmp_path / "in" / "a.parquet", rows)
    selection = Selection(max_unsafe=0.065, min_aesthetic=4.75)
    select(str(tmp_path / "in"), tmp_path / "out", selection, DOWNLOAD)
    assert texts(tmp_path / "out") == [f"text of {number}" for number in (3, 4, 5, 6)]


def test_files_that_are_done_are_not_read_again(tmp_path, capsys):
    for name in "abc":
        write(tmp_path / "in" / f"{name}.parquet", ROWS)
    select(str(tmp_path / "in"), tmp_path / "out", Selection(), DOWNLOAD)
    capsys.readouterr()
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.parquet")}
    (tmp_path / "out" / "b.parquet").unlink()  # as a kill before it would have left
    counts = select(str(tmp_path / "in"), tmp_path / "out", Selection(), DOWNLOAD)
    assert capsys.readouterr().out == "2/3 b.parquet: 5 of 13 rows\n"
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.parquet")} == whole
    assert (counts.rows, counts.kept) == (39, 15)  # those of the files that were done, too


def test_a_file_without_any_row_is_done_too(tmp_path, capsys):
    write(tmp_path / "in" / "a.parquet", ROWS)
    write(tmp_path / "in" / "b.parquet", [row for row in ROWS if not row[-1]])
    for _ in range(2):
        assert select(str(tmp_path / "in"), tmp_path / "out", Selection(), DOWNLOAD).kept == 5
    assert capsys.readouterr().out.count("b.parquet: 0 of 8 rows") == 1


def test_nothing_left_is_an_error_that_says_why(tmp_path):
    write(tmp_path / "in" / "a.parquet", ROWS)
    message = r"none of its 13 rows is left \(.*short side > 200000.*\): relax a condition"
    with pytest.raises(ValueError, match=message):
        select(str(tmp_path / "in"), tmp_path / "out", Selection(min_side=200_000), DOWNLOAD)


def test_missing_columns_are_named_with_those_that_are_there(tmp_path):
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"url": ["x"], "WIDTH": [1], "HEIGHT": [1]}), tmp_path / "in" / "a.parquet")
    message = r"a\.parquet lacks the columns URL, TEXT, pwatermark .* it has url, WIDTH, HEIGHT"
    with pytest.raises(ValueError, match=message):
        select(str(tmp_path / "in"), tmp_path / "out", Selection(), DOWNLOAD)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"no parquet file"])
def test_what_is_no_parquet_file(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(ValueError, match="is no parquet file"):
        select(str(tmp_path), tmp_path / "out", Selection(), DOWNLOAD)


def test_no_metadata(tmp_path):
    with pytest.raises(ValueError, match=r"holds no \.parquet file: give the folder of the metadata"):
        select(str(tmp_path), tmp_path / "out", Selection(), DOWNLOAD)
    with pytest.raises(ValueError, match="does not exist"):
        select(str(tmp_path / "absent.parquet"), tmp_path / "out", Selection(), DOWNLOAD)


@pytest.mark.parametrize(
    ("selection", "download", "said"),
    [
        (Selection(min_side=256), DOWNLOAD, "min_side was 512 and is 256"),
        (Selection(), {**DOWNLOAD, "samples_per_shard": 20}, "samples_per_shard was 10 and is 20"),
    ],
)
def test_another_call_into_the_same_folder_is_refused(tmp_path, selection, download, said):
    """img2dataset numbers shards by file and row: with other rows it would take those that are there for its own."""
    write(tmp_path / "in" / "b.parquet", ROWS)
    select(str(tmp_path / "in"), tmp_path / "out", Selection(), DOWNLOAD)
    with pytest.raises(ValueError, match=said):
        select(str(tmp_path / "in"), tmp_path / "out", selection, download)
    write(tmp_path / "in" / "a.parquet", ROWS)
    with pytest.raises(ValueError, match="it has other files of metadata"):
        select(str(tmp_path / "in"), tmp_path / "out", Selection(), DOWNLOAD)


def test_memory_is_that_of_a_batch_and_not_of_a_file(tmp_path):
    """2 million rows are 50 MB in numbers alone; the peak above an empty file's must stay far below all of the text."""
    text = pa.array(["a caption of eighty characters, more or less, as those of the web have on average"] * 100_000)
    schema = pa.schema([("URL", pa.string()), ("TEXT", pa.string()), *((c, pa.float64()) for c in ("WIDTH", "HEIGHT"))])
    schema = schema.append(pa.field("pwatermark", pa.float64()))
    numbers = pa.array([800.0] * 100_000)
    table = pa.table([text, text, numbers, numbers, pa.array([0.1] * 100_000)], schema)
    (tmp_path / "in").mkdir()
    with pq.ParquetWriter(tmp_path / "in" / "a.parquet", schema, use_dictionary=False) as writer:
        for _ in range(20):
            writer.write_table(table)
    code = (
        "import sys, resource, pyarrow.parquet\n"
        "from pathlib import Path\n"
        "from vlv.datatools.laion_metadata import *\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(select(sys.argv[1], Path(sys.argv[2]), Selection(), {}).kept)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    call = [sys.executable, "-c", code, str(tmp_path / "in"), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
    kept, megabytes = (int(line) for line in done.stdout.splitlines()[-2:])
    assert kept == 2_000_000
    assert megabytes < 200  # all of it is 2,000,000 x (2 x 82 + 24) bytes = 376 MB


def test_counts_are_read_back_as_they_were(tmp_path):
    write(tmp_path / "in" / "a.parquet", ROWS)
    counts = select(str(tmp_path / "in"), tmp_path / "out", Selection(), DOWNLOAD)
    stored = pq.read_metadata(tmp_path / "out" / "a.parquet").metadata[b"vlv_rows"]
    assert Counts(**json.loads(stored)) == counts

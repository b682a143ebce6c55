import os
import signal
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlv.data import parquet
from vlv.data.dataset import OrderedDataset, build_loader
from vlv.data.formats import SourceSettings
from vlv.data.order import BatchPlan, SampleOrder, training_positions
from vlv.data.preparation import SamplePreparation
from vlv.data.shared_tables import SharedTables
from vlv.data.sources import open_source

from .pictures import encode, picture

TABLE = pa.table({"image": [b"one", b"two"]})


def never():
    raise AssertionError("decoded again")


@pytest.fixture(autouse=True)
def folder(monkeypatch):
    """A folder for temporary files, not within tmp_path: loaders put sockets there, whose paths may have 107 bytes."""
    with tempfile.TemporaryDirectory() as name:
        monkeypatch.setattr("tempfile.tempdir", name)
        yield Path(name)


def test_a_table_is_decoded_once_and_goes_with_its_owner(folder):
    owner, other = SharedTables("a", 10**6), SharedTables("a", 10**6)
    assert owner.get("k", lambda: TABLE).equals(TABLE)
    held = other.get("k", never)
    assert SharedTables("b", 10**6).get("k", lambda: TABLE.slice(1)).num_rows == 1
    del owner
    assert list(folder.iterdir()) == []
    assert held.equals(TABLE)
    assert other.get("k", lambda: TABLE).equals(TABLE)


def test_the_oldest_go_first(folder):
    shared = SharedTables("a", 10**4)
    for key in "abc":
        shared.get(key, lambda: pa.table({"image": [bytes(4500)]}))
    assert sorted(path.name for path in folder.rglob("*.arrow")) == ["b.arrow", "c.arrow"]


def test_errors_of_decoding_pass_and_a_full_disk_does_not_matter(folder, monkeypatch):
    shared = SharedTables("a", 10**4)
    with pytest.raises(pa.ArrowInvalid):
        shared.get("k", lambda: pa.array(["x"]).cast(pa.int64()))
    monkeypatch.setattr("tempfile.tempdir", str(folder / "gone"))
    assert SharedTables("a", 10**4).get("k", lambda: TABLE) is TABLE


@pytest.mark.parametrize("num_workers", [1, 4])
@pytest.mark.parametrize("num_processes", [1, 2])
def test_each_row_group_is_decoded_once(tmp_path, processor, monkeypatch, num_workers, num_processes):
    """By workers x processes times as often before; and the order is the same."""
    table = pa.table({"image": [encode(picture(number)) for number in range(64)]})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=8)
    decode, log = parquet.ParquetSource._decode, tmp_path / "decoded"

    def logged(self, path, number):
        with log.open("a") as file:
            file.write(f"{number}\n")
        return decode(self, path, number)

    monkeypatch.setattr(parquet.ParquetSource, "_decode", logged)
    names = []
    sources = [
        open_source(str(tmp_path / "x.parquet"), SourceSettings(readers=num_workers * num_processes + 1))
        for _ in range(num_processes)
    ]
    order = SampleOrder(sources[0].shard_sizes, 0, 32)
    expected = [f"x.parquet:{order[position]}" for position in range(64)]
    loaders = [
        build_loader(
            OrderedDataset(source, order, SamplePreparation(processor)),
            training_positions(BatchPlan(8, num_processes, index, 8 // num_processes), 0, 8),
            num_workers,
            False,
        )
        for index, source in enumerate(sources)
    ]
    for batches in zip(*loaders, strict=True):
        names += [name for batch in batches for name in batch["names"]]
    assert names == expected
    assert sorted(map(int, log.read_text().split())) == list(range(8))


def test_a_forked_copy_removes_nothing(folder):
    shared = SharedTables("a", 10**4)
    shared.get("k", lambda: TABLE)
    child = os.fork()
    if child == 0:
        del shared
        os._exit(0)
    os.waitpid(child, 0)
    assert len(list(Path(folder).rglob("*.arrow"))) == 1


def test_what_killed_processes_left_goes_with_the_next(folder):
    child = os.fork()
    if child == 0:
        shared = SharedTables("a", 10**4)
        shared.get("k", lambda: TABLE)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    used = SharedTables("b", 10**4)
    assert [path.name for path in folder.rglob("*.arrow")] == ["k.arrow"]
    used.get("l", lambda: TABLE)
    assert [path.name for path in folder.rglob("*.arrow")] == ["l.arrow"]
    another = SharedTables("c", 10**4)
    another.get("m", lambda: TABLE)
    assert sorted(path.name for path in folder.rglob("*.arrow")) == ["l.arrow", "m.arrow"]

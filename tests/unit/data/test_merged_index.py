"""The merged index of many shards: mapped, shared, made again only where something changed."""

import os
from pathlib import Path

import pyarrow as pa
import pytest

from vlv.data import tar_index
from vlv.data.formats import SourceSettings
from vlv.data.merged_index import SCHEMA, ShardIndex, open_merged, write_merged
from vlv.data.sources import open_source
from vlv.data.tar_index import index_shard, index_shards

from .pictures import write_tar


@pytest.fixture
def shards(tmp_path):
    paths = [str(tmp_path / f"{number}.tar") for number in range(6)]
    for number, path in enumerate(paths):
        write_tar(Path(path), [(f"{number}_{n}.jpg", bytes([number, n])) for n in range(number)])  # the first is empty
    (tmp_path / "5.tar").write_bytes((tmp_path / "5.tar").read_bytes()[:2300])
    return paths


@pytest.fixture
def built(monkeypatch):
    """The shards whose headers are read."""
    paths = []
    monkeypatch.setattr(tar_index, "index_shard", lambda path, remote: paths.append(path) or index_shard(path, remote))
    return paths


def test_it_says_what_the_shards_say(shards, tmp_path):
    cache = tmp_path / "cache"
    first = index_shards(shards, str(cache), 1)
    again = index_shards(shards, str(cache), 1)
    for path, *indexes in zip(shards, first, again, strict=True):
        alone = index_shard(path)
        for index in indexes:
            assert index.rows.equals(alone.rows)
            assert index[1:] == alone[1:]
    assert "cut short" in first[5].cut
    assert len(list(cache.glob("*.merged.arrow"))) == 1


def test_it_alone_is_read_at_the_next_start(shards, tmp_path, monkeypatch):
    index_shards(shards, str(tmp_path / "cache"), 1)
    monkeypatch.setattr(tar_index, "_index_all", lambda *_: pytest.fail("an index is read by itself"))
    source = open_source(str(tmp_path), SourceSettings(cache_dir=str(tmp_path / "cache"), max_bad_share=0.5))
    names = [source.name(index) for index in range(len(source))]
    assert names[:6] == [
        "1.tar/1_0.jpg",
        "2.tar/2_0.jpg",
        "2.tar/2_1.jpg",
        "3.tar/3_0.jpg",
        "3.tar/3_1.jpg",
        "3.tar/3_2.jpg",
    ]
    assert [source.read(index).image for index in range(3)] == [bytes([1, 0]), bytes([2, 0]), bytes([2, 1])]


def test_a_shard_that_changed_is_read_alone(shards, tmp_path, built):
    index_shards(shards, str(tmp_path / "cache"), 1)
    write_tar(Path(shards[2]), [("new.jpg", b"1")])
    built.clear()
    indexes = index_shards(shards, str(tmp_path / "cache"), 1)
    assert built == [shards[2]]
    assert indexes[2].rows["name"].to_pylist() == [b"new.jpg"]
    assert len(indexes[3]) == 3
    built.clear()
    assert len(index_shards([*shards[:2], *shards[3:]], str(tmp_path / "cache"), 1)) == 5  # other shards, another file
    assert built == []


@pytest.mark.parametrize("damage", [lambda raw: raw[:-40], lambda raw: b"", lambda raw: raw[: len(raw) // 2]])
def test_a_damaged_one_is_made_again(shards, tmp_path, damage):
    cache = tmp_path / "cache"
    sizes = [len(index) for index in index_shards(shards, str(cache), 1)]
    (file,) = cache.glob("*.merged.arrow")
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert [len(index) for index in index_shards(shards, str(cache), 1)] == sizes
    assert file.read_bytes() == whole


def test_without_room_for_it_the_indexes_are_held(shards, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tar_index, "write_merged", refuse)
    assert [len(index) for index in index_shards(shards, str(tmp_path / "cache"), 1)][:5] == [0, 1, 2, 3, 4]


def test_a_shard_that_is_not_there_is_said_and_nothing_is_kept_of_it(shards, tmp_path):
    os.remove(shards[1])
    indexes = index_shards(shards, str(tmp_path / "cache"), 1)
    assert indexes[1].cut == "it cannot be read: No such file or directory"
    assert not list((tmp_path / "cache").glob("*.merged.arrow"))


def rows(number, count):
    names = [b"%09d.jpg" % (number * count + row) for row in range(count)]
    numbers = pa.array(range(count), pa.int64())
    columns = [pa.array(names, pa.large_binary()), *[numbers] * 4, pa.array([1] * count, pa.uint8())]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def test_opening_takes_no_memory_for_samples(tmp_path):
    identities = [{"path": str(number)} for number in range(50)]
    write_merged(
        tmp_path / "m.arrow", identities, (ShardIndex(rows(number, 20_000), "", [], 0, {}) for number in range(50))
    )
    assert os.path.getsize(tmp_path / "m.arrow") > 50e6
    before = pa.total_allocated_bytes()
    indexes = open_merged(tmp_path / "m.arrow", identities)
    assert sum(map(len, indexes)) == 1_000_000
    assert indexes[49].rows["name"][19_999].as_py() == b"000999999.jpg"
    assert pa.total_allocated_bytes() - before < 1e5
    assert open_merged(tmp_path / "m.arrow", identities[:49]) is None
    assert open_merged(tmp_path / "m.arrow", [*identities[:49], {"path": "other"}]) is None


def test_progress_is_said_where_there_are_many_shards(shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tar_index, "_AT_ONCE", 4)
    index_shards(shards, str(tmp_path / "cache"), 1)
    assert "indexing: 6/6 shards" in capsys.readouterr().err
    index_shards(shards, str(tmp_path / "cache"), 1)
    assert capsys.readouterr().err == ""

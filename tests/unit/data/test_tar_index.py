import io
import os
import tarfile

import pytest

from vlv.data import tar_index
from vlv.data.formats import SourceSettings
from vlv.data.sources import open_source
from vlv.data.tar_index import index_shard, index_shards

from .pictures import write_tar


def spans(index):
    columns = index.table.to_pydict()
    return {name.decode(): span for name, *span in zip(*list(columns.values())[:3], strict=True)}


LONG = "d" * 90 + "/" + "e" * 120 + "/" + "n" * 100
MEMBERS = [
    ("a/1.jpg", b"A" * 700),
    ("a/1.txt", b"one"),
    (f"{LONG}.png", b"B" * 512),
    (f"{LONG}.txt", b"two"),
    ("ünïcode.webp", b"C"),
    ("empty.gif", b""),
    ("readme", b"no extension"),
    ("._1.jpg", b"a resource fork"),
    ("__meta__.json", b"{}"),
]


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_spans_are_those_of_tarfile(tmp_path, kind):
    write_tar(tmp_path / "x.tar", MEMBERS, kind)
    index = index_shard(str(tmp_path / "x.tar"))
    with tarfile.open(tmp_path / "x.tar") as archive:
        expected = {m.name: [m.offset_data, m.size] for m in archive if m.name.endswith(("jpg", "png", "webp", "gif"))}
    expected.pop("._1.jpg")
    assert spans(index) == expected
    assert index.table["caption_kind"].to_pylist() == [1, 1, 0, 0]
    assert index[1:] == ("", 0, 0)


def test_ustar_prefix_and_directories(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        folder = tarfile.TarInfo("photos.d")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "a.jpg"
        archive.addfile(link)
        info = tarfile.TarInfo("p" * 90 + "/" + "n" * 80 + ".JPG")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"12345"))
    assert list(spans(index_shard(str(tmp_path / "x.tar")))) == ["p" * 90 + "/" + "n" * 80 + ".JPG"]


def test_pairs_need_not_be_neighbours(tmp_path):
    write_tar(tmp_path / "x.tar", [("a.jpg", b"1"), ("b.jpg", b"2"), ("b.txt", b"B"), ("a.txt", b"A"), ("c.txt", b"C")])
    index = index_shard(str(tmp_path / "x.tar"))
    assert index.table["caption_kind"].to_pylist() == [1, 1]
    assert index.lone_captions == 1


def test_images_with_one_key(tmp_path, caplog):
    write_tar(tmp_path / "x.tar", [("a.jpg", b"1"), ("a.mask.png", b"2")])
    source = open_source(str(tmp_path), SourceSettings(cache_dir=str(tmp_path / "cache")))
    assert [source.read(index).image for index in range(len(source))] == [b"1"]
    assert "1 images share their key" in caplog.text


@pytest.mark.parametrize("end", [3 * 1024 + 100, 3 * 1024 + 512 + 10])
def test_cut_shard_gives_what_is_whole(tmp_path, caplog, end):
    write_tar(tmp_path / "x.tar", [(f"{number}.jpg", bytes([65 + number]) * 400) for number in range(6)])
    os.truncate(tmp_path / "x.tar", end)
    source = open_source(str(tmp_path), SourceSettings(cache_dir=str(tmp_path / "cache")))
    assert [source.read(index).image[:1] for index in range(len(source))] == [b"A", b"B", b"C"]
    assert "1 of 1 shards are damaged: x.tar (cut short" in caplog.text
    assert "3 samples before it are used" in caplog.text


def test_damaged_header(tmp_path):
    write_tar(tmp_path / "x.tar", [(f"{number}.jpg", b"x") for number in range(3)])
    data = bytearray((tmp_path / "x.tar").read_bytes())
    data[2048:2058] = b"0123456789"
    (tmp_path / "x.tar").write_bytes(data)
    index = index_shard(str(tmp_path / "x.tar"))
    assert len(index) == 2
    assert index.cut == "damaged header at byte 2048"


def test_shards_that_are_no_tar(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"<html>not found</html>" * 100)
    (tmp_path / "y.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"has no image in its 2 \.tar shards"):
        open_source(str(tmp_path), SourceSettings(cache_dir=str(tmp_path / "cache")))


def test_cache_is_used_until_the_shard_changes(tmp_path, monkeypatch):
    shard, cache = tmp_path / "x.tar", str(tmp_path / "cache")
    write_tar(shard, [("a.jpg", b"1")])
    built = []
    plain = index_shard
    monkeypatch.setattr(tar_index, "index_shard", lambda path: built.append(path) or plain(path))
    first = index_shards([str(shard)], cache, 2)
    again = index_shards([str(shard)], cache, 2)
    assert first[0].table.equals(again[0].table)
    assert len(built) == 1
    write_tar(shard, [("a.jpg", b"1"), ("b.jpg", b"2")])
    assert len(index_shards([str(shard)], cache, 2)[0]) == 2
    os.utime(shard, ns=(1, 1))
    index_shards([str(shard)], cache, 2)
    assert len(built) == 3
    assert len(os.listdir(cache)) == 1


def test_shards_are_built_in_parallel(tmp_path):
    paths = [str(tmp_path / f"{number}.tar") for number in range(5)]
    for number, path in enumerate(paths):
        write_tar(tmp_path / path, [(f"{number}.jpg", b"1")] + [("x.jpg", b"2")] * (number % 2))
    write_tar(tmp_path / "5.tar", [("5.jpg", b"1")])
    index_shards(paths[1:3], str(tmp_path / "cache"), 2)
    indexes = index_shards([*paths, str(tmp_path / "5.tar")], str(tmp_path / "cache"), 2)
    assert [next(iter(spans(index))) for index in indexes] == [f"{number}.jpg" for number in range(6)]
    assert [len(index) for index in indexes] == [1, 2, 1, 2, 1, 1]


def test_cache_that_is_broken_or_unwritable(tmp_path, monkeypatch):
    shard, cache = tmp_path / "x.tar", tmp_path / "cache"
    write_tar(shard, [("a.jpg", b"1")])
    index_shards([str(shard)], str(cache), 1)
    next(cache.iterdir()).write_bytes(b"no arrow file")
    assert len(index_shards([str(shard)], str(cache), 1)[0]) == 1
    (tmp_path / "file").write_text("")
    assert len(index_shards([str(shard)], str(tmp_path / "file" / "cache"), 1)[0]) == 1
    monkeypatch.setenv("VLV_CACHE_DIR", str(tmp_path / "other"))
    index_shards([str(shard)], None, 1)
    assert len(list((tmp_path / "other").iterdir())) == 1


def test_shard_that_cannot_be_opened(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.tar cannot be opened: No such file"):
        index_shards([str(tmp_path / "gone.tar")], str(tmp_path), 1)

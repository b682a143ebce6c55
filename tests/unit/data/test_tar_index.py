import io
import os
import tarfile

import numpy as np
import pytest

from vlv.data import tar_index
from vlv.data.formats import SourceSettings
from vlv.data.sources import open_source
from vlv.data.tar_index import index_shard, index_shards

from .pictures import write_tar


def spans(index):
    columns = index.rows.to_pydict()
    return {os.fsdecode(name): span for name, *span in zip(*list(columns.values())[:3], strict=True)}


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
    assert index.rows["caption_kind"].to_pylist() == [1, 1, 0, 0]
    assert index[1:] == ("", [], 0, {"without an extension": 1})


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
    assert index.rows["caption_kind"].to_pylist() == [1, 1]
    assert index.lone_captions == 1


def test_images_with_one_key(tmp_path, caplog):
    write_tar(tmp_path / "x.tar", [("a.jpg", b"1"), ("a.mask.png", b"2")])
    source = open_source(str(tmp_path), SourceSettings(cache_dir=str(tmp_path / "cache")))
    assert [source.read(index).image for index in range(len(source))] == [b"1"]
    assert "1 images are left out, as another image has their key: x.tar/a.mask.png" in caplog.text


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
    monkeypatch.setattr(tar_index, "index_shard", lambda path, remote: built.append(path) or plain(path))
    first = index_shards([str(shard)], cache, 2)
    again = index_shards([str(shard)], cache, 2)
    assert first[0].rows.equals(again[0].rows)
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
    (index,) = index_shards([str(tmp_path / "gone.tar")], str(tmp_path / "cache"), 1)
    assert len(index) == 0
    assert index.cut == "it cannot be read: No such file or directory"
    assert not (tmp_path / "cache").exists()


def header_size(data, size):
    """The archive with another size in its second member's header, checksum and all."""
    info = tarfile.TarInfo.frombuf(data[1024:1536], "utf-8", "surrogateescape")
    block = bytearray(data[1024:1536])
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert info.name == "1.jpg"
    return data[:1024] + bytes(block) + data[1536:]


@pytest.mark.parametrize(
    "size", [b"-0000000512\0", b"\xff" * 11 + b"\0", b"\xff" + b"\0" * 11, b"\x80" + b"\x7f" * 11, b"77777777777\0"]
)
def test_sizes_that_lead_nowhere_end_the_shard(tmp_path, size):
    """Negative ones in octal and in base 256, and ones past any end: no endless loop, and no reach for memory."""
    write_tar(tmp_path / "x.tar", [(f"{number}.jpg", b"x" * 10) for number in range(3)])
    (tmp_path / "x.tar").write_bytes(header_size((tmp_path / "x.tar").read_bytes(), size))
    index = index_shard(str(tmp_path / "x.tar"))
    assert list(spans(index)) == ["0.jpg"]
    assert "at byte 1024" in index.cut


@pytest.mark.parametrize("size", ["-512", "abc", "99999999999999999999"])
def test_pax_sizes_that_lead_nowhere_end_the_shard(tmp_path, caplog, size):
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(3):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = 10
            info.pax_headers = {"size": size} if number == 1 else {}
            archive.addfile(info, io.BytesIO(b"x" * 10))
    source = open_source(str(tmp_path), SourceSettings(cache_dir=str(tmp_path / "cache")))
    assert [source.name(index) for index in range(len(source))] == ["x.tar/0.jpg"]
    assert "1 of 1 shards are damaged: x.tar (" in caplog.text
    assert "at byte 1024" in caplog.text


def test_names_are_bytes(tmp_path):
    write_tar(tmp_path / "x.tar", [("\udcff.jpg", b"1")])
    write_tar(tmp_path / "y.tar", [("\udcfe" + "n" * 150 + ".jpg", b"2")], tarfile.PAX_FORMAT)
    indexes = index_shards([str(tmp_path / "x.tar"), str(tmp_path / "y.tar")], str(tmp_path / "cache"), 1)
    names = [index.rows["name"][0].as_py() for index in indexes]
    assert names == [b"\xff.jpg", b"\xfe" + b"n" * 150 + b".jpg"]


def test_a_shard_without_its_end_mark_is_whole(tmp_path):
    write_tar(tmp_path / "x.tar", [("a.jpg", b"A" * 600)])
    for end in (512 + 600, 512 + 1024):  # without padding, and with it
        os.truncate(tmp_path / "x.tar", end)
        assert index_shard(str(tmp_path / "x.tar"))[1:] == ("", [], 0, {})
        write_tar(tmp_path / "x.tar", [("a.jpg", b"A" * 600)])


def damaged(whole, random):
    """The archive with a few bytes of one block changed; a checksum is made to fit, so that it does not tell."""
    data = bytearray(whole)
    start = 512 * int(random.integers(len(data) // 512))
    block = data[start : start + 512]
    for at in random.integers(0, 512, 3):
        block[at] = random.choice([0, ord("-"), ord("9"), 0x80, 0xFF, int(random.integers(256))])
    block[124 + int(random.integers(12))] = random.choice([ord("7"), ord("-"), 0x80, 0xFF])
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    data[start : start + 512] = block
    return data[: int(random.integers(512, len(data) + 1))]


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_damage_anywhere_ends_the_reading_and_nothing_else(tmp_path, kind):
    write_tar(tmp_path / "x.tar", [(f"{number}{'n' * 120 * (number % 2)}.jpg", b"x" * 10) for number in range(4)], kind)
    whole = (tmp_path / "x.tar").read_bytes()[: 20 * 512]
    random = np.random.default_rng(0)
    for _ in range(300):
        (tmp_path / "x.tar").write_bytes(damaged(whole, random))
        index = index_shard(str(tmp_path / "x.tar"))
        assert len(index) <= 20
        size = (tmp_path / "x.tar").stat().st_size
        assert all(0 <= offset <= offset + length <= size for offset, length in spans(index).values())

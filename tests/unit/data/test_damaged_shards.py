"""One rule for every format: a damaged shard is named, left out, and counted against max_bad_share."""

import os
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlv.data.damaged_shards import report_damaged
from vlv.data.formats import SourceSettings
from vlv.data.latent_cache import LatentFacts, schema, write_manifest
from vlv.data.sources import check_source, open_source
from vlv.data.tar_stream import TarStream
from vlv.data.transport import Patience, StreamBrokenError

from .pictures import write_tar


def parquet_files(root):
    for number in range(10):
        pq.write_table(pa.table({"image": [b"%d" % number] * 3}), root / f"{number}.parquet")


def tar_shards(root):
    for number in range(10):
        write_tar(root / f"{number}.tar", [(f"{number}{n}.jpg", b"x" * 6000) for n in range(3)])


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def no_file(path):
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


def write_arrow(path, table):
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


def arrow_files(root):
    for number in range(10):
        write_arrow(root / f"{number}.arrow", pa.table({"image": [b"%d" % number] * 3}))


def latents(root):
    facts = LatentFacts({"weights_fingerprint": "x"}, 32, (2, 1, 2, 2), "fp16")
    shards = []
    for number in range(10):
        row = {"name": str(number), "image": b"%d" % number, "crop": [1, 1, 0, 0], "moments": bytes(16)}
        write_arrow(root / f"{number}.arrow", pa.Table.from_pylist([row] * 3, schema(False, facts)))
        shards.append({"file": f"{number}.arrow", "samples": 3})
    write_manifest(root, facts, shards)


def other_arrow_columns(path):
    write_arrow(path, pa.table({"url": ["a"]}))


def other_columns(path):
    pq.write_table(pa.table({"url": ["a"]}), path)


def bad_pax_size(path):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a.jpg")
        info.pax_headers = {"size": "1e3"}
        archive.addfile(info)


CASES = [(tar_shards, cut), (tar_shards, no_file), (tar_shards, bad_pax_size),
         (parquet_files, cut), (parquet_files, no_file), (parquet_files, other_columns)]  # fmt: skip


@pytest.mark.parametrize(("make", "damage"), CASES)
@pytest.mark.parametrize("which", [0, 4])
def test_one_damaged_shard(tmp_path, caplog, make, damage, which):
    root = tmp_path / "data"
    root.mkdir()
    make(root)
    victim = sorted(root.iterdir())[which]
    damage(victim)
    settings = SourceSettings(cache_dir=str(tmp_path / "cache"), max_bad_share=0.1)
    check_source(str(root), settings)
    source = open_source(str(root), settings)
    names = {source.name(index).split("/")[0].split(":")[0] for index in range(len(source))}
    assert {path.name for path in root.iterdir()} - names <= {victim.name}
    assert len(source) >= 27
    assert source.read(len(source) - 1).image
    assert "1 of 10 shards are damaged: " in caplog.text
    assert victim.name in caplog.text
    with pytest.raises(ValueError, match=rf"1 of 10 shards are damaged and at most 5.0% may be: .*{victim.name}"):
        open_source(str(root), SourceSettings(cache_dir=str(tmp_path / "cache"), max_bad_share=0.05))


@pytest.mark.parametrize("make", [arrow_files, latents])
@pytest.mark.parametrize("damage", [cut, no_file, other_arrow_columns])
@pytest.mark.parametrize("which", [0, 4])
def test_one_damaged_arrow_file(tmp_path, caplog, make, damage, which):
    root = tmp_path / "data"
    root.mkdir()
    make(root)
    damage(root / f"{which}.arrow")
    source = open_source(str(root), SourceSettings(max_bad_share=0.1))
    assert len(source) == 27
    found = [source.read(index).image for index in range(len(source))]
    assert found == [b"%d" % number for number in range(10) if number != which for _ in range(3)]
    assert "1 of 10 shards are damaged: " in caplog.text
    with pytest.raises(ValueError, match=rf"1 of 10 shards are damaged and at most 5.0% may be: .*{which}\.arrow"):
        open_source(str(root), SourceSettings(max_bad_share=0.05))


@pytest.mark.parametrize("victims", [1, 2])
def test_damaged_shards_of_a_stream(tmp_path, caplog, victims):
    tar_shards(tmp_path)
    for number in range(victims):
        cut(tmp_path / f"{number}.tar")
    stream = TarStream(f"pipe:cat {tmp_path}/{{0..9}}.tar", SourceSettings(max_bad_share=0.1), Patience())
    if victims == 1:
        for _ in range(2):  # each epoch meets it, and it is one
            assert len(list(stream.read(range(10)))) >= 27
        assert caplog.text.count("1 of 10 shards are damaged: ") == 1
        assert f"; of pipe:cat {tmp_path}/0.tar" in caplog.text
    else:
        with pytest.raises(StreamBrokenError, match=r"2 of 10 shards are damaged and at most 10.0% may be"):
            list(stream.read(range(10)))


def test_many_are_not_all_named():
    with pytest.raises(
        ValueError, match="a0, a1, a2, a3, a4 and 3 more; repair or remove them, or raise max_bad_share"
    ):
        report_damaged("data", [f"a{number}" for number in range(8)], 10, 0.1)

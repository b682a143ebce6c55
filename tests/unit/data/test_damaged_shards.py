"""One rule for every format: a damaged shard is named, left out, and counted against max_bad_share."""

import os
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlv.data.damaged_shards import report_damaged
from vlv.data.formats import SourceSettings
from vlv.data.sources import check_source, open_source

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


def test_many_are_not_all_named():
    with pytest.raises(
        ValueError, match="a0, a1, a2, a3, a4 and 3 more; repair or remove them, or raise max_bad_share"
    ):
        report_damaged("data", [f"a{number}" for number in range(8)], 10, 0.1)

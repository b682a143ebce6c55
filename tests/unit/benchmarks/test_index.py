"""`vlv benchmark index`: it opens what it has made, and says so."""

from vlv.cli.benchmark_index import main
from vlv.data.formats import SourceSettings
from vlv.data.sources import open_source


def test_the_table(tmp_path, capsys):
    folder = tmp_path / "index"
    main([str(folder), "samples=2500", "samples_per_shard=1000", "processes=2"])
    out = capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in out.splitlines()]
    first, later = (next(row for row in rows if row[0] == name) for name in ("first", "later"))
    assert first[:3] == ["first", "2,500", "1"]
    assert later[:3] == ["later", "2,500", "2"]
    assert "The merged index has 0.00 GB." in out
    source = open_source(str(folder / "shards"), SourceSettings(cache_dir=str(folder / "cache")))
    assert [len(source), *source.shard_sizes.tolist()] == [2500, 1000, 1000, 500]
    assert source.name(2499) == "000002.tar/000002499.jpg"

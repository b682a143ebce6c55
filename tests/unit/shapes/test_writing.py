"""Scenes as training data: what the loader reads is what was written, whatever the format."""

import io
import json

import pytest
from PIL import Image

from scripts.small_world.make_scenes import main as make
from vlv.data import SourceSettings, open_source
from vlv.shapes.measure_files import main as measure
from vlv.shapes.render import RESOLUTION
from vlv.shapes.scene import make_scene
from vlv.shapes.writing import caption, named_scene, scene_name, write_scenes


@pytest.mark.parametrize("form", ["folder", "webdataset", "parquet"])
def test_every_format_is_read_back(form, tmp_path):
    assert write_scenes(tmp_path / "data", "val", range(5, 17), form, captions=True, processes=2) == 12
    source = open_source(str(tmp_path / "data"), SourceSettings(captions=True))
    assert len(source) == 12
    found = {}
    for index in range(12):
        sample = source.read(index)
        assert Image.open(io.BytesIO(sample.image)).size == (RESOLUTION, RESOLUTION)
        found[sample.caption] = index
    assert set(found) == {caption("val", number) for number in range(5, 17)}


@pytest.mark.parametrize("form", ["folder", "webdataset", "parquet"])
def test_the_same_call_writes_the_same_bytes(form, tmp_path, monkeypatch):
    monkeypatch.setattr("vlv.shapes.writing.SHARD", 4)
    for name, processes in (("one", 1), ("two", 2)):
        write_scenes(tmp_path / name, "train", range(10), form, captions=True, processes=processes)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == (11 if form == "folder" else 3)
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_name_tells_the_scene():
    assert named_scene(f"somewhere/{scene_name('unseen', 12)}.png") == make_scene("unseen", 12)
    with pytest.raises(ValueError, match=r"photo\.png is no picture of the small world"):
        named_scene("photo.png")


def test_the_commands_write_and_measure(tmp_path, capsys):
    make([str(tmp_path / "out"), "split=test", "num=8", "captions=true"])
    assert "8 scenes of test" in capsys.readouterr().out
    for path in (tmp_path / "out", tmp_path / "out" / "captions.json"):
        measure([str(path), f"json={tmp_path / 'm.json'}"])
        assert "f1" in capsys.readouterr().out
        assert json.loads((tmp_path / "m.json").read_text())["exact"] == 1
    with pytest.raises(SystemExit):
        make([str(tmp_path / "out")])
    assert "is not empty" in capsys.readouterr().err

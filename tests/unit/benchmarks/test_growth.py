"""`vlv benchmark growth`: each dataset has as many images as it says, and all of them are read."""

import json

import pytest

from vlv.benchmarks.growth import CAPTION, caption_all, load_epoch, write_files, write_shards
from vlv.cli.benchmark import main
from vlv.data.sources import open_source


def test_each_image_is_read_and_captioned_once(tmp_path):
    count = 1_100  # two subfolders, the second of which is not full
    for _ in range(2):  # once more over what is there
        shards, files = write_shards(tmp_path / "tar", count), write_files(tmp_path / "files", count)
    assert min(load_epoch(str(shards), count)) > 0
    assert min(caption_all(str(files), count)) > 0
    assert len(open_source(str(shards))) == count
    captions = json.loads((tmp_path / "files.json").read_text())
    assert len(captions) == count
    assert set(captions.values()) == {CAPTION}


def test_the_table_from_its_command(tmp_path, capsys):
    main(["growth", str(tmp_path / "data"), "counts=[128]", f"json={tmp_path / 'facts.json'}"])
    output = capsys.readouterr().out
    assert "| 128 | " in output
    assert list(json.loads((tmp_path / "facts.json").read_text())["costs"]) == ["128"]


def test_too_few_images_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["growth", str(tmp_path), "counts=[10]"])
    assert "counts=[10]" in capsys.readouterr().err

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.sample_pictures import make as make_assets
from vlv.data import SourceSettings, find_images, open_source

ASSETS = Path(__file__).parents[2] / "assets"


@pytest.mark.parametrize("name", make_assets.CAPTIONS)
def test_committed_picture_is_what_the_script_draws(name):
    """Within what another version of the imaging libraries may change."""
    encoded = io.BytesIO()
    make_assets.draw(name).finish().save(encoded, **make_assets.JPEG_SETTINGS)
    committed, drawn = (np.asarray(Image.open(file), dtype=np.int16) for file in (ASSETS / name, encoded))
    assert committed.shape == drawn.shape
    difference = np.abs(committed - drawn)
    assert difference.mean() < 0.5
    assert np.quantile(difference, 0.99) < 8


def test_committed_captions_are_the_scripts_and_match_the_pictures():
    assert json.loads((ASSETS / "captions.json").read_text(encoding="utf-8")) == make_assets.CAPTIONS
    assert find_images(str(ASSETS))[1] == sorted(make_assets.CAPTIONS)
    source = open_source(str(ASSETS), SourceSettings(captions=True))
    assert len(source) == 8
    assert all(source.read(n).caption == make_assets.CAPTIONS[source.name(n)] for n in range(8))


def test_the_set_is_small_and_of_several_shapes():
    assert sum(path.stat().st_size for path in ASSETS.iterdir()) < 700_000
    sizes = [Image.open(ASSETS / name).size for name in make_assets.CAPTIONS]
    assert {np.sign(width - height) for width, height in sizes} == {-1, 0, 1}
    assert all(max(size) >= 512 and min(size) >= 448 for size in sizes)


def test_writes_pictures_and_captions(tmp_path, monkeypatch, capsys):
    name = "sailing_boat.jpg"
    monkeypatch.setattr(make_assets, "CAPTIONS", {name: make_assets.CAPTIONS[name]})
    make_assets.main([str(tmp_path / "new")])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["captions.json", name]
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stopped:
        make_assets.main([str(tmp_path / "file")])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1

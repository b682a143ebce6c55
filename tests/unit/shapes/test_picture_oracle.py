"""The reader of pictures: every scene is read without a fault, and what no scene explains is seen."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vlv.shapes.picture_oracle import read_pictures
from vlv.shapes.render import CELL, render
from vlv.shapes.scene import BACKGROUNDS, COLORS, Item, Scene, make_component_scene


def test_reads_every_scene():
    scenes = [make_component_scene(number, most=9) for number in range(120)]
    readings = read_pictures([render(scene, number) for number, scene in enumerate(scenes)])
    assert [reading.scene for reading in readings] == scenes
    assert all(reading.clean for reading in readings)


@pytest.mark.slow
def test_reads_ten_thousand_scenes():
    for start in range(0, 10_000, 500):
        scenes = [make_component_scene(number) for number in range(start, start + 500)]
        readings = read_pictures([render(scene, start + number) for number, scene in enumerate(scenes)])
        assert [reading.scene for reading in readings] == scenes
        assert all(reading.clean for reading in readings)


def test_another_size_is_resized():
    scene = make_component_scene(3)
    assert read_pictures([render(scene, 3).resize((192, 192), Image.Resampling.NEAREST)])[0].scene == scene


STAR = Item(1, 1, "large", "solid", "purple", "star")
SCENE = Scene((STAR,), "white")


def _picture() -> Image.Image:
    return render(SCENE, 0)


def _squares_on_crossings(picture: Image.Image) -> None:
    for x in (CELL, 2 * CELL):
        for y in (CELL, 2 * CELL):
            ImageDraw.Draw(picture).rectangle((x - 2, y - 2, x + 1, y + 1), fill=COLORS["red"])


def _speck(picture: Image.Image) -> None:
    ImageDraw.Draw(picture).rectangle((15, 15, 17, 17), fill=COLORS["green"])


def _lower_fifth_erased(picture: Image.Image) -> None:
    ImageDraw.Draw(picture).rectangle((CELL, 54, 2 * CELL, 2 * CELL), fill=BACKGROUNDS["white"])


def _half_green(picture: Image.Image) -> None:
    pixels = np.asarray(picture).astype(float)
    half = pixels[CELL : 2 * CELL, 48 : 2 * CELL]
    ground, purple = np.array(BACKGROUNDS["white"]), np.array(COLORS["purple"])
    coverage = (half - ground) @ (purple - ground) / ((purple - ground) @ (purple - ground))
    pixels[CELL : 2 * CELL, 48 : 2 * CELL] = ground + coverage[..., None] * (np.array(COLORS["green"]) - ground)
    picture.paste(Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)))


@pytest.mark.parametrize("spoil", [_squares_on_crossings, _speck, _lower_fifth_erased, _half_green])
def test_what_no_scene_explains_is_not_clean(spoil):
    """The nearest scene is still read; the picture is not called clean."""
    picture = _picture()
    assert read_pictures([picture])[0].clean
    spoil(picture)
    assert not read_pictures([picture])[0].clean

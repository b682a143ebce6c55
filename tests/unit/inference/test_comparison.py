import numpy as np
import pytest
from PIL import Image

from vlv.inference.comparison import GAP, LABEL_HEIGHT, comparison, enlarged, wrapped


@pytest.mark.parametrize(("side", "shown"), [(64, 256), (100, 300), (255, 510), (256, 256), (384, 384)])
def test_small_pictures_are_enlarged_by_a_whole_factor(side, shown):
    picture = Image.effect_noise((side, side), 80).convert("RGB")
    large = enlarged(picture)
    assert large.size == (shown, shown)
    factor = shown // side
    assert large.crop((0, 0, factor, factor)).getcolors() == [(factor**2, picture.getpixel((0, 0)))]


def test_a_row_of_labelled_pictures_with_the_caption_below():
    red, blue = Image.new("RGB", (256, 256), "red"), Image.new("RGB", (256, 256), "blue")
    row = comparison({"original": red, "seed 1": blue, "seed 2": blue})
    assert row.size == (3 * 256 + 2 * GAP, LABEL_HEIGHT + 256)
    assert row.getpixel((10, LABEL_HEIGHT)) == (255, 0, 0)
    assert row.getpixel((256 + GAP, LABEL_HEIGHT)) == (0, 0, 255)
    assert row.getpixel((256 + GAP // 2, LABEL_HEIGHT + 9)) == (255, 255, 255)
    labels = [row.crop((place * (256 + GAP), 0, place * (256 + GAP) + 256, LABEL_HEIGHT)) for place in range(3)]
    assert len({label.tobytes() for label in labels}) == 3
    long = comparison({"original": red, "reconstruction": blue}, "many words " * 40)
    short = comparison({"original": red, "reconstruction": blue}, "one")
    assert long.height > short.height > 256 + LABEL_HEIGHT
    assert long.width == short.width == 2 * 256 + GAP
    # No letter is cut at the border.
    assert (np.asarray(long)[LABEL_HEIGHT + 256 :, -1] == 255).all()


def test_lines_hold_every_word_and_a_long_word_is_broken():
    text = "a small red square " + "x" * 300 + " 狗在草地上 end"
    lines = wrapped(text, 200)
    assert len(lines) > 4
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrapped("", 200) == wrapped("  ", 200) == []

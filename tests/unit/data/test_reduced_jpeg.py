"""JPEGs decoded at a reduced scale: faster, near the whole one's pixels, and with the whole one's size."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from vlv.data.formats import DecodeSettings
from vlv.data.preparation import SamplePreparation
from vlv.data.sample import RawSample
from vlv.data.transforms import decode_image
from vlv.models.image_processor import VLVImageProcessor

REDUCED = DecodeSettings(reduced_jpeg=True)


def encoded(image, kind="JPEG", **settings):
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}), **settings)
    return buffer.getvalue()


@pytest.fixture
def photo(astronaut):
    return astronaut.convert("RGB").resize((1600, 1200), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("side", "size"),
    [
        (300, (400, 300)),
        (301, (800, 600)),
        (384, (800, 600)),
        (600, (800, 600)),
        (601, (1600, 1200)),
        (100, (200, 150)),
    ],
)
def test_the_scale_is_the_smallest_that_loses_nothing(photo, side, size):
    raw = encoded(photo)
    assert decode_image(raw, REDUCED, side).size == size
    assert decode_image(raw, DecodeSettings(), side).size == (1600, 1200)
    assert decode_image(raw, REDUCED).size == (1600, 1200)
    assert decode_image(encoded(photo, "PNG"), REDUCED, side).size == (1600, 1200)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("from_original", [False, True])
def test_pixels_are_near_and_the_crop_is_the_same(photo, orientation, from_original):
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = encoded(photo, exif=exif)
    processor = VLVImageProcessor(192, 256, from_original)
    whole, reduced = (
        SamplePreparation(processor, decoding=settings)(0, "a.jpg", lambda: RawSample(raw, None))
        for settings in (DecodeSettings(), REDUCED)
    )
    assert torch.equal(whole["crop"], reduced["crop"])
    assert whole["crop"][:2].tolist() == ([1200, 1600] if orientation < 5 else [1600, 1200])
    for key in ("decoder_pixels", "encoder_pixels"):
        difference = (whole[key].float() - reduced[key].float()).abs()
        assert 0 < difference.mean() < 1.5
        assert whole[key].shape == reduced[key].shape


def test_a_truncated_one_is_read_whole_and_damage_is_named(photo):
    raw = encoded(photo)
    image = decode_image(raw[:-2], REDUCED, 384)
    assert np.asarray(image).shape[2] == 3
    with pytest.raises(ValueError, match="truncated image"):
        decode_image(raw[: len(raw) // 2], REDUCED, 384)

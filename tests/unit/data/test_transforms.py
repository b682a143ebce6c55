import io

import numpy as np
import pytest
from PIL import Image

from vlv.data.formats import DecodeSettings
from vlv.data.sample import BadSample
from vlv.data.transforms import DECODE_ERRORS, decode_image, is_truncated
from vlv.models.image_processor import VLVImageProcessor

from .pictures import encode, picture


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_lossless_formats(kind):
    image = picture() if kind != "GIF" else picture().convert("P")
    assert np.array_equal(decode_image(encode(image, kind)).convert("RGB"), image.convert("RGB"))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_photo_formats(kind, astronaut):
    decoded = decode_image(encode(astronaut, kind, quality=90))
    assert decoded.size == (512, 512)
    assert np.abs(np.asarray(decoded, float) - np.asarray(astronaut, float)).mean() < 5


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(buffer.getvalue()).convert("RGB").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "RGB"])
def test_every_mode_becomes_rgb_pixels(mode, coffee):
    image = Image.fromarray(np.full((20, 30), 40000, np.uint16)) if mode == "I;16" else coffee.convert(mode)
    raw = encode(image, "TIFF" if mode == "CMYK" else "PNG")
    assert decode_image(raw).mode == mode
    pixels = VLVImageProcessor(16, 32)(decode_image(raw))
    assert pixels["decoder_pixels"].shape == (3, 16, 16)
    assert pixels["encoder_pixels"].float().std() > 0 or mode == "I;16"


@pytest.mark.parametrize("shape", [(3, 6, 8), (6, 8, 3), (6, 8), (1, 6, 8), (6, 8, 4)])
def test_arrays(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    buffer = io.BytesIO()
    np.save(buffer, array)
    image = decode_image(array)
    assert image.size == (8, 6)
    assert decode_image(buffer.getvalue()).tobytes() == image.tobytes()
    if shape[0] == 3:
        assert np.array_equal(np.asarray(image), array.transpose(1, 2, 0))


def npy(array, allow_pickle=False):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


PNG = encode(picture(size=(200, 200)))
BAD = {
    "empty": (b"", "file is empty"),
    "text": (b"hello, world, this is no image", "not an image of a known format"),
    "html": (b"<html><body>404</body></html>", "not an image"),
    "zeros": (bytes(1000), "not an image"),
    "cut png": (PNG[: len(PNG) // 2], "truncated image|damaged image"),
    "cut jpeg": (encode(picture(size=(200, 200)), "JPEG")[:3000], "truncated image"),
    "cut webp": (encode(picture(size=(200, 200)), "WEBP")[:300], "image"),
    "header only": (PNG[:20], "image"),
    "large": (
        encode(Image.new("L", (2000, 600))),
        "too large: 2000 x 600 pixels need 7 MiB of memory, max_image_mib=6",
    ),
    "float npy": (npy(np.zeros((4, 4, 3))), "array of float64 with shape"),
    "channels": (npy(np.zeros((7, 5, 9), np.uint8)), "wanted 1, 3 or 4 channels"),
    "no pixels": (npy(np.zeros((0, 5, 3), np.uint8)), "without pixels"),
    "cut npy": (npy(np.zeros((9, 9, 3), np.uint8))[:100], r"damaged \.npy"),
    "pickled npy": (npy(np.array([{}]), allow_pickle=True), r"damaged \.npy"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_images_have_a_reason(kind):
    raw, reason = BAD[kind]
    with pytest.raises(BadSample, match=reason) as caught:
        decode_image(raw, DecodeSettings(max_image_mib=6))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_large_images_may_be_allowed(recwarn, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert decode_image(PNG, DecodeSettings(max_image_mib=1)).size == (200, 200)
    assert Image.MAX_IMAGE_PIXELS == 1000
    assert not recwarn.list


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000"])
def test_damage_anywhere_is_a_bad_sample_or_an_image(kind):
    """What Pillow raises on broken bytes is all among DECODE_ERRORS."""
    rng = np.random.default_rng(0)
    raw = encode(picture(size=(24, 24)).convert("P" if kind == "GIF" else "RGB"), kind)
    process = VLVImageProcessor(8, 8)
    for _ in range(150):
        broken = bytearray(raw)
        for at in rng.integers(0, min(len(broken), 400), 4):
            broken[at] = rng.integers(256)
        try:
            process(decode_image(bytes(broken), DecodeSettings(12)))
        except DECODE_ERRORS:
            continue


@pytest.mark.parametrize(("kept", "progressive"), [(-2, False), (-40, False), (0.99, False), (-2, True)])
def test_a_jpeg_that_lacks_only_its_end_is_read_and_marked(astronaut, kept, progressive):
    raw = encode(astronaut, "JPEG", quality=90, progressive=progressive)
    cut = raw[:kept] if kept < 0 else raw[: int(kept * len(raw))]
    whole, image = decode_image(raw), decode_image(cut)
    assert is_truncated(image)
    assert not is_truncated(whole)
    assert np.array_equal(np.asarray(image)[:-17], np.asarray(whole)[:-17])
    with pytest.raises(BadSample, match="truncated image"):
        decode_image(cut, DecodeSettings(read_truncated=False))


@pytest.mark.parametrize(("kept", "progressive"), [(0.9, False), (0.5, False), (0.9, True)])
def test_a_jpeg_that_lacks_more_is_refused(astronaut, kept, progressive):
    raw = encode(astronaut, "JPEG", quality=90, progressive=progressive)
    with pytest.raises(BadSample, match="truncated image"):
        decode_image(raw[: int(kept * len(raw))])


def test_a_profile_may_be_left_aside():
    raw = encode(picture(), icc_profile=b"any")
    assert decode_image(raw).info["icc_profile"] == b"any"
    assert "icc_profile" not in decode_image(raw, DecodeSettings(convert_profiles=False)).info

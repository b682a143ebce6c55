"""Pixels of every kind of file against what the file says, made with tifffile, Pillow and Little CMS themselves."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from vlv.colour import to_rgb


def stored(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Image.open(buffer)


def tiff(values, photometric="minisblack"):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, photometric=photometric)
    return Image.open(buffer)


@pytest.mark.parametrize(
    ("mode", "value", "rgb"),
    [
        ("L", 100, (100, 100, 100)),
        ("1", 1, (255, 255, 255)),
        ("RGBA", (200, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (200, 0, 0, 255), (200, 0, 0)),
        ("LA", (50, 0), (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 257 * 100, (100, 100, 100)),
        ("I;16", 257, (1, 1, 1)),
        ("I", 257 * 100, (100, 100, 100)),
        ("F", 0.5, (128, 128, 128)),
        ("YCbCr", (255, 128, 128), (255, 255, 255)),
    ],
)
def test_modes(mode, value, rgb):
    got = to_rgb(Image.new(mode, (8, 8), value)).getpixel((4, 4))
    assert all(abs(a - b) <= 1 for a, b in zip(got, rgb, strict=True))


def test_palette_with_transparency_is_over_white():
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30] + [0] * 765)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=0)
    assert to_rgb(Image.open(buffer)).getpixel((0, 0)) == (255, 255, 255)


def test_exif_orientation_is_applied():
    image = Image.new("RGB", (8, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to see it upright
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    assert to_rgb(Image.open(buffer)).size == (4, 8)


def test_the_colour_that_is_transparent_is_over_white():
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[0] = 200, 10, 10
    image = stored(Image.fromarray(pixels), transparency=(0, 0, 0))
    assert to_rgb(image).getpixel((0, 3)) == (255, 255, 255)
    assert to_rgb(image).getpixel((0, 0)) == (200, 10, 10)


def test_the_16_bit_grey_that_is_transparent_is_over_white():
    values = np.full((4, 4), 257 * 100, np.uint16)
    values[0] = 257 * 100 + 1  # the same in 8 bits, but not the transparent one
    image = stored(Image.fromarray(values), transparency=257 * 100)
    assert to_rgb(image).getpixel((0, 3)) == (255, 255, 255)
    assert to_rgb(image).getpixel((0, 0)) == (100, 100, 100)


def test_floats_have_one_scale():
    assert to_rgb(tiff(np.full((4, 4), 0.5, np.float32))).getpixel((0, 0)) == (128, 128, 128)
    assert to_rgb(tiff(np.full((4, 4), 0.01, np.float32))).getpixel((0, 0)) == (3, 3, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0, 4]], np.float32), "mode F with values from 0 to 4: wanted 0 to 1"),
        (np.array([[-0.5, 1]], np.float32), "values from -0.5 to 1"),
        (np.array([[0.5, np.nan]], np.float32), "mode F with NaN"),
        (np.array([[0, 70000]], np.int32), "mode I with values from 0 to 70000: wanted 0 to 65535"),
    ],
)
def test_a_range_is_not_guessed(values, message):
    with pytest.raises(ValueError, match=message):
        to_rgb(tiff(values))


@pytest.mark.parametrize(("kind", "black", "white"), [(np.uint8, 0, 255), (np.uint16, 0, 65535), (np.float32, 0, 1)])
def test_zero_may_be_white(kind, black, white):
    values = np.array([[black, white]], kind)
    assert [to_rgb(tiff(values, "miniswhite")).getpixel((x, 0))[0] for x in (0, 1)] == [255, 0]
    assert [to_rgb(tiff(values)).getpixel((x, 0))[0] for x in (0, 1)] == [0, 255]


def adobe_rgb():
    """A matrix profile with Adobe RGB's primaries and gamma, written by hand: tags of ICC.1:2010, adapted to D50."""
    fixed = lambda value: round(value * 65536).to_bytes(4, "big", signed=True)  # noqa: E731
    xyz = lambda *values: b"XYZ " + bytes(4) + b"".join(map(fixed, values))  # noqa: E731
    curve = b"curv" + bytes(4) + (1).to_bytes(4, "big") + (563).to_bytes(2, "big") + bytes(2)  # gamma 563 / 256
    text = b"Adobe RGB (1998)\0"
    description = b"desc" + bytes(4) + len(text).to_bytes(4, "big") + text + bytes(79)
    tags = {
        b"desc": description + bytes(-len(description) % 4), b"wtpt": xyz(0.9642, 1, 0.8249),
        b"rXYZ": xyz(0.60974, 0.31111, 0.01947), b"gXYZ": xyz(0.20528, 0.62567, 0.06087),
        b"bXYZ": xyz(0.14919, 0.06322, 0.74457), b"rTRC": curve, b"gTRC": curve, b"bTRC": curve,
    }  # fmt: skip
    table, data = len(tags).to_bytes(4, "big"), b""
    for name, content in tags.items():
        table += name + (128 + 4 + 12 * len(tags) + len(data)).to_bytes(4, "big") + len(content).to_bytes(4, "big")
        data += content
    size = 128 + len(table) + len(data)
    header = size.to_bytes(4, "big") + bytes(4) + b"\x02\x10\0\0" + b"mntrRGB XYZ " + bytes(12) + b"acsp"
    header += bytes(128 - len(header) - 48 - 12) + bytes(0)
    header = header.ljust(68, b"\0") + b"".join(map(fixed, (0.9642, 1, 0.8249)))
    return header.ljust(128, b"\0") + table + data


def srgb_of_adobe(value):
    """By the formulas of the two standards, with the matrix from Adobe RGB to XYZ to sRGB, both D65."""
    linear = (np.asarray(value) / 255) ** (563 / 256)
    adobe = np.array([[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]])
    srgb = np.array([[3.24045, -1.53714, -0.49853], [-0.96927, 1.87601, 0.04156], [0.05564, -0.20403, 1.05723]])
    linear = np.clip(srgb @ adobe @ linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("colour", [(120, 130, 90), (60, 100, 140), (200, 200, 200), (180, 120, 100)])
def test_adobe_rgb_becomes_srgb(colour):
    image = stored(Image.new("RGB", (4, 4), colour), icc_profile=adobe_rgb())
    assert np.abs(np.array(to_rgb(image).getpixel((0, 0))) - srgb_of_adobe(colour)).max() <= 2
    clear = stored(Image.new("RGBA", (4, 4), (*colour, 255)), icc_profile=adobe_rgb())
    assert to_rgb(clear).getpixel((0, 0)) == to_rgb(image).getpixel((0, 0))
    grey = stored(Image.new("L", (4, 4), 90), icc_profile=adobe_rgb())
    assert np.abs(np.array(to_rgb(grey).getpixel((0, 0))) - srgb_of_adobe((90, 90, 90))).max() <= 2


@pytest.mark.parametrize("profile", ["srgb", b"no profile"])
def test_profiles_that_change_nothing(profile):
    if profile == "srgb":
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = stored(Image.new("RGB", (4, 4), (3, 100, 250)), icc_profile=profile)
    assert to_rgb(image).getpixel((0, 0)) == (3, 100, 250)


def test_a_profile_of_other_colours_is_left_aside():
    image = stored(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF", icc_profile=adobe_rgb())
    assert to_rgb(image).getpixel((0, 0)) == (255, 0, 0)

"""Any stored image becomes upright 8-bit RGB: in sRGB, transparency over white, without a guess at its range."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from typing import cast

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # TIFF's tag, and its value
_BAND_PIXELS = 1 << 20  # of a larger image, as many at a time: conversions work on several copies of what they convert
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # Pillow's mode for the colours that an ICC profile is of


def to_rgb(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation and convert any mode to RGB; an image that is upright sRGB is returned as it is.

    An ICC profile is converted to sRGB, alpha and tRNS are composited over white, 16 bit becomes 8 bit, and floats run
    from 0 to 1, as in Photoshop and scikit-image.

    Raises:
        ValueError: floats or 32-bit integers out of their range: scaling each image by its own largest value would
            show equal values as different greys.
    """
    inverted = _is_white_zero(image)
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # else it would copy the whole image for nothing
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and not image.has_transparency_data and not image.info.get("icc_profile"):
        return image
    width, height = image.size
    rows = max(1, _BAND_PIXELS // width)
    if rows >= height:
        return _convert(image, inverted)
    # Pixel by pixel, so the bands come out as the whole would.
    converted = Image.new("RGB", image.size)
    for top in range(0, height, rows):
        band = (0, top, width, min(height, top + rows))
        converted.paste(_convert(image.crop(band), inverted), band)
    return converted


def _convert(image: Image.Image, inverted: bool) -> Image.Image:
    """An upright image as RGB, each pixel by itself; `inverted`: 0 is white."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = _to_8_bit(image, inverted)
    if image.has_transparency_data:
        # Before the colours change: tRNS names one of the stored colours.
        rgba = image.convert("RGBA")
        colours = _to_srgb(rgba.convert("RGB"), profile)
        colours.putalpha(rgba.getchannel("A"))
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, colours).convert("RGB")
    return _to_srgb(image, profile)


def _is_white_zero(image: Image.Image) -> bool:
    """Whether 0 is white: Pillow inverts such TIFFs of 8 bits and fewer itself, and no others."""
    tags = getattr(image, "tag_v2", {})
    return image.mode not in ("1", "L") and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _to_8_bit(image: Image.Image, inverted: bool) -> Image.Image:
    """Grey of 16 or 32 bits, or float, as L; as LA where one value stands for transparent."""
    values = np.asarray(image).astype(np.float64)
    full = 1.0 if image.mode == "F" else 65535.0
    if not ((values >= 0) & (values <= full)).all():  # false for NaN
        found = "NaN" if np.isnan(values).any() else f"values from {values.min():g} to {values.max():g}"
        raise ValueError(f"pixels of mode {image.mode} with {found}: wanted 0 to {full:g}")
    scaled = np.rint(values * (255 / full)).astype(np.uint8)
    grey = Image.fromarray(255 - scaled if inverted else scaled)
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """As RGB; a profile that is damaged, or of other colours than the image's, is left aside, as browsers do."""
    if not profile:
        return image.convert("RGB")
    mode, transform = _transform(profile)
    if transform is None or (mode == "CMYK") != (image.mode == "CMYK"):
        return image.convert("RGB")
    return cast("Image.Image", ImageCms.applyTransform(image.convert(mode), transform))


@lru_cache(maxsize=64)  # a data set has few, and building one takes as long as reading a small image
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The mode that a profile is of, and its conversion to sRGB; None where there is nothing to convert."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        # Pillow annotates it as the file that it was opened from.
        space = source.profile.xcolor_space  # pyright: ignore[reportAttributeAccessIssue]
        mode = _MODES.get(space.strip(), "")
        # By its name: through the tables of Little CMS, sRGB would come back with some values off by one.
        if not mode or "sRGB" in ImageCms.getProfileDescription(source):
            return mode, None
        return mode, ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (OSError, ImageCms.PyCMSError):
        return "", None

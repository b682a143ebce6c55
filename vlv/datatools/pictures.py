"""What an image's header says, and its pixels made smaller or encoded."""

from __future__ import annotations

import io

from PIL import Image

from vlv.colour import to_rgb
from vlv.data.sample import BadSample
from vlv.data.transforms import DECODE_ERRORS, damage

_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif", "JPEG2000": "jp2", "DIB": "bmp"}


def extension_of(image: Image.Image) -> str:
    """The extension of the file that an image was read from, without its dot."""
    kind = image.format or "PNG"
    return _EXTENSIONS.get(kind, kind.lower())


def rgb(image: Image.Image) -> Image.Image:
    """The image upright, in 8-bit sRGB, as training sees it.

    Raises:
        BadSample: its pixels cannot be converted.
    """
    try:
        return to_rgb(image)
    except DECODE_ERRORS as error:
        raise BadSample(damage(error)) from None


def made_smaller(image: Image.Image, short_side: int) -> Image.Image:
    """Resize an RGB image to a short side in pixels, Lanczos with antialiasing; never enlarges."""
    scale = short_side / min(image.size)
    if scale >= 1:
        return image
    width, height = (max(short_side, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def encoded(image: Image.Image, kind: str, quality: int | None = None) -> bytes:
    """The bytes of an image file of format jpeg, webp or png."""
    content = io.BytesIO()
    options = {} if quality is None or kind == "png" else {"quality": quality}
    image.save(content, kind.upper(), **options)
    return content.getvalue()

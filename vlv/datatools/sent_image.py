"""A sample's image as it is sent to an endpoint, or written beside its caption."""

from __future__ import annotations

import base64

import numpy as np
from PIL import Image

from vlv.colour import to_rgb
from vlv.data.formats import DecodeSettings
from vlv.data.sample import BadSample
from vlv.data.transforms import DECODE_ERRORS, damage, decode_image
from vlv.datatools.pictures import encoded


def data_url(raw: bytes | np.ndarray, decoding: DecodeSettings, max_side: int, quality: int) -> str:
    """The image upright in 8-bit sRGB, as training sees it, at most `max_side` pixels long, as the URL of a JPEG.

    Raises:
        BadSample: it cannot be read.
    """
    image = decode_image(raw, decoding)
    try:
        image = to_rgb(image)
        if max(image.size) > max_side:
            image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
        content = encoded(image, "jpeg", quality)
    except DECODE_ERRORS as error:
        raise BadSample(damage(error)) from None
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def image_file(raw: bytes | np.ndarray, decoding: DecodeSettings) -> bytes:
    """The image's own bytes; of raw pixels a PNG, as their bytes do not show their shape."""
    return raw if isinstance(raw, bytes) else encoded(decode_image(raw, decoding), "png")

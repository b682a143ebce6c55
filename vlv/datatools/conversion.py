"""One sample of a source becomes what a shard holds of it, or a reason why it is left out."""

from __future__ import annotations

import hashlib
import io
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from vlv.config import ShardsConfig
from vlv.data.caption_text import require_text
from vlv.data.formats import DecodeSettings
from vlv.data.sample import BadSample, Caption, RawSample, captions_of
from vlv.data.transforms import DECODE_ERRORS, FORMATS, damage, decode_image, is_truncated, upright_size
from vlv.datatools.pictures import encoded, extension_of, made_smaller, rgb

_FINGERPRINT = 16  # bytes: of 10^9 images, two have the same by chance once in 10^20
_EXTENSIONS = {"jpeg": "jpg"}


class Filtered(Exception):  # noqa: N818  (it names the filter; nothing fails)
    """A sound sample that a filter leaves out; the message is the setting's name."""


class Converted(NamedTuple):
    """What a shard holds of a sample."""

    image: bytes
    extension: str
    caption: Caption | None
    truncated: bool  # read, although the file lacks its end
    fingerprint: bytes  # 16 bytes, equal for images that `duplicates` takes for the same; empty where it is not asked


def convert(raw: RawSample, config: ShardsConfig) -> Converted:
    """Check, filter and encode a sample. An image that is not made smaller keeps its bytes.

    Raises:
        BadSample: training could not use it.
        Filtered: a filter leaves it out.
    """
    for caption in captions_of(raw.caption):
        require_text(caption)
        _filter_words(len(caption.split()), config)
    image = decode_image(raw.image, config.decode_settings()) if _is_decoded(raw.image, config) else _header(raw.image)
    width, height = upright_size(image)
    _filter_size(width, height, config)
    data, extension, shown = raw.image, extension_of(image), None
    if config.short_side is not None and min(width, height) > config.short_side:
        shown = rgb(image)
        data = encoded(made_smaller(shown, config.short_side), config.encoding, config.quality)
        extension = _EXTENSIONS.get(config.encoding, config.encoding)
    elif image.format is None:  # raw pixels, or .npy: no image file, so they become one without loss
        data, extension = encoded(image, "png"), "png"
    fingerprint = b""
    if config.duplicates == "exact":
        fingerprint = hashlib.sha256(_bytes(raw.image)).digest()[:_FINGERPRINT]
    elif config.duplicates == "near":
        fingerprint = _perceptual_hash(rgb(image) if shown is None else shown)
    return Converted(_bytes(data), extension, raw.caption, is_truncated(image), fingerprint)


def stored_image(image: bytes | np.ndarray) -> tuple[bytes, str]:
    """An image's file as it is, or one without loss of raw pixels; with the extension that its content has.

    Raises:
        BadSample: it is none.
    """
    if not isinstance(image, np.ndarray) and not image.startswith(b"\x93NUMPY"):
        return bytes(image), extension_of(_header(image))
    return encoded(decode_image(image, DecodeSettings()), "png"), "png"


def _is_decoded(image: bytes | np.ndarray, config: ShardsConfig) -> bool:
    return config.check_images or isinstance(image, np.ndarray) or image.startswith(b"\x93NUMPY")


def _header(data: bytes | np.ndarray) -> Image.Image:
    """The image with its header read, and no pixel."""
    try:
        return Image.open(io.BytesIO(_bytes(data)), formats=FORMATS)
    except UnidentifiedImageError:
        raise BadSample("not an image of a known format" if len(data) else "the file is empty") from None
    except DECODE_ERRORS as error:
        raise BadSample(damage(error)) from None


def _bytes(data: bytes | np.ndarray) -> bytes:
    if isinstance(data, np.ndarray):
        return f"{data.shape}".encode() + data.tobytes()  # the shape too: one row of pixels is no column
    return data


def _filter_words(count: int, config: ShardsConfig) -> None:
    if config.min_caption_words is not None and count < config.min_caption_words:
        raise Filtered("min_caption_words")
    if config.max_caption_words is not None and count > config.max_caption_words:
        raise Filtered("max_caption_words")


def _filter_size(width: int, height: int, config: ShardsConfig) -> None:
    if config.min_side is not None and min(width, height) < config.min_side:
        raise Filtered("min_side")
    if config.min_aspect is not None and width / height < config.min_aspect:
        raise Filtered("min_aspect")
    if config.max_aspect is not None and width / height > config.max_aspect:
        raise Filtered("max_aspect")


def _perceptual_hash(image: Image.Image) -> bytes:
    import imagehash

    return np.packbits(imagehash.phash(image).hash).tobytes().ljust(_FINGERPRINT, b"\0")

"""Stored bytes become a PIL image, or a reason why they cannot."""

from __future__ import annotations

import io
import logging
import struct
import threading
import warnings
import zlib

import numpy as np
from PIL import ExifTags, Image, ImageChops, UnidentifiedImageError

from vlv.data.formats import DecodeSettings
from vlv.data.sample import BadSample

# Named, so that Pillow does not try its rarer plug-ins on data from the web: their decoders are the least tested.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "DIB", "GIF", "TIFF", "JPEG2000")
# What Pillow raises on broken files, as fuzzing shows it. A MemoryError is ours to see, so not in here.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    ArithmeticError,
    LookupError,
    NotImplementedError,
    Image.DecompressionBombError,
)
_NPY_MAGIC = b"\x93NUMPY"
_JPEG_MAGIC, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_FILLING = bytes(range(1, 251)) * 4  # any codes serve that are no marker, which begins with 255
_MISSING_ROWS = 17  # of pixels that a truncated JPEG may lack: a row of 16 x 16 blocks, whose colour reaches one row up
_DECODER_BYTES = {"WEBP": 17, "JPEG2000": 20}  # a pixel, where a decoder takes more than its image does later; measured
_TRUNCATED, _FULL_SIZE = "vlv_truncated", "vlv_full_size"  # in Pillow's info of an image
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_EXIF_KEYS = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")  # of a PNG's info
_DEFAULTS = DecodeSettings()
_limit_lock = threading.Lock()


def decode_image(
    raw: bytes | np.ndarray, settings: DecodeSettings = _DEFAULTS, least_side: int | None = None
) -> Image.Image:
    """Decode an image file, .npy bytes or a uint8 array (CHW, HWC or HW); the mode stays what it is.

    The size is checked in the header, before anything is decoded. Of an animation the first frame counts.

    Args:
        least_side: short side in pixels that a JPEG decoded at a reduced scale keeps; None decodes it whole.

    Raises:
        BadSample: empty, truncated, damaged, not an image, or of too many pixels.
    """
    if isinstance(raw, np.ndarray):
        return _from_array(raw, settings.max_image_mib)
    if not raw:
        raise BadSample("the file is empty")
    if raw.startswith(_NPY_MAGIC):
        return _from_array(_load_npy(raw), settings.max_image_mib)
    least_side = least_side if settings.reduced_jpeg else None
    try:
        image = _decode(raw, settings.max_image_mib, least_side)
    except BadSample:
        raise
    except UnidentifiedImageError:
        raise BadSample(f"not an image of a known format ({', '.join(FORMATS)})") from None
    except (*DECODE_ERRORS, RuntimeError) as error:  # the AVIF plug-in's, of damage; elsewhere it may be anything
        whole = _complete(raw, settings.max_image_mib) if settings.read_truncated else None
        if whole is None:
            raise BadSample(damage(error)) from None
        image = whole
    if not settings.convert_profiles:
        image.info.pop("icc_profile", None)
    return image


def silence_pillow() -> None:
    """Silence Pillow's remarks on odd metadata, in this process: what cannot be decoded is reported as a bad sample."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


def is_truncated(image: Image.Image) -> bool:
    """Whether a decoded image's file lacks its end."""
    return _TRUNCATED in image.info


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none.

    Raises:
        BadSample: the EXIF data is damaged.
    """
    if image.format == "PNG" and not any(key in image.info for key in _EXIF_KEYS):
        return 1  # Pillow would decode all of it, to look behind the pixels
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except DECODE_ERRORS as error:
        raise BadSample(damage(error)) from None


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height in pixels, as the image is shown and before any reduction; raises BadSample as `orientation`."""
    width, height = image.info.get(_FULL_SIZE, image.size)
    return (height, width) if orientation(image) in _TURNED else (width, height)


def damage(error: BaseException) -> str:
    """Put what Pillow raised on a broken image into one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    kind = "truncated image" if "truncated" in text.lower() else "damaged image"
    return f"{kind}: {text[:200]}"


def _decode(raw: bytes, max_image_mib: int, least_side: int | None = None) -> Image.Image:
    image = _open(raw)
    if least_side is not None and image.format == "JPEG":
        size, short = image.size, min(image.size)
        # Pillow takes the largest reduction that is no smaller than this in either direction.
        image.draft(None, (-(-size[0] * least_side // short), -(-size[1] * least_side // short)))
        image.info[_FULL_SIZE] = size
    # Before load(), which allocates all of it.
    _check_size(*image.size, _stored_bytes(image.mode), max_image_mib, _DECODER_BYTES.get(image.format or "", 0))
    image.load()  # decodes the whole, so that damage shows here and not in a resize
    return image


def _complete(raw: bytes, max_image_mib: int) -> Image.Image | None:
    """Decode a JPEG that lacks its end, if only the lowest blocks of pixels are missing; None for any other.

    libjpeg fills what is missing. How much that is shows where two continuations differ: an end mark at once, and
    after some bytes more. Of a progressive JPEG each pass over the picture refines all of it, so that only one whose
    last pass is nearly whole is read.
    """
    if not raw.startswith(_JPEG_MAGIC):
        return None
    try:
        image, other = (_decode(raw + filling + _JPEG_END, max_image_mib) for filling in (b"", _FILLING))
    except (BadSample, *DECODE_ERRORS):
        return None
    differing = ImageChops.difference(image, other).getbbox()
    if differing is not None and differing[1] < image.height - _MISSING_ROWS:  # its top
        return None
    image.info[_TRUNCATED] = True
    return image


def _open(raw: bytes) -> Image.Image:
    """Open without Pillow's own limit, which would warn below ours and could not be raised above it."""
    with _limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(raw), formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _stored_bytes(mode: str) -> int:
    """Bytes that Pillow keeps a pixel in."""
    return 2 if mode.startswith("I;16") else 1 if mode in ("1", "L", "P") else 4


def _check_size(width: int, height: int, stored_bytes: int, max_image_mib: int, decoder_bytes: int = 0) -> None:
    """Check the memory of an image as it is decoded, turned upright, and as RGB: a small file may be of any size."""
    if width < 1 or height < 1:
        raise BadSample(f"an image without pixels ({width} x {height})")
    mib = width * height * max(2 * stored_bytes + 4, decoder_bytes) / 2**20
    if mib > max_image_mib:
        raise BadSample(
            f"too large: {width} x {height} pixels need {mib:,.0f} MiB of memory, max_image_mib={max_image_mib} allows "
            "less"
        )


def _load_npy(raw: bytes) -> np.ndarray:
    try:
        array = np.load(io.BytesIO(raw), allow_pickle=False)
    except (*DECODE_ERRORS, TypeError) as error:
        raise BadSample(f"damaged .npy array: {' '.join(str(error).split())[:200]}") from None
    return array


def _from_array(array: np.ndarray, max_image_mib: int) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise BadSample(f"an array of {array.dtype} with shape {list(array.shape)}: wanted uint8 CHW, HWC or HW")
    if array.ndim == 3 and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)  # CHW; a picture of 1, 3 or 4 pixels' height is not expected
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim == 3 and array.shape[2] not in (3, 4):
        raise BadSample(f"an array with shape {list(array.shape)}: wanted 1, 3 or 4 channels")
    _check_size(array.shape[1], array.shape[0], 1 if array.ndim == 2 else 4, max_image_mib)
    return Image.fromarray(np.ascontiguousarray(array))

"""What a cell of a table holds, as parquet and Arrow have it: an image and a caption."""

from __future__ import annotations

import math
import re

import numpy as np
import pyarrow as pa

from vlv.data.sample import BadSample

# JPEG, PNG, .npy, GIF, WebP, TIFF, AVIF and its kin, JPEG 2000. BMP's two letters alone could be pixels.
_FILE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|\x93NUMPY|GIF8[79]a|RIFF....WEBP|II\*\0|MM\0\*|....ftyp|\0\0\0\x0cjP  ", re.DOTALL
)


def image_of(cell: pa.Scalar, raw_shape: tuple[int, int, int] | None) -> bytes | np.ndarray:
    """Turn an image cell into file bytes, or into uint8 CHW or HWC where the settings say that it is raw.

    Raises:
        BadSample: nothing is there, or raw pixels that no setting describes.
    """
    if pa.types.is_struct(cell.type):
        if not cell.is_valid or not cell["bytes"].is_valid:
            raise BadSample("the image bytes are missing (the row has a path at most)")
        cell = cell["bytes"]
    if not cell.is_valid:
        raise BadSample("the image is missing")
    data = cell.as_py()
    if _is_file(data):
        return data
    if raw_shape is not None and len(data) == math.prod(raw_shape):
        return np.frombuffer(data, dtype=np.uint8).reshape(raw_shape)
    side = math.isqrt(len(data) // 3)
    if data and len(data) == 3 * side * side:
        raise BadSample(
            f"no image file; raw pixels of {side} x {side} need raw_image_size=[{side},{side}], or "
            f"[{side},{side},3] where the channels come last"
        )
    return data


def caption_of(cell: pa.Scalar) -> str:
    """The text of a caption cell.

    Raises:
        BadSample: it is missing, or not UTF-8.
    """
    try:
        caption = cell.as_py()
    except UnicodeDecodeError:  # writers are not held to it, and a reader sees it at the single value
        raise BadSample("the caption is not UTF-8") from None
    if caption is None:
        raise BadSample("the caption is missing")
    return caption


def check_columns(path: str, schema: pa.Schema, image_column: str, caption_column: str | None) -> None:
    """Check that a table has the columns, of types that can be read.

    Raises:
        ValueError: it has not.
    """
    wanted = [image_column] if caption_column is None else [image_column, caption_column]
    missing = [column for column in wanted if column not in schema.names]
    if missing:
        raise ValueError(
            f"{path} has no column {' and no '.join(map(repr, missing))}; its columns are "
            f"{', '.join(schema.names)}: set image_column and caption_column to two of them"
        )
    kind = schema.field(image_column).type
    if pa.types.is_struct(kind):
        names = [kind.field(n).name for n in range(kind.num_fields)]
        kind = kind.field("bytes").type if "bytes" in names else kind
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)):
        raise ValueError(
            f"{path}: column {image_column!r} is {kind}, wanted binary or a struct with binary field 'bytes'"
        )
    if caption_column is not None:
        kind = schema.field(caption_column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise ValueError(f"{path}: column {caption_column!r} is {kind}, wanted string")


def _is_file(data: bytes) -> bool:
    """Whether the first bytes are those of an image file, or of .npy."""
    is_bmp = data.startswith(b"BM") and int.from_bytes(data[2:6], "little") == len(data)
    return is_bmp or _FILE.match(data) is not None

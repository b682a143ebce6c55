"""What a cell of a table holds, as parquet and Arrow have it: an image or its path, and captions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from vlv.data.sample import BadSample, Caption, one_or_several

# JPEG, PNG, .npy, GIF, WebP, TIFF, AVIF and its kin, JPEG 2000. BMP's two letters alone could be pixels.
_FILE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|\x93NUMPY|GIF8[79]a|RIFF....WEBP|II\*\0|MM\0\*|....ftyp|\0\0\0\x0cjP  ", re.DOTALL
)
_IMAGES = (
    "binary or list<uint8> (an image file's bytes), string (its path), or a struct with 'bytes' or 'path' of these"
)
_CAPTIONS = "string, binary (UTF-8), or a list of them"


def image_of(
    cell: pa.Scalar, raw_shape: tuple[int, int, int] | None, read_linked: Callable[[str], bytes] | None = None
) -> bytes | np.ndarray:
    """Turn an image cell into file bytes, or into uint8 CHW or HWC where the settings say that it is raw.

    Args:
        read_linked: reads the file that a cell names (`linked_files`); None in a stream, which has no files beside it.

    Raises:
        BadSample: nothing is there, a file cannot be read, or raw pixels that no setting describes.
    """
    data = _bytes_of(cell, read_linked)
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


def _bytes_of(cell: pa.Scalar, read_linked: Callable[[str], bytes] | None) -> bytes:
    cell = _plain(cell)
    if isinstance(cell, pa.StructScalar):
        parts = [_plain(cell[name]) for name in ("bytes", "path") if cell.is_valid and name in cell]
        cell = next((part for part in parts if part.is_valid), pa.scalar(None))
        if not cell.is_valid:
            raise BadSample("the image bytes are missing, and the row has no path either")
    if not cell.is_valid:
        raise BadSample("the image is missing")
    if is_list(cell.type):
        numbers = cell.values  # pyright: ignore[reportAttributeAccessIssue]
        if numbers.null_count:
            raise BadSample("the image's list of bytes has gaps")
        return numbers.to_numpy(zero_copy_only=False).tobytes()
    if not _is_text(cell.type):
        return cell.as_py()
    if read_linked is None:
        raise BadSample(
            "the row has a path and no image, and a stream no files: hub: in place of hub-stream: reads them"
        )
    return read_linked(_text_of(cell.as_py, "image's path"))


def caption_of(cell: pa.Scalar) -> Caption:
    """The captions of a cell.

    Raises:
        BadSample: there is none, or one is not UTF-8.
    """
    value = _text_of(_plain(cell).as_py, "caption")
    texts = [text for text in (value if isinstance(value, list) else [value]) if text is not None]
    if not texts:
        raise BadSample("the caption is missing")
    return one_or_several([_text_of(text.decode, "caption") if isinstance(text, bytes) else text for text in texts])


def _text_of(decode: Callable[[], Any], what: str) -> Any:
    try:
        return decode()
    except UnicodeDecodeError:  # writers of strings are not held to it, and a reader sees it at the single value
        raise BadSample(f"the {what} is not UTF-8") from None


def check_columns(path: str, schema: pa.Schema, image_column: str, caption_column: str | None) -> None:
    """Check that a table has the columns, of types that can be read.

    Raises:
        ValueError: it has not.
    """
    settings = {"image_column": image_column} | ({} if caption_column is None else {"caption_column": caption_column})
    missing = {setting: column for setting, column in settings.items() if column not in schema.names}
    if missing:
        raise ValueError(
            f"{path} has no column {' and no '.join(map(repr, missing.values()))}; its columns are "
            f"{', '.join(schema.names)}: {_advice(schema, missing)}"
        )
    kind = schema.field(image_column).type
    if not _holds_images(kind):
        raise ValueError(f"{path}: column {image_column!r} is {kind}, wanted {_IMAGES}")
    if caption_column is not None and not _holds_captions(kind := schema.field(caption_column).type):
        raise ValueError(f"{path}: column {caption_column!r} is {kind}, wanted {_CAPTIONS}")


def _advice(schema: pa.Schema, missing: dict[str, str]) -> str:
    """Which settings to give, with the column that must be meant where there is one such."""
    # A text may be a path too, but then nothing shows which of the columns is one.
    images = [f.name for f in schema if _holds_images(f.type) and not _is_text(_value_type(f.type))]
    captions = [f.name for f in schema if f.name in ("caption", "captions", "text") and _holds_captions(f.type)]
    found = {"image_column": images, "caption_column": captions}
    return "set " + " and ".join(
        f"{setting}={found[setting][0]}" if len(found[setting]) == 1 else f"{setting} to one of them"
        for setting in missing
    )


def _plain(cell: pa.Scalar) -> pa.Scalar:
    return cell.value if isinstance(cell, pa.DictionaryScalar) else cell


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_binary(kind: pa.DataType) -> bool:
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(test(kind) for test in tests)


def is_list(kind: pa.DataType) -> bool:
    """Whether values are lists, of any of Arrow's kinds."""
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in (*tests, pa.types.is_list_view, pa.types.is_large_list_view))


def _holds_images(kind: pa.DataType) -> bool:
    kind = _value_type(kind)
    if pa.types.is_struct(kind):
        fields = {kind.field(number).name: kind.field(number).type for number in range(kind.num_fields)}
        parts = [_value_type(fields[name]) for name in ("bytes", "path") if name in fields]
        return bool(parts) and all(_holds_file(part) for part in parts)
    return _holds_file(kind)


def _holds_file(kind: pa.DataType) -> bool:
    return _is_text(kind) or _is_binary(kind) or (is_list(kind) and pa.types.is_uint8(kind.value_type))


def _holds_captions(kind: pa.DataType) -> bool:
    kind = _value_type(kind)
    kind = _value_type(kind.value_type) if is_list(kind) else kind
    return _is_text(kind) or _is_binary(kind)


def _is_file(data: bytes) -> bool:
    """Whether the first bytes are those of an image file, or of .npy."""
    is_bmp = data.startswith(b"BM") and int.from_bytes(data[2:6], "little") == len(data)
    return is_bmp or _FILE.match(data) is not None

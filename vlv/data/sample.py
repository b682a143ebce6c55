"""What a source of samples is."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np


class BadSample(ValueError):  # noqa: N818  (it names the sample, which is skipped; nothing fails)
    """A sample that cannot be used; the message is the reason, as a user reads it in bad_samples.jsonl."""


class LatentImage(bytes):
    """An image file of a cache of latents: the decoder's crop. Whoever does not know of latents takes it as any file.

    moments: of its VAE posterior, float [2, C, h, w].
    crop: where it lay in the image, [4], as `VLVImageProcessor` says it.
    """

    moments: np.ndarray
    crop: Sequence[int]

    def __new__(cls, file: bytes, moments: np.ndarray, crop: Sequence[int]) -> LatentImage:
        """Join the file's bytes with what was computed of it."""
        image = super().__new__(cls, file)
        image.moments, image.crop = moments, crop
        return image


Caption: TypeAlias = str | tuple[str, ...]  # several are read in turn, one in each epoch (`caption_at`)


class RawSample(NamedTuple):
    """A sample as it is stored."""

    image: bytes | np.ndarray  # an encoded image file, .npy bytes, or uint8 CHW, HWC or HW
    caption: Caption | None


def texts_of(value: object) -> list[str]:
    """The captions in a decoded JSON value: a text, or the texts of a list; none in anything else."""
    return [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]


def one_or_several(texts: Sequence[str]) -> Caption:
    """Captions of one image, at least one, as `RawSample` has them."""
    return texts[0] if len(texts) == 1 else tuple(texts)


def captions_of(caption: Caption | None) -> Sequence[str]:
    """All captions of an image."""
    return () if caption is None else (caption,) if isinstance(caption, str) else caption


def caption_at(caption: Caption, name: str, epoch: int | None) -> str:
    """The caption that is read in an epoch: after as many epochs as there are captions, each was read once.

    Args:
        name: of the sample, by which it is decided where it begins: an epoch has first and last captions alike.
        epoch: None takes the first caption.
    """
    if isinstance(caption, str):
        return caption
    if epoch is None:
        return caption[0]
    return caption[(epoch + zlib.crc32(name.encode("utf-8", "backslashreplace"))) % len(caption)]


class StreamSample(NamedTuple):
    """A sample of a stream.

    read: gives it; raises BadSample as `SampleSource.read` does.
    """

    name: str
    read: Callable[[], RawSample]


class SampleSource(Protocol):
    """Samples that are read by index, in shards that are cheap to read through one after another."""

    shard_sizes: np.ndarray  # int64 [shards]
    pool_shards: int  # that a pool of the order spans by default; 1 where a shard is read as a whole

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def name(self, index: int) -> str:
        """Return the sample's name, relative to the dataset and unique in it."""
        ...

    def read(self, index: int) -> RawSample:
        """Read one sample.

        Raises:
            BadSample: it cannot be read, or has no caption where captions are wanted.
        """
        ...

"""The batch that the loader makes and the objectives read: the one thing that data and models agree on."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from torch import Tensor


class Batch(TypedDict):
    """A micro-batch of B samples. One that could not be used, and padding, keep their row with weight 0.

    encoder_pixels, decoder_pixels: uint8 [B, 3, E, E] and [B, 3, R, R]. The first may be the second, which the model
        then resizes; the second is float [B, 2, C, h, w], moments of the VAE, where a cache of latents is read.
    crops: int64 [B, 4], height and width of each original image, and the crop's top and left in the resized one.
    weights: float32 [B], 1 for a sample that counts, 0 otherwise.
    positions: [B], each sample's number in the data order, of which its noise is a function.
    names: [B], "" for padding.
    errors: [B], why a sample could not be used, or None.
    truncated: [B], whether a sample is used although its file lacks its end.
    sources: int64 [B], which source of a mixture each sample is of; 0 where there is one.
    """

    encoder_pixels: Tensor
    decoder_pixels: Tensor
    crops: Tensor
    weights: Tensor
    positions: list[int]
    names: list[str]
    errors: list[str | None]
    truncated: list[bool]
    sources: Tensor


class CaptionTensors(TypedDict):
    """B captions, right-padded to the longest: int64 [B, L], L >= 1. Labels are -100 on padding."""

    input_ids: Tensor
    labels: Tensor


class PairBatch(Batch, CaptionTensors):
    """A micro-batch of images with their captions."""

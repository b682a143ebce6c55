"""How a vision encoder is built: plain values, which need no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EncoderPart = Literal["language_model", "decoder_only", "all", "bart", "none"]


@dataclass(frozen=True)
class EncoderSettings:
    """How an encoder is built from its folder.

    Args:
        num_queries: learned queries Q, the rows of each embedding.
        resolution: E, side of the images in pixels.
        trained: what trains (see `VisionEncoder.set_trained`).
        view_from_original: the encoder's view is taken from the original image, not from the decoder's crop.
        prompt_ids: token ids of the prompt that the encoder reads beside the image; None is its own.
    """

    num_queries: int = 77
    resolution: int = 768
    trained: EncoderPart = "language_model"
    view_from_original: bool = False
    prompt_ids: tuple[int, ...] | None = None

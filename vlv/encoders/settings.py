"""How a vision encoder is built: plain values, which need no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlv.checkpoints.identity import JsonObject

EncoderPart = Literal["language_model", "decoder_only", "all", "regions", "bart", "none"]


@dataclass(frozen=True)
class EncoderSettings:
    """How an encoder is built from its folder.

    Args:
        num_queries: learned queries Q, the rows of each embedding.
        resolution: E, side of the images in pixels.
        trained: what trains (see `VisionEncoder.set_trained`); an encoder made for `regions` has no BART.
        view_from_original: the encoder's view is taken from the original image, not from the decoder's crop.
        prompt_ids: token ids of the prompt that the encoder reads beside the image; None is its own.
        region_grid: g, the first g x g + 1 queries start from averages of the image's regions; None as published.
        region_blocks: residual blocks that these pass.
    """

    num_queries: int = 77
    resolution: int = 768
    trained: EncoderPart = "language_model"
    view_from_original: bool = False
    prompt_ids: tuple[int, ...] | None = None
    region_grid: int | None = None
    region_blocks: int = 3

    @classmethod
    def of_checkpoint(cls, described: JsonObject, resolution: int, view_from_original: bool = False) -> EncoderSettings:
        """How the encoder of a stage-1 checkpoint was built, by its config.json and its image processor."""
        regions = {key: described[key] for key in ("region_grid", "region_blocks") if key in described}
        return cls(
            num_queries=described["num_queries"],
            resolution=resolution,
            trained=described["trained"],
            view_from_original=view_from_original,
            prompt_ids=tuple(described["prompt_ids"]),
            **regions,
        )

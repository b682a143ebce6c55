"""What a vision encoder is to the rest of the code. A new encoder is one file that fills this in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from vlv.checkpoints.identity import JsonObject
from vlv.encoders.regions import RegionReader
from vlv.encoders.settings import EncoderPart
from vlv.frozen import FrozenStaysEval
from vlv.kept_results import KeptResults


class VisionEncoder(FrozenStaysEval, ABC):
    """From image pixels to embeddings in each space that a decoder wants.

    Shapes: B images, E encoder pixels, Q queries.
    """

    base_parts: ClassVar[tuple[str, ...]]
    """Beginnings of the names of weights that stay those of the pretrained base unless everything trains."""

    kept_results: KeptResults | None = None
    """Image tokens, where they are kept; the part that sees pixels is frozen then."""

    regions: RegionReader | None
    """What reads regions of the image for the first queries; None as published."""

    @property
    @abstractmethod
    def num_queries(self) -> int:
        """Learned queries Q."""

    @property
    @abstractmethod
    def heads(self) -> nn.Module:
        """The new layers between the pretrained encoder's states and each embedding space."""

    @abstractmethod
    def forward(self, encoder_pixels: Tensor) -> dict[str, Tensor]:
        """Embeddings [B, Q, width] for each embedding space by name, of uint8 pixels [B, 3, E, E]."""

    @abstractmethod
    def image_features(self, encoder_pixels: Tensor) -> Tensor:
        """Image tokens [B, N, D], the image's own before those of its places, of uint8 pixels [B, 3, E, E]."""

    @abstractmethod
    def vision_features(self, encoder_pixels: Tensor) -> Tensor:
        """Features for distances between sets of images, [B, C] fp32, of uint8 pixels [B, 3, E, E]; no gradient."""

    @abstractmethod
    def set_trained(self, part: EncoderPart) -> None:
        """Choose what trains; the rest is frozen.

        `language_model`: all but what sees pixels; `decoder_only`: the part that reads the queries, with regions;
        `regions`: them and the heads; `all`; `bart`: as `language_model`, but for queries and heads (stage 2); `none`.
        """

    @abstractmethod
    def set_dropout(self, dropout: float) -> None:
        """Set every dropout and drop-path to one share."""

    @abstractmethod
    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in backward, also in frozen layers that gradients pass through."""

    @abstractmethod
    def describe(self) -> JsonObject:
        """What a stage-1 checkpoint's config.json records of the encoder beside its base.

        `num_queries`, `prompt_ids` and `spaces`, and what `restore` takes.
        """

    @abstractmethod
    def restore(self, description: JsonObject) -> None:
        """Take up what `describe` recorded and building from `EncoderSettings` does not give."""

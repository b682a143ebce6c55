"""What a vision encoder is to the rest of the code. A new encoder is one file that fills this in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
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

    nested_dropout: float = 0.0
    """Share of training's forward passes in which the last embeddings are left out, a random number of them."""

    first_queries: int | None = None
    """Embeddings that are used where it does not train; None is all."""

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

    def leave_out(self, embeddings: dict[str, Tensor]) -> dict[str, Tensor]:
        """The first embeddings of each space, [B, k, width] of [B, Q, width]: `nested_dropout`, `first_queries`.

        Nested dropout (arXiv 1402.0915) makes the first ones say what matters most. k is the same for the whole batch:
        not every decoder can be told that rows of one image are missing. It comes from torch's generator, as dropout's
        masks do, which is seeded at each step.
        """
        kept = None if self.training else self.first_queries
        if self.training and self.nested_dropout:
            share, part = torch.rand(2).tolist()
            kept = 1 + int(part * self.num_queries) if share < self.nested_dropout else None
        return embeddings if kept is None else {name: rows[:, :kept] for name, rows in embeddings.items()}

    def use_first(self, queries: int | None) -> None:
        """Use the embeddings of so many queries alone, where it does not train; None is all.

        Raises:
            ValueError: it has no such number.
        """
        if queries is not None and not 1 <= queries <= self.num_queries:
            raise ValueError(f"first_queries={queries} cannot be used: this model has {self.num_queries} queries")
        self.first_queries = queries

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

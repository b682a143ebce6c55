"""Conditioning without a text encoder: embeddings go straight into the denoiser's attention."""

from __future__ import annotations

from torch import Tensor

from vlv.checkpoints.identity import JsonObject
from vlv.decoders.interface import Conditioner, Conditioning
from vlv.decoders.layout import DecoderLayout
from vlv.decoders.settings import EmbeddingSpace


class DirectConditioner(Conditioner):
    """Embeddings [B, Q, D] are the states; a pooled vector is the last row of a space of its own."""

    def __init__(self, family: str, width: int, max_length: int, pooled_width: int | None = None) -> None:
        """Hold the sizes.

        Args:
            pooled_width: of the pooled vector, where the family's denoiser wants one.
        """
        super().__init__()
        self._family = family
        self._states = EmbeddingSpace("cross_attention", width, max_length)
        self._pooled = None if pooled_width is None else EmbeddingSpace("pooled", pooled_width, max_length)

    @property
    def spaces(self) -> tuple[EmbeddingSpace, ...]:
        return (self._states,) if self._pooled is None else (self._states, self._pooled)

    @property
    def width(self) -> int:
        return self._states.width

    def forward(self, embeddings: dict[str, Tensor], pooled_at: Tensor | None = None) -> Conditioning:
        # The last row: read causally, it is the one that has seen all the others.
        pooled = embeddings["pooled"][:, -1] if self._pooled is not None else None
        return Conditioning(embeddings["cross_attention"], pooled)

    def to_dict(self) -> JsonObject:
        sizes = {"width": self._states.width, "max_length": self._states.max_length}
        pooled = {} if self._pooled is None else {"pooled_width": self._pooled.width}
        return {"family": self._family, "conditioning": "direct", **sizes, **pooled}


def build_direct(description: JsonObject) -> DirectConditioner:
    """The conditioner that `to_dict` described."""
    sizes = {key: value for key, value in description.items() if key != "conditioning"}
    return DirectConditioner(**sizes)


def load_direct(layout: DecoderLayout) -> DirectConditioner:
    """The conditioner of a folder; it has no weights, so nothing but JSON is read."""
    states = layout.spaces("direct")[0]
    return DirectConditioner(layout.family.module, states.width, states.max_length, pooled_width=layout.pooled_width)

"""What a Florence-2 and the decoder's embedding spaces have room for."""

from __future__ import annotations

import math
from typing import Any

from transformers import Florence2Config

from vlv.models.decoders.interface import EmbeddingSpace


def check_limits(
    florence2: Florence2Config,
    spaces: tuple[EmbeddingSpace, ...],
    *,
    num_queries: int,
    encoder_resolution: int,
    num_prompt_ids: int,
) -> None:
    """Check that queries and image tokens fit into the learned positions.

    Raises:
        ValueError: more queries than an embedding space or Florence-2's decoder has positions for, or more
            image tokens than Florence-2 has positions for.
    """
    text: Any = florence2.text_config
    vision: Any = florence2.vision_config
    limit = min([text.max_position_embeddings, *(space.max_length for space in spaces)])
    if not 1 <= num_queries <= limit:
        raise ValueError(f"num_queries={num_queries} cannot be used: give 1 to {limit}, the text encoder's limit")
    stride = math.prod(vision.patch_stride)
    # One token a cell and one for their mean; then the prompt.
    side = min(vision.max_position_embeddings, math.isqrt(text.max_position_embeddings - num_prompt_ids - 1))
    if not 1 <= encoder_resolution <= side * stride:
        raise ValueError(
            f"encoder_resolution={encoder_resolution} gives {math.ceil(encoder_resolution / stride)} squared image "
            f"tokens, and this Florence-2 has positions for {side} squared: give 1 to {side * stride}"
        )

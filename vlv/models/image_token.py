"""The placeholder that stands for a row of an image where text and images are one sequence of token ids."""

from __future__ import annotations

from typing import cast

from transformers import PreTrainedTokenizerBase

IMAGE_TOKEN = "<|image_pad|>"  # Qwen's own, which other vocabularies lack


def image_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The placeholder's id in a vocabulary: its own one, or the first after its last token.

    The second may be beyond the language model's embedding: it is never looked up there.
    """
    known = cast("dict[str, int]", tokenizer.added_tokens_encoder)
    return known.get(IMAGE_TOKEN, len(tokenizer))

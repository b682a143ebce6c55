"""Captions as text, of the ids that a language model gave."""

from __future__ import annotations

import re

from transformers import PreTrainedTokenizerBase

_SENTENCE_END = re.compile(r"[.!?\u3002\uff01\uff1f][\"'\u201d\u2019)\]]*(?=\s|$)")


def caption_texts(
    tokenizer: PreTrainedTokenizerBase, ids: list[list[int]], eos_token_id: int, end_at_sentence: bool = False
) -> list[str]:
    """The captions of token ids, which may go on after their end with padding.

    Args:
        end_at_sentence: cut a caption that did not come to its end back to its last whole sentence.
    """
    found = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    if not end_at_sentence:
        return found
    return [text if eos_token_id in own else whole_sentences(text) for text, own in zip(found, ids, strict=True)]


def whole_sentences(text: str) -> str:
    """A text without what follows its last finished sentence; a text without one stays."""
    ends = [found.end() for found in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else text

"""Captions become token ids, and token ids a padded batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from vlv.batch import CaptionTensors
from vlv.data.caption_text import require_text
from vlv.data.sample import BadSample
from vlv.losses import IGNORED


class Tokenizer(Protocol):
    """A tokenizer of transformers, as far as captions need one."""

    def __call__(
        self, text: str, *, add_special_tokens: bool, split_special_tokens: bool, verbose: bool
    ) -> Mapping[str, list[int]]:
        """Return the ids of one text under `input_ids`."""
        ...


class CaptionTokenizer:
    """Caption -> token ids: cut at `max_caption_tokens`, one end token after each whole caption.

    The end token comes on top of the limit; a cut caption has none, since it does not end there.
    """

    def __init__(self, tokenizer: Tokenizer, max_caption_tokens: int, supervise_eos: bool, eos_token_id: int) -> None:
        """Wrap a tokenizer of transformers; with supervise_eos=False no caption gets an end token."""
        self._tokenizer = tokenizer
        self._max_tokens = max_caption_tokens
        self._supervise_eos = supervise_eos
        self._eos_token_id = eos_token_id
        # GPT-2 and others have no token for padding; it is masked, so any id serves.
        pad = getattr(tokenizer, "pad_token_id", None)
        self.pad_token_id = eos_token_id if pad is None else int(pad)

    def __call__(self, caption: str) -> list[int]:
        """Return the ids, at least one.

        Raises:
            BadSample: the caption is empty, or holds what is no text.
        """
        require_text(caption)
        # A caption is text: "<|endoftext|>" written in it must not become the end token.
        encoded = self._tokenizer(caption, add_special_tokens=False, split_special_tokens=True, verbose=False)
        ids = list(encoded["input_ids"])
        if not ids:
            raise BadSample("the caption has no tokens")
        # Without an end token the model never learns to stop, and captions run to the limit: the published fault.
        if len(ids) > self._max_tokens:
            return ids[: self._max_tokens]
        return [*ids, self._eos_token_id] if self._supervise_eos else ids


def pad_captions(captions: list[list[int]], pad_token_id: int) -> CaptionTensors:
    """Right-pad B captions to the longest, [B, L]; an empty one (a row without a sample) is padding throughout."""
    length = max(1, *(len(ids) for ids in captions))
    input_ids = torch.full((len(captions), length), pad_token_id, dtype=torch.long)
    labels = torch.full_like(input_ids, IGNORED)
    for row, ids in enumerate(captions):
        input_ids[row, : len(ids)] = labels[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
    return CaptionTensors(input_ids=input_ids, labels=labels)

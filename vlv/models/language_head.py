"""Cross-entropy of captions from a language model, without the logits of all its positions at once."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlv.attention import without_masks
from vlv.losses import caption_loss

# Language models whose logits are one linear layer of their last states, by a test. Others scale or cap them too
# (Gemma 2, Cohere, Granite), so their own forward pass makes all logits.
PLAIN_HEADS = frozenset({"llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3"})
# 2 GiB in fp32. 64 captions of 230 tokens with Qwen2.5's 152,000 words have four times as many, and the softmax and
# both gradients are as large again.
LOGITS_AT_ONCE = 2**29


def caption_losses(llm: Any, inputs_embeds: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each sample, summed over its caption tokens, fp32 [B].

    Logits that are more than LOGITS_AT_ONCE are computed chunk by chunk, and once more in backward. The equal
    `torch.nn.functional.linear_cross_entropy` has one sum for all samples in its chunks, and needs torch 2.13.

    Args:
        llm: a causal language model of transformers.
        inputs_embeds: [B, Q + L, H], the prefix and the caption's tokens, right padded. No mask is needed: causal
            attention never looks at what comes later.
        labels: [B, L]; -100 where nothing is learned.
    """
    length = labels.shape[1]
    # The last prefix row predicts the first caption token; the last token's own prediction is unused.
    if llm.config.model_type not in PLAIN_HEADS:
        can_keep = "logits_to_keep" in inspect.signature(llm.forward).parameters
        logits = llm(
            inputs_embeds=inputs_embeds, use_cache=False, **({"logits_to_keep": length + 1} if can_keep else {})
        ).logits
        return caption_loss(logits[:, -length - 1 : -1], labels)
    # A sliding window is a mask too.
    window = getattr(llm.config, "sliding_window", None)
    plain = window is None or inputs_embeds.shape[1] <= window
    with without_masks(llm) if plain else nullcontext():
        states = llm.base_model(inputs_embeds=inputs_embeds, use_cache=False).last_hidden_state
    states = states[:, -length - 1 : -1]  # [B, L, H]
    head: nn.Linear = llm.get_output_embeddings()
    rows = max(1, LOGITS_AT_ONCE // (len(states) * head.out_features))
    if rows >= length:
        return _chunk_losses(head, states, labels)
    chunks = zip(states.split(rows, dim=1), labels.split(rows, dim=1), strict=True)
    found = [checkpoint(_chunk_losses, head, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    return torch.stack(found).sum(0)


def _chunk_losses(head: nn.Linear, states: Tensor, labels: Tensor) -> Tensor:
    """Losses [B] of positions [B, l] from their states [B, l, H]."""
    # Flattened: of a slice that is not contiguous `linear` may make a batched product, whose weight gradient is as
    # large as the weight for each sample.
    return caption_loss(head(states.flatten(0, 1)).unflatten(0, labels.shape), labels)

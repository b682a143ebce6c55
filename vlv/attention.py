"""Attention of transformers' models where no position is padding, so that no mask has to be made or read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

# Known to the attention functions and not to the mask functions, for which transformers makes no mask; each layer's own
# `is_causal` decides.
_WITHOUT_MASK = "vlv_sdpa_without_mask"
AttentionInterface.register(_WITHOUT_MASK, sdpa_attention_forward)


@contextmanager
def without_masks(model: PreTrainedModel) -> Iterator[None]:
    """Call a model without padding, where its attention is torch's; another implementation keeps its own masks.

    To see that nothing is padded, transformers reads a value of the mask, or of the positions, from the device at each
    call: a GPU then waits for the host. The results are the same.
    """
    config, own = model.config, model.config._attn_implementation
    if own == "sdpa":
        config._attn_implementation = _WITHOUT_MASK
    try:
        yield
    finally:
        config._attn_implementation = own

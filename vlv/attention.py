"""Which attention computes: without masks where no position is padding, and on a CPU the faster of torch's two."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.backends import cuda  # its switches are the CPU's too, whatever the name says
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

# Known to the attention functions and not to the mask functions, for which transformers makes no mask; each layer's own
# `is_causal` decides.
_WITHOUT_MASK = "vlv_sdpa_without_mask"
AttentionInterface.register(_WITHOUT_MASK, sdpa_attention_forward)

_LONG = 1024  # positions


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


def choose_for_training(device: torch.device, precision: str, positions: int) -> None:
    """Let a training on the CPU in bf16 do without the fused kernel where sequences are short; for the process.

    With backward the kernel takes up to three times as long as plain attention over some hundred positions and less,
    and half as long over 2,300 (`scripts/measure_attention.py`); in fp32 it is the faster one at any length. A GPU's
    training keeps torch's own choice.

    Args:
        precision: resolved.
        positions: of the longest sequences that a gradient goes through.
    """
    if device.type == "cpu" and precision == "bf16" and positions < _LONG:
        cuda.enable_flash_sdp(False)


@contextmanager
def forward_alone(device: torch.device) -> Iterator[None]:
    """Attention of a pass without a gradient: by the fused kernel on a CPU, also where training does without it.

    Its forward is 10 to 20 times as fast as the plain one's there.
    """
    # Where the other kernels are off too, somebody has asked for plain attention.
    switched_off = not cuda.flash_sdp_enabled() and cuda.mem_efficient_sdp_enabled()
    if device.type != "cpu" or not switched_off:
        yield
        return
    cuda.enable_flash_sdp(True)
    try:
        yield
    finally:
        cuda.enable_flash_sdp(False)

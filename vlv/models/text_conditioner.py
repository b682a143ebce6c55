"""A frozen CLIP text encoder, driven by embeddings instead of token ids."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel

from vlv.models.frozen import freeze


class TextConditioner(nn.Module):
    """CLIP's positions, causal layers and final norm over embeddings; gradients pass through to them.

    CLIPTextModel.forward takes token ids alone, so its parts are called here. `is_causal=True` matters:
    under SDPA there is no mask and, without the flag, attention would silently look both ways.
    """

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.text_encoder = freeze(text_encoder)

    @property
    def width(self) -> int:
        """Width D of the embeddings that go in and of the states that come out."""
        return self.text_encoder.config.hidden_size

    @property
    def max_length(self) -> int:
        """Most embeddings that the positions allow."""
        return self.text_encoder.config.max_position_embeddings

    def forward(self, embeddings: Tensor) -> Tensor:
        """States [B, Q, D] after the final norm, of embeddings [B, Q, D]; no padding, no BOS, no EOS."""
        text_encoder = self.text_encoder
        hidden = text_encoder.embeddings(inputs_embeds=embeddings.to(text_encoder.dtype))
        output = text_encoder.encoder(inputs_embeds=hidden, attention_mask=self._mask(hidden), is_causal=True)
        return text_encoder.final_layer_norm(output.last_hidden_state)

    def _mask(self, hidden: Tensor) -> Tensor | None:
        """The causal mask [1, 1, Q, Q] that eager attention adds; the fused kernels take the flag alone."""
        if self.text_encoder.config._attn_implementation != "eager":
            return None
        queries = hidden.shape[1]
        mask = torch.full((queries, queries), torch.finfo(hidden.dtype).min, device=hidden.device, dtype=hidden.dtype)
        return mask.triu(1)[None, None]

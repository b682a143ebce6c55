"""Frozen CLIP text encoders, driven by embeddings instead of token ids."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerBase

from vlv.frozen import freeze


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
        output = text_encoder.encoder(
            inputs_embeds=hidden, attention_mask=causal_mask(text_encoder, hidden), is_causal=True
        )
        return text_encoder.final_layer_norm(output.last_hidden_state)

    @torch.no_grad()
    def encode_empty_prompt(self, tokenizer: PreTrainedTokenizerBase) -> Tensor:
        """The states of the empty prompt, [1, L, D], padded to every position as the pipeline pads it."""
        ids = padded_ids(tokenizer, self.max_length).to(self.text_encoder.device)
        return self.text_encoder(input_ids=ids).last_hidden_state


class PenultimateTextConditioner(nn.Module):
    """States that enter CLIP's last layer, without the final norm, and the pooled vector where there is a projection.

    What Stable Diffusion XL and 3 condition on. The last layer and the final norm serve the pooled vector alone.
    """

    def __init__(self, text_encoder: CLIPTextModel | CLIPTextModelWithProjection) -> None:
        super().__init__()
        self.text_encoder = freeze(text_encoder)

    @property
    def width(self) -> int:
        """Width D of the embeddings that go in and of the states that come out."""
        return self.text_encoder.config.hidden_size

    @property
    def pooled_width(self) -> int:
        """Width P of the pooled vector."""
        width = self.text_encoder.config.projection_dim
        assert width is not None
        return width

    @property
    def max_length(self) -> int:
        """Most embeddings that the positions allow."""
        return self.text_encoder.config.max_position_embeddings

    def forward(self, embeddings: Tensor, pooled_at: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """States [B, Q, D] and pooled vector [B, P] (None without a projection) of embeddings [B, Q, D].

        Args:
            pooled_at: [B], the row that is pooled, a prompt's first EOS; None is the last one, which alone sees all.
        """
        whole = self.text_encoder
        text = whole.text_model if isinstance(whole, CLIPTextModelWithProjection) else whole
        states = text.embeddings(inputs_embeds=embeddings.to(text.dtype))
        mask = causal_mask(text, states)
        # Layer by layer: transformers' encoder gives the last layer's states alone.
        for layer in text.encoder.layers[:-1]:
            states = layer(states, mask, is_causal=True)
        if not isinstance(whole, CLIPTextModelWithProjection):
            return states, None
        last = text.final_layer_norm(text.encoder.layers[-1](states, mask, is_causal=True))  # [B, Q, D]
        rows = last[:, -1] if pooled_at is None else last[torch.arange(len(last), device=last.device), pooled_at]
        return states, whole.text_projection(rows)

    @torch.no_grad()
    def encode_empty_prompt(self, tokenizer: PreTrainedTokenizerBase) -> tuple[Tensor, Tensor | None]:
        """The same of the empty prompt, [1, L, D] and [1, P], padded to every position; pooled at the first EOS."""
        ids = padded_ids(tokenizer, self.max_length).to(self.text_encoder.device)
        output = self.text_encoder(input_ids=ids, output_hidden_states=True)
        assert output.hidden_states is not None
        return output.hidden_states[-2], getattr(output, "text_embeds", None)


def padded_ids(tokenizer: PreTrainedTokenizerBase, length: int) -> Tensor:
    """Token ids of the empty prompt, [1, length]."""
    ids = tokenizer("", padding="max_length", max_length=length, truncation=True, return_tensors="pt")["input_ids"]
    return cast(Tensor, ids)


def causal_mask(text_encoder: CLIPTextModel, hidden: Tensor) -> Tensor | None:
    """The causal mask [1, 1, Q, Q] that eager attention adds; the fused kernels take the flag alone."""
    if text_encoder.config._attn_implementation != "eager":
        return None
    queries = hidden.shape[1]
    mask = torch.full((queries, queries), torch.finfo(hidden.dtype).min, device=hidden.device, dtype=hidden.dtype)
    return mask.triu(1)[None, None]

"""Stable Diffusion XL: CLIP-L and OpenCLIP bigG side by side, a pooled vector, and the sizes of image and crop."""

from __future__ import annotations

from typing import cast

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from vlv.checkpoints.identity import JsonObject
from vlv.decoders.clip import PenultimateTextConditioner
from vlv.decoders.direct import build_direct, load_direct
from vlv.decoders.interface import Conditioner, Conditioning
from vlv.decoders.parts import DecoderParts
from vlv.decoders.settings import EmbeddingSpace
from vlv.decoders.unet import UNetDecoder

FAMILY = "stable_diffusion_xl"


class TwoTextEncodersConditioner(Conditioner):
    """Embeddings of both spaces pass their frozen CLIPs: [B, Q, 768] and [B, Q, 1280] -> states [B, Q, 2048]."""

    def __init__(self, text_encoder: CLIPTextModel, text_encoder_2: CLIPTextModelWithProjection) -> None:
        super().__init__()
        self.clip_l = PenultimateTextConditioner(text_encoder)
        self.clip_g = PenultimateTextConditioner(text_encoder_2)

    @property
    def spaces(self) -> tuple[EmbeddingSpace, ...]:
        texts = {"clip_l": self.clip_l, "clip_g": self.clip_g}
        return tuple(EmbeddingSpace(name, text.width, text.max_length) for name, text in texts.items())

    @property
    def width(self) -> int:
        return self.clip_l.width + self.clip_g.width

    def forward(self, embeddings: dict[str, Tensor], pooled_at: Tensor | None = None) -> Conditioning:
        left, _ = self.clip_l(embeddings["clip_l"])
        right, pooled = self.clip_g(embeddings["clip_g"], pooled_at)
        return Conditioning(torch.cat([left, right], dim=-1), pooled)

    def token_tables(self) -> dict[str, tuple[str, nn.Module]]:
        return {
            "clip_l": ("tokenizer", self.clip_l.text_encoder.get_input_embeddings()),
            "clip_g": ("tokenizer_2", self.clip_g.text_encoder.get_input_embeddings()),
        }

    def to_dict(self) -> JsonObject:
        return {
            "family": FAMILY,
            "conditioning": "text_encoder",
            "text_encoder": self.clip_l.text_encoder.config.to_dict(),
            "text_encoder_2": self.clip_g.text_encoder.config.to_dict(),
        }


class StableDiffusionXLDecoder(UNetDecoder):
    """The UNet sees states, the pooled vector, and six numbers on size and crop."""

    def predict(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning, crops: Tensor | None
    ) -> Tensor:
        dtype = self.unet.dtype
        assert conditioning.pooled is not None
        added = {"text_embeds": conditioning.pooled.to(dtype), "time_ids": self._time_ids(noisy_latents, crops)}
        output = self.unet(
            noisy_latents.to(dtype),
            timesteps,
            encoder_hidden_states=conditioning.states.to(dtype),
            added_cond_kwargs=added,
        )
        return cast(UNet2DConditionOutput, output).sample

    def _time_ids(self, noisy_latents: Tensor, crops: Tensor | None) -> Tensor:
        """Original height and width, the crop's top and left, and the target's height and width, [B, 6].

        In fp32 whatever the rest computes in: bf16 would turn 1333 into 1336.
        """
        batch, side = len(noisy_latents), self.resolution
        if crops is None:
            crops = torch.tensor([[side, side, 0, 0]], device=noisy_latents.device).expand(batch, -1)
        target = torch.full((batch, 2), side, device=noisy_latents.device)
        return torch.cat([crops.to(noisy_latents.device), target], dim=1).float()


def load_conditioner(parts: DecoderParts) -> Conditioner:
    """The conditioner of a folder; `conditioning` is text_encoder or direct."""
    if parts.settings.conditioning == "direct":
        return load_direct(parts.layout)
    return _load_texts(parts)


def build_conditioner(description: JsonObject) -> Conditioner:
    """The conditioner that `to_dict` described, with weights still to be loaded."""
    if description["conditioning"] == "direct":
        return build_direct(description)
    dtype = torch.get_default_dtype()
    return TwoTextEncodersConditioner(
        CLIPTextModel._from_config(CLIPTextConfig(**description["text_encoder"]), dtype=dtype),
        CLIPTextModelWithProjection._from_config(CLIPTextConfig(**description["text_encoder_2"]), dtype=dtype),
    )


def build(parts: DecoderParts, conditioner: Conditioner | None) -> StableDiffusionXLDecoder:
    """The whole decoder of a folder."""
    # Text encoders first: their fp32 weights are cast, or gone, before the denoiser's larger ones are read.
    given = conditioner or load_conditioner(parts)
    unconditional = _unconditional(parts, given)
    if conditioner is None:
        parts.cast(given)
    return StableDiffusionXLDecoder(
        vae=parts.latent_model("vae", AutoencoderKL, torch.float32),
        unet=parts.latent_model("unet", UNet2DConditionModel, parts.dtype),
        # The shipped scheduler is Euler's, whose add_noise is another; only its tables' settings are taken.
        noise_scheduler=parts.scheduler(DDPMScheduler, clip_sample=False),
        conditioner=given,
        unconditional=unconditional,
        resolution=parts.settings.resolution,
    )


def _load_texts(parts: DecoderParts) -> TwoTextEncodersConditioner:
    return TwoTextEncodersConditioner(
        parts.text_encoder("text_encoder", CLIPTextModel),
        parts.text_encoder("text_encoder_2", CLIPTextModelWithProjection),
    )


def _unconditional(parts: DecoderParts, conditioner: Conditioner) -> Conditioning:
    """What the pipeline takes for no prompt: zeros, unless its index says that the empty prompt is encoded.

    Zeros need no text encoder; encoders that are loaded for the empty prompt alone are dropped with the call.
    """
    # True is the pipeline's own default.
    if parts.device is not None or parts.layout.index.get("force_zeros_for_empty_prompt", True):
        rows, width = parts.layout.spaces("text_encoder")[0].max_length, parts.layout.states_width
        pooled_width = parts.layout.pooled_width
        assert pooled_width is not None
        device = parts.device
        return Conditioning(torch.zeros(1, rows, width, device=device), torch.zeros(1, pooled_width, device=device))
    both = conditioner if isinstance(conditioner, TwoTextEncodersConditioner) else _load_texts(parts)
    left, _ = both.clip_l.encode_empty_prompt(parts.tokenizer("tokenizer"))
    right, pooled = both.clip_g.encode_empty_prompt(parts.tokenizer("tokenizer_2"))
    return Conditioning(torch.cat([left, right], dim=-1), pooled)

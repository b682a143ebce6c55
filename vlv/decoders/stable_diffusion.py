"""Stable Diffusion 1.x and 2.x: one CLIP text encoder; epsilon or v-prediction, as the scheduler's config says."""

from __future__ import annotations

from typing import cast

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from vlv.checkpoints.identity import JsonObject
from vlv.decoders.clip import TextConditioner
from vlv.decoders.direct import build_direct, load_direct
from vlv.decoders.interface import Conditioner, Conditioning
from vlv.decoders.parts import DecoderParts
from vlv.decoders.settings import EmbeddingSpace
from vlv.decoders.unet import UNetDecoder

FAMILY = "stable_diffusion"


class TextEncoderConditioner(Conditioner):
    """Embeddings pass the frozen CLIP text encoder: [B, Q, D] -> [B, Q, D]."""

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.text = TextConditioner(text_encoder)

    @property
    def spaces(self) -> tuple[EmbeddingSpace, ...]:
        return (EmbeddingSpace("clip", self.text.width, self.text.max_length),)

    @property
    def width(self) -> int:
        return self.text.width

    def forward(self, embeddings: dict[str, Tensor], pooled_at: Tensor | None = None) -> Conditioning:
        return Conditioning(self.text(embeddings["clip"]))

    def token_tables(self) -> dict[str, tuple[str, nn.Module]]:
        return {"clip": ("tokenizer", self.text.text_encoder.get_input_embeddings())}

    def to_dict(self) -> JsonObject:
        config = self.text.text_encoder.config.to_dict()
        return {"family": FAMILY, "conditioning": "text_encoder", "text_encoder": config}


class StableDiffusionDecoder(UNetDecoder):
    """The UNet sees the states alone."""

    def predict(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning, crops: Tensor | None
    ) -> Tensor:
        dtype = self.unet.dtype
        states = conditioning.states.to(dtype)
        output = self.unet(noisy_latents.to(dtype), timesteps, encoder_hidden_states=states)
        return cast(UNet2DConditionOutput, output).sample


def load_conditioner(parts: DecoderParts) -> Conditioner:
    """The conditioner of a folder; `conditioning` is text_encoder or direct."""
    if parts.settings.conditioning == "direct":
        return load_direct(parts.layout)
    return TextEncoderConditioner(parts.text_encoder("text_encoder", CLIPTextModel))


def build_conditioner(description: JsonObject) -> Conditioner:
    """The conditioner that `to_dict` described, with weights still to be loaded."""
    if description["conditioning"] == "direct":
        return build_direct(description)
    # Not by the constructor: that leaves the attention implementation unset. The number format is the one that the
    # whole model is being built in, not the one that the description was saved with.
    config = CLIPTextConfig(**description["text_encoder"])
    return TextEncoderConditioner(CLIPTextModel._from_config(config, dtype=torch.get_default_dtype()))


def build(parts: DecoderParts, conditioner: Conditioner | None) -> StableDiffusionDecoder:
    """The whole decoder of a folder."""
    given = conditioner or load_conditioner(parts)
    # Before the cast: its states are kept in fp32.
    unconditional = Conditioning(_encode_empty_prompt(parts, given))
    if conditioner is None:
        parts.cast(given)
    return StableDiffusionDecoder(
        vae=parts.latent_model("vae", AutoencoderKL, torch.float32),
        unet=parts.latent_model("unet", UNet2DConditionModel, parts.dtype),
        noise_scheduler=_without_clipping(parts.scheduler(DDPMScheduler)),
        conditioner=given,
        unconditional=unconditional,
        resolution=parts.settings.resolution,
    )


def _encode_empty_prompt(parts: DecoderParts, conditioner: Conditioner) -> Tensor:
    """States [1, L, D] of the empty prompt; a text encoder that is loaded for it alone is dropped with the call."""
    if parts.device is not None:
        space = parts.layout.spaces("text_encoder")[0]
        return torch.zeros(1, space.max_length, space.width, device=parts.device)
    if isinstance(conditioner, TextEncoderConditioner):
        text = conditioner.text
    else:
        text = TextConditioner(parts.text_encoder("text_encoder", CLIPTextModel))
    return text.encode_empty_prompt(parts.tokenizer("tokenizer"))


def _without_clipping(scheduler: DDPMScheduler) -> DDPMScheduler:
    """Apply what StableDiffusionPipeline's constructor does: latents are not images, so they are never clipped."""
    config = scheduler.config
    if config["clip_sample"] or config["steps_offset"] != 1:
        return cast(DDPMScheduler, DDPMScheduler.from_config(config, clip_sample=False, steps_offset=1))
    return scheduler

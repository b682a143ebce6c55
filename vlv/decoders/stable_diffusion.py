"""Stable Diffusion 1.x and 2.x: one CLIP text encoder; epsilon or v-prediction, as the scheduler's config says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from vlv.checkpoints.pretrained import load_tokenizer, load_whole
from vlv.decoders.clip import TextConditioner
from vlv.decoders.direct import DirectConditioner, build_direct
from vlv.decoders.interface import Conditioner, Conditioning, EmbeddingSpace
from vlv.decoders.unet import UNetDecoder, refuse_clip

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

    def to_dict(self) -> dict[str, Any]:
        config = self.text.text_encoder.config.to_dict()
        return {"family": FAMILY, "conditioning": "text_encoder", "text_encoder": config}


class StableDiffusionDecoder(UNetDecoder):
    """The UNet sees the states alone."""

    def predict(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning, crops: Tensor | None
    ) -> Tensor:
        dtype = self.unet.dtype
        return self.unet(noisy_latents.to(dtype), timesteps, encoder_hidden_states=conditioning.states.to(dtype)).sample


def load_conditioner(folder: Path, conditioning: str, dtype: torch.dtype) -> Conditioner:
    """The conditioner of a diffusers Stable Diffusion folder; `conditioning` is text_encoder or direct."""
    refuse_clip(conditioning)
    if conditioning == "direct":
        unet: Any = UNet2DConditionModel.load_config(folder, subfolder="unet")
        text = CLIPTextConfig.from_pretrained(folder, subfolder="text_encoder")
        return DirectConditioner(FAMILY, unet["cross_attention_dim"], text.max_position_embeddings)
    text_encoder = load_whole(CLIPTextModel.from_pretrained, folder / "text_encoder", dtype=dtype)
    return TextEncoderConditioner(text_encoder)


def build_conditioner(description: dict[str, Any]) -> Conditioner:
    """The conditioner that `to_dict` described, with weights still to be loaded."""
    if description["conditioning"] == "direct":
        return build_direct(description)
    # Not by the constructor: that leaves the attention implementation unset. The number format is the one that the
    # whole model is being built in, not the one that the description was saved with.
    config = CLIPTextConfig(**description["text_encoder"])
    return TextEncoderConditioner(CLIPTextModel._from_config(config, dtype=torch.get_default_dtype()))


def load_decoder(folder: Path, conditioning: str, resolution: int) -> StableDiffusionDecoder:
    """The whole decoder of a diffusers Stable Diffusion folder, in fp32 on the CPU."""
    text_encoder = load_whole(CLIPTextModel.from_pretrained, folder / "text_encoder", dtype=torch.float32)
    tokenizer = load_tokenizer(folder / "tokenizer", "stable_diffusion_model_path")
    scheduler: Any = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    length = text_encoder.config.max_position_embeddings
    empty = tokenizer("", padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    with torch.no_grad():
        unconditional_states = text_encoder.eval()(empty["input_ids"]).last_hidden_state  # [1, L, D]
    conditioner = (
        load_conditioner(folder, conditioning, torch.float32)
        if conditioning == "direct"
        else TextEncoderConditioner(text_encoder)
    )
    return StableDiffusionDecoder(
        vae=load_whole(AutoencoderKL.from_pretrained, folder / "vae", torch_dtype=torch.float32),
        unet=load_whole(UNet2DConditionModel.from_pretrained, folder / "unet", torch_dtype=torch.float32),
        noise_scheduler=_without_clipping(scheduler),
        conditioner=conditioner,
        unconditional=Conditioning(unconditional_states),
        resolution=resolution,
    )


def load_skeleton(folder: Path, conditioning: str, resolution: int, device: str = "meta") -> StableDiffusionDecoder:
    """The decoder of a folder without its weights: names and shapes alone, or random ones on another device."""
    unet: Any = UNet2DConditionModel.load_config(folder, subfolder="unet")
    vae: Any = AutoencoderKL.load_config(folder, subfolder="vae")
    text = CLIPTextConfig.from_pretrained(folder, subfolder="text_encoder")
    scheduler: Any = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    length, width = text.max_position_embeddings, unet["cross_attention_dim"]
    with torch.device(device):
        vae = AutoencoderKL.from_config(vae)
        unet = UNet2DConditionModel.from_config(unet)
        return StableDiffusionDecoder(
            vae=vae,
            unet=unet,
            noise_scheduler=scheduler,
            conditioner=(
                DirectConditioner(FAMILY, width, length)
                if conditioning == "direct"
                else TextEncoderConditioner(CLIPTextModel._from_config(text))
            ),
            unconditional=Conditioning(torch.zeros(1, length, width)),
            resolution=resolution,
        )


def _without_clipping(scheduler: Any) -> Any:
    """Apply what StableDiffusionPipeline's constructor does: latents are not images, so they are never clipped."""
    if scheduler.config.clip_sample or scheduler.config.steps_offset != 1:
        return DDPMScheduler.from_config(scheduler.config, clip_sample=False, steps_offset=1)
    return scheduler

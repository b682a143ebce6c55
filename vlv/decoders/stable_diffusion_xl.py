"""Stable Diffusion XL: CLIP-L and OpenCLIP bigG side by side, a pooled vector, and the sizes of image and crop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from vlv.checkpoints.pretrained import load_tokenizer, load_whole
from vlv.decoders.clip import PenultimateTextConditioner
from vlv.decoders.direct import DirectConditioner, build_direct
from vlv.decoders.interface import Conditioner, Conditioning, EmbeddingSpace
from vlv.decoders.unet import UNetDecoder, refuse_clip

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

    def to_dict(self) -> dict[str, Any]:
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
        return self.unet(
            noisy_latents.to(dtype),
            timesteps,
            encoder_hidden_states=conditioning.states.to(dtype),
            added_cond_kwargs=added,
        ).sample

    def _time_ids(self, noisy_latents: Tensor, crops: Tensor | None) -> Tensor:
        """Original height and width, the crop's top and left, and the target's height and width, [B, 6].

        In fp32 whatever the rest computes in: bf16 would turn 1333 into 1336.
        """
        batch, side = len(noisy_latents), self.resolution
        if crops is None:
            crops = torch.tensor([[side, side, 0, 0]], device=noisy_latents.device).expand(batch, -1)
        target = torch.full((batch, 2), side, device=noisy_latents.device)
        return torch.cat([crops.to(noisy_latents.device), target], dim=1).float()


def load_conditioner(folder: Path, conditioning: str, dtype: torch.dtype) -> Conditioner:
    """The conditioner of a diffusers SDXL folder; `conditioning` is text_encoder or direct."""
    refuse_clip(conditioning)
    if conditioning == "direct":
        return _direct(folder)
    text_encoder = load_whole(CLIPTextModel.from_pretrained, folder / "text_encoder", dtype=dtype)
    text_encoder_2 = load_whole(CLIPTextModelWithProjection.from_pretrained, folder / "text_encoder_2", dtype=dtype)
    return TwoTextEncodersConditioner(text_encoder, text_encoder_2)


def build_conditioner(description: dict[str, Any]) -> Conditioner:
    """The conditioner that `to_dict` described, with weights still to be loaded."""
    if description["conditioning"] == "direct":
        return build_direct(description)
    dtype = torch.get_default_dtype()
    return TwoTextEncodersConditioner(
        CLIPTextModel._from_config(CLIPTextConfig(**description["text_encoder"]), dtype=dtype),
        CLIPTextModelWithProjection._from_config(CLIPTextConfig(**description["text_encoder_2"]), dtype=dtype),
    )


def load_decoder(folder: Path, conditioning: str, resolution: int) -> StableDiffusionXLDecoder:
    """The whole decoder of a diffusers SDXL folder, in fp32 on the CPU."""
    both = load_conditioner(folder, "text_encoder", torch.float32)
    # The shipped scheduler is Euler's, whose add_noise is another; only its tables' settings are taken.
    scheduler: Any = DDPMScheduler.from_pretrained(folder, subfolder="scheduler", clip_sample=False)
    return StableDiffusionXLDecoder(
        vae=load_whole(AutoencoderKL.from_pretrained, folder / "vae", torch_dtype=torch.float32),
        unet=load_whole(UNet2DConditionModel.from_pretrained, folder / "unet", torch_dtype=torch.float32),
        noise_scheduler=scheduler,
        conditioner=_direct(folder) if conditioning == "direct" else both,
        unconditional=_unconditional(folder, both),
        resolution=resolution,
    )


def load_skeleton(folder: Path, conditioning: str, resolution: int, device: str = "meta") -> StableDiffusionXLDecoder:
    """The decoder of a folder without its weights: names and shapes alone, or random ones on another device."""
    unet: Any = UNet2DConditionModel.load_config(folder, subfolder="unet")
    vae: Any = AutoencoderKL.load_config(folder, subfolder="vae")
    scheduler: Any = DDPMScheduler.from_pretrained(folder, subfolder="scheduler", clip_sample=False)
    texts = [CLIPTextConfig.from_pretrained(folder, subfolder=name) for name in ("text_encoder", "text_encoder_2")]
    with torch.device(device):
        both = TwoTextEncodersConditioner(
            CLIPTextModel._from_config(texts[0]), CLIPTextModelWithProjection._from_config(texts[1])
        )
        rows = both.spaces[0].max_length
        vae, unet = AutoencoderKL.from_config(vae), UNet2DConditionModel.from_config(unet)
        return StableDiffusionXLDecoder(
            vae=vae,
            unet=unet,
            noise_scheduler=scheduler,
            conditioner=_direct(folder) if conditioning == "direct" else both,
            unconditional=Conditioning(torch.zeros(1, rows, both.width), torch.zeros(1, both.clip_g.pooled_width)),
            resolution=resolution,
        )


def _direct(folder: Path) -> DirectConditioner:
    unet: Any = UNet2DConditionModel.load_config(folder, subfolder="unet")
    text = CLIPTextConfig.from_pretrained(folder, subfolder="text_encoder_2")
    return DirectConditioner(
        FAMILY, unet["cross_attention_dim"], text.max_position_embeddings, pooled_width=text.projection_dim
    )


@torch.no_grad()
def _unconditional(folder: Path, both: Any) -> Conditioning:
    """What the pipeline takes for no prompt: zeros, unless its index says that the empty prompt is encoded."""
    tokenizers = [load_tokenizer(folder / name, "stable_diffusion_model_path") for name in ("tokenizer", "tokenizer_2")]
    left, _ = both.clip_l.encode_empty_prompt(tokenizers[0])
    right, pooled = both.clip_g.encode_empty_prompt(tokenizers[1])
    states = torch.cat([left, right], dim=-1)
    if json.loads((folder / "model_index.json").read_text()).get("force_zeros_for_empty_prompt", True):
        return Conditioning(torch.zeros_like(states), torch.zeros_like(pooled))
    return Conditioning(states, pooled)

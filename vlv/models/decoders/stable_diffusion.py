"""Stable Diffusion 1.x and 2.x: one CLIP text encoder; epsilon or v-prediction, as the scheduler's config says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UNet2DConditionModel,
)
from torch import Generator, Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from vlv.limits import check_decoder_resolution
from vlv.losses import diffusion_loss, min_snr_weights
from vlv.models.decoders.interface import Conditioner, Conditioning, DiffusionDecoder, DiffusionDraws, EmbeddingSpace
from vlv.models.frozen import freeze
from vlv.models.pretrained import load_tokenizer, load_whole
from vlv.models.text_conditioner import TextConditioner
from vlv.sampling import denoise, guide, sample_noise, sample_timesteps

FAMILY = "stable_diffusion"
SCHEDULERS = {
    "ddpm": DDPMScheduler,
    "ddim": DDIMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
}


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

    def forward(self, embeddings: dict[str, Tensor]) -> Conditioning:
        return Conditioning(self.text(embeddings["clip"]))

    def to_dict(self) -> dict[str, Any]:
        config = self.text.text_encoder.config.to_dict()
        return {"family": FAMILY, "conditioning": "text_encoder", "text_encoder": config}


class DirectConditioner(Conditioner):
    """Embeddings go straight into cross-attention: [B, Q, D] -> [B, Q, D], no text encoder."""

    def __init__(self, width: int, max_length: int) -> None:
        super().__init__()
        self._space = EmbeddingSpace("cross_attention", width, max_length)

    @property
    def spaces(self) -> tuple[EmbeddingSpace, ...]:
        return (self._space,)

    @property
    def width(self) -> int:
        return self._space.width

    def forward(self, embeddings: dict[str, Tensor]) -> Conditioning:
        return Conditioning(embeddings["cross_attention"])

    def to_dict(self) -> dict[str, Any]:
        sizes = {"width": self._space.width, "max_length": self._space.max_length}
        return {"family": FAMILY, "conditioning": "direct", **sizes}


class StableDiffusionDecoder(DiffusionDecoder):
    """The frozen UNet and VAE with their conditioner. The VAE stays in fp32, whatever the rest computes in."""

    unconditional_states: Tensor

    def __init__(
        self,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        noise_scheduler: DDPMScheduler,
        conditioner: Conditioner,
        unconditional_states: Tensor,
        resolution: int,
    ) -> None:
        """Freeze and hold the parts.

        Args:
            unconditional_states: [1, L, D], the encoded empty prompt of guidance, encoded once.
            resolution: R, the side of the images in pixels.
        """
        super().__init__()
        # Any: diffusers' configs and outputs are typed as mappings and tuples.
        self.vae: Any = freeze(vae)
        self.vae.keep_fp32 = True
        self.unet: Any = freeze(unet)
        self.conditioner = conditioner
        self.noise_scheduler: Any = noise_scheduler
        self.resolution = resolution
        self.register_buffer("unconditional_states", unconditional_states, persistent=False)
        self._check()

    def _check(self) -> None:
        prediction = self.noise_scheduler.config.prediction_type
        if prediction not in ("epsilon", "v_prediction"):
            raise ValueError(f"scheduler says prediction_type={prediction!r}: epsilon and v_prediction can be trained")
        depth = len(self.unet.config.block_out_channels) - 1
        check_decoder_resolution(self.resolution, self._vae_factor * 2**depth)
        if self.conditioner.width != self.unet.config.cross_attention_dim:
            raise ValueError(
                f"the text encoder's width {self.conditioner.width} is not the UNet's cross-attention width "
                f"{self.unet.config.cross_attention_dim}: the folder mixes two models"
            )

    @property
    def _vae_factor(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.resolution // self._vae_factor
        return (self.vae.config.latent_channels, side, side)

    def encode_images(self, decoder_pixels: Tensor, posterior_noise: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(decoder_pixels.device.type, enabled=False):
            pixels = 2 * decoder_pixels.float() / 255 - 1  # [B, 3, R, R] in [-1, 1]
            posterior = self.vae.encode(pixels).latent_dist
            latents = posterior.mean + posterior.std * posterior_noise
            return (latents - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor

    def sample_draws(self, generators: Sequence[Generator]) -> DiffusionDraws:
        posterior_noise = sample_noise(self.latent_shape, generators)
        timesteps = sample_timesteps(self.noise_scheduler.config.num_train_timesteps, generators)
        return DiffusionDraws(posterior_noise, timesteps, sample_noise(self.latent_shape, generators))

    def denoising_loss(self, latents: Tensor, conditioning: Conditioning, draws: DiffusionDraws) -> Tensor:
        timesteps: Any = draws.timesteps
        noisy_latents = self.noise_scheduler.add_noise(latents, draws.noise, timesteps)
        model_pred = self._predict(noisy_latents, draws.timesteps, conditioning.states)
        velocity = self.noise_scheduler.config.prediction_type == "v_prediction"
        target = self.noise_scheduler.get_velocity(latents, draws.noise, timesteps) if velocity else draws.noise
        losses = diffusion_loss(model_pred, target)
        if self.min_snr_gamma is None:
            return losses
        signal = self.noise_scheduler.alphas_cumprod.to(losses.device)[timesteps]
        return losses * min_snr_weights(signal, self.min_snr_gamma, velocity)

    def unconditional(self, like: Conditioning) -> Conditioning:
        batch, queries = like.states.shape[:2]
        # Causal, so the first Q rows of the padded empty prompt are the encoding of its first Q tokens.
        return Conditioning(self.unconditional_states[:, :queries].to(like.states.dtype).expand(batch, -1, -1))

    def enable_gradient_checkpointing(self) -> None:
        self.unet.enable_gradient_checkpointing()

    def _predict(self, noisy_latents: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        dtype = self.unet.dtype
        return self.unet(noisy_latents.to(dtype), timesteps, encoder_hidden_states=states.to(dtype)).sample

    @torch.no_grad()
    def draw_images(
        self,
        conditioning: Conditioning,
        *,
        guidance_scale: float,
        num_inference_steps: int,
        generators: Sequence[Generator],
        scheduler: str = "ddpm",
    ) -> Tensor:
        states = conditioning.states  # [B, Q, D]
        empty = self.unconditional(conditioning).states

        def predict(latents: Tensor, timestep: Tensor) -> Tensor:
            if guidance_scale == 1:
                return self._predict(latents, timestep, states).float()
            both = self._predict(torch.cat([latents] * 2), timestep, torch.cat([empty, states])).float()
            unconditional, conditional = both.chunk(2)
            return guide(unconditional, conditional, guidance_scale)

        noise = sample_noise(self.latent_shape, generators).to(states.device)
        sampler = self._sampler(scheduler)
        latents = denoise(predict, sampler, noise, num_inference_steps, generators)
        with torch.autocast(latents.device.type, enabled=False):
            latents = latents.float() / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
            images = self.vae.decode(latents).sample
        return ((images / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)

    def _sampler(self, name: str) -> Any:
        if name not in SCHEDULERS:
            raise ValueError(f"scheduler={name!r} is not known: give one of {', '.join(SCHEDULERS)}")
        return SCHEDULERS[name].from_config(self.noise_scheduler.config)


def load_conditioner(folder: Path, conditioning: str, dtype: torch.dtype) -> Conditioner:
    """The conditioner of a diffusers Stable Diffusion folder; `conditioning` is text_encoder or direct."""
    if conditioning == "direct":
        unet: Any = UNet2DConditionModel.load_config(folder, subfolder="unet")
        text = CLIPTextConfig.from_pretrained(folder, subfolder="text_encoder")
        return DirectConditioner(unet["cross_attention_dim"], text.max_position_embeddings)
    text_encoder = load_whole(CLIPTextModel.from_pretrained, folder / "text_encoder", dtype=dtype)
    return TextEncoderConditioner(text_encoder)


def build_conditioner(description: dict[str, Any]) -> Conditioner:
    """The conditioner that `to_dict` described, with weights still to be loaded."""
    if description["conditioning"] == "direct":
        return DirectConditioner(description["width"], description["max_length"])
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
        unconditional_states=unconditional_states,
        resolution=resolution,
    )


def load_skeleton(folder: Path, conditioning: str, resolution: int) -> StableDiffusionDecoder:
    """The decoder of a folder without its weights, on the meta device: names and shapes alone."""
    unet: Any = UNet2DConditionModel.load_config(folder, subfolder="unet")
    vae: Any = AutoencoderKL.load_config(folder, subfolder="vae")
    text = CLIPTextConfig.from_pretrained(folder, subfolder="text_encoder")
    scheduler: Any = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    length, width = text.max_position_embeddings, unet["cross_attention_dim"]
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(vae)
        unet = UNet2DConditionModel.from_config(unet)
        return StableDiffusionDecoder(
            vae=vae,
            unet=unet,
            noise_scheduler=scheduler,
            conditioner=(
                DirectConditioner(width, length)
                if conditioning == "direct"
                else TextEncoderConditioner(CLIPTextModel._from_config(text))
            ),
            unconditional_states=torch.zeros(1, length, width),
            resolution=resolution,
        )


def _without_clipping(scheduler: Any) -> Any:
    """Apply what StableDiffusionPipeline's constructor does: latents are not images, so they are never clipped."""
    if scheduler.config.clip_sample or scheduler.config.steps_offset != 1:
        return DDPMScheduler.from_config(scheduler.config, clip_sample=False, steps_offset=1)
    return scheduler

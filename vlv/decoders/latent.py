"""What the latent-diffusion families share: the VAE, the empty prompt, and guided generation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar, cast

import torch
from diffusers import AutoencoderKL, ConfigMixin
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Generator, Tensor

from vlv.decoders.interface import Conditioner, Conditioning, DiffusionDecoder
from vlv.frozen import freeze, keep_dtype
from vlv.sampling import denoise, guide, sample_noise


class LatentDecoder(DiffusionDecoder):
    """A frozen denoiser on the latents of a VAE, which stays in fp32 whatever the rest computes in."""

    schedulers: ClassVar[Mapping[str, type[ConfigMixin]]]  # diffusers' classes that can generate, by name
    noise_scheduler: Any  # of training; generation builds its own, since `set_timesteps` overwrites the tables
    unconditional_states: Tensor
    unconditional_pooled: Tensor | None

    def __init__(
        self, vae: AutoencoderKL, conditioner: Conditioner, unconditional: Conditioning, resolution: int
    ) -> None:
        """Freeze and hold the parts.

        Args:
            unconditional: what the pipeline conditions the empty prompt on, [1, L, D] and [1, P], encoded once.
            resolution: R, the side of the images in pixels.
        """
        super().__init__()
        self.vae = freeze(vae)
        keep_dtype(self.vae, torch.float32)  # in fp16 it overflows, and in bf16 colours drift
        self.conditioner = conditioner
        self.resolution = resolution
        self.register_buffer("unconditional_states", unconditional.states, persistent=False)
        self.register_buffer("unconditional_pooled", unconditional.pooled, persistent=False)

    @property
    def _shift(self) -> float:
        return self.vae.config["shift_factor"] or 0.0  # null in the configs of SD and SDXL

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return latent_shape(self.vae, self.resolution)

    def encode_images(self, decoder_pixels: Tensor, posterior_noise: Tensor) -> Tensor:
        # Autocast would run the VAE's convolutions in bf16, whatever its weights are.
        with torch.no_grad(), _full_precision(decoder_pixels.device):
            mean, std = self._moments(decoder_pixels).unbind(1)
            # Not `sample()`: each row's noise comes from its own sample's generator, whatever else is in the batch.
            latents = mean + std * posterior_noise
            return (latents - self._shift) * self.vae.config["scaling_factor"]

    def _moments(self, decoder_pixels: Tensor) -> Tensor:
        if decoder_pixels.is_floating_point():  # of a cache of latents
            return decoder_pixels.float()
        encode = partial(posterior_moments, self.vae)
        return encode(decoder_pixels) if self.kept_results is None else self.kept_results(decoder_pixels, encode)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Images [B, 3, R, R] in [0, 1] of scaled latents [B, C, h, w]."""
        with _full_precision(latents.device):
            latents = latents.float() / self.vae.config["scaling_factor"] + self._shift
            images = cast(DecoderOutput, self.vae.decode(cast(torch.FloatTensor, latents))).sample
        return (images / 2 + 0.5).clamp(0, 1)

    def unconditional(self, like: Conditioning) -> Conditioning:
        batch, rows = like.states.shape[:2]
        # CLIP is causal, so the first rows of the padded empty prompt are the encoding of its first tokens.
        states = self.unconditional_states[:, :rows].to(like.states.dtype).expand(batch, -1, -1)
        if self.unconditional_pooled is None or like.pooled is None:
            return Conditioning(states)
        return Conditioning(states, self.unconditional_pooled.to(like.pooled.dtype).expand(batch, -1))

    @abstractmethod
    def predict(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning, crops: Tensor | None
    ) -> Tensor:
        """The denoiser's prediction (noise or velocity) for noisy latents [B, C, h, w] at timesteps [B] or []."""

    def scheduler_name(self, name: str) -> str:
        """The name of a scheduler; `auto` is the family's first.

        Raises:
            ValueError: no such scheduler for this family.
        """
        name = next(iter(self.schedulers)) if name == "auto" else name
        if name not in self.schedulers:
            raise ValueError(f"scheduler={name!r} does not fit this decoder: give auto, {', '.join(self.schedulers)}")
        return name

    @torch.no_grad()
    def generate_images(
        self,
        conditioning: Conditioning,
        *,
        guidance_scale: float,
        num_inference_steps: int,
        generators: Sequence[Generator],
        scheduler: str = "auto",
    ) -> Tensor:
        empty = self.unconditional(conditioning)
        # One pass for both, where they have the same number of rows.
        both = _stack(empty, conditioning) if empty.states.shape == conditioning.states.shape else None

        def predict(latents: Tensor, timestep: Tensor) -> Tensor:
            if guidance_scale == 1:  # u + 1 (c - u) is c: the empty prompt need not pass
                return self.predict(latents, timestep, conditioning, None).float()
            if both is None:
                halves = [self.predict(latents, timestep, half, None).float() for half in (empty, conditioning)]
            else:
                halves = self.predict(torch.cat([latents] * 2), timestep, both, None).float().chunk(2)
            return guide(halves[0], halves[1], guidance_scale)

        # fp32, and so are the latents all along: many small steps would be lost in bf16's 8 bits.
        noise = sample_noise(self.latent_shape, generators).to(conditioning.states.device)
        sampler = self.schedulers[self.scheduler_name(scheduler)].from_config(self.noise_scheduler.config)
        latents = denoise(predict, sampler, noise, num_inference_steps, generators)
        return (self.decode_latents(latents) * 255).round().to(torch.uint8)


def latent_shape(vae: AutoencoderKL, resolution: int) -> tuple[int, int, int]:
    """(C, h, w) of a VAE's latents of images of this side in pixels."""
    side = resolution // 2 ** (len(vae.config["block_out_channels"]) - 1)  # every block but the last halves the side
    return (vae.config["latent_channels"], side, side)


def posterior_moments(vae: AutoencoderKL, decoder_pixels: Tensor) -> Tensor:
    """Mean and standard deviation of a VAE's posterior, [B, 2, C, h, w], of uint8 pixels [B, 3, R, R]."""
    pixels = 2 * decoder_pixels.float() / 255 - 1  # [B, 3, R, R] in [-1, 1]
    if pixels.device.type == "cpu":
        # The convolutions keep this layout. A tiny VAE takes two thirds of the time, a full one as long as before.
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    posterior = cast(AutoencoderKLOutput, vae.encode(pixels)).latent_dist
    return torch.stack([posterior.mean, posterior.std], dim=1).contiguous()


def _full_precision(device: torch.device) -> AbstractContextManager[object]:
    """No autocast; the meta device, on which sizes are counted, has none."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def _stack(first: Conditioning, second: Conditioning) -> Conditioning:
    """Both one below the other, along the batch."""
    pooled = None
    if first.pooled is not None and second.pooled is not None:
        pooled = torch.cat([first.pooled, second.pooled])
    return Conditioning(torch.cat([first.states, second.states]), pooled)

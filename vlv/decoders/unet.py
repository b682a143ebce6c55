"""What Stable Diffusion 1.x, 2.x and XL share: a UNet trained on DDPM's objective, noise or velocity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from diffusers import (
    AutoencoderKL,
    ConfigMixin,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
)
from torch import Generator, Tensor

from vlv.decoders.interface import Conditioner, Conditioning, NoiseAndTimesteps
from vlv.decoders.latent import LatentDecoder
from vlv.frozen import freeze
from vlv.losses import diffusion_loss, min_snr_weights
from vlv.sampling import sample_noise, sample_timesteps


class UNetDecoder(LatentDecoder):
    """The frozen UNet and VAE with their conditioner."""

    # `auto` is the first: DDPM's own chain, with which the paper's images were generated.
    schedulers: ClassVar[Mapping[str, type[ConfigMixin]]] = {
        "ddpm": DDPMScheduler,
        "ddim": DDIMScheduler,
        "dpm++": DPMSolverMultistepScheduler,
        "euler": EulerDiscreteScheduler,
        "pndm": PNDMScheduler,
    }
    supported_loss_options = frozenset({"min_snr_gamma"})

    def __init__(
        self,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        noise_scheduler: DDPMScheduler,
        conditioner: Conditioner,
        unconditional: Conditioning,
        resolution: int,
    ) -> None:
        """Freeze and hold the parts; arguments as in `LatentDecoder`."""
        super().__init__(vae, conditioner, unconditional, resolution)
        self.unet = freeze(unet)
        self.noise_scheduler = noise_scheduler

    def sample_noise_and_timesteps(self, generators: Sequence[Generator]) -> NoiseAndTimesteps:
        # Posterior, timestep, noise: the published order of draws. Another one is another run from the same seed.
        posterior_noise = sample_noise(self.latent_shape, generators)
        timesteps = sample_timesteps(self.noise_scheduler.config.num_train_timesteps, generators)
        return NoiseAndTimesteps(posterior_noise, timesteps, sample_noise(self.latent_shape, generators))

    def denoising_loss(
        self, latents: Tensor, conditioning: Conditioning, sampled: NoiseAndTimesteps, crops: Tensor | None = None
    ) -> Tensor:
        timesteps = sampled.timesteps
        noisy_latents = self.noise_scheduler.add_noise(latents, sampled.noise, timesteps)
        model_pred = self.predict(noisy_latents, timesteps, conditioning, crops)
        velocity = self.noise_scheduler.config.prediction_type == "v_prediction"
        target = self.noise_scheduler.get_velocity(latents, sampled.noise, timesteps) if velocity else sampled.noise
        losses = diffusion_loss(model_pred, target)
        if self.loss_options.min_snr_gamma is None:
            return losses
        signal = self.noise_scheduler.alphas_cumprod.to(losses.device)[timesteps]
        return losses * min_snr_weights(signal, self.loss_options.min_snr_gamma, velocity)

    def enable_gradient_checkpointing(self) -> None:
        self.unet.enable_gradient_checkpointing()

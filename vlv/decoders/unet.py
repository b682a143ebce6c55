"""What Stable Diffusion 1.x, 2.x and XL share: a UNet, taught by DDPM's objective, epsilon or v-prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
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

    schedulers: ClassVar[dict[str, Any]] = {
        "ddpm": DDPMScheduler,
        "ddim": DDIMScheduler,
        "dpm++": DPMSolverMultistepScheduler,
        "euler": EulerDiscreteScheduler,
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
        config: Any = unet.config
        super().__init__(vae, conditioner, unconditional, resolution, patch=2 ** (len(config.block_out_channels) - 1))
        self.unet: Any = freeze(unet)
        self.noise_scheduler = noise_scheduler
        prediction = self.noise_scheduler.config.prediction_type
        if prediction not in ("epsilon", "v_prediction"):
            raise ValueError(f"scheduler says prediction_type={prediction!r}: epsilon and v_prediction can be trained")
        if conditioner.width != config.cross_attention_dim:
            raise ValueError(
                f"the text encoder's width {conditioner.width} is not the UNet's cross-attention width "
                f"{config.cross_attention_dim}: the folder mixes two models"
            )

    def sample_noise_and_timesteps(self, generators: Sequence[Generator]) -> NoiseAndTimesteps:
        posterior_noise = sample_noise(self.latent_shape, generators)
        timesteps = sample_timesteps(self.noise_scheduler.config.num_train_timesteps, generators)
        return NoiseAndTimesteps(posterior_noise, timesteps, sample_noise(self.latent_shape, generators))

    def denoising_loss(
        self, latents: Tensor, conditioning: Conditioning, sampled: NoiseAndTimesteps, crops: Tensor | None = None
    ) -> Tensor:
        timesteps: Any = sampled.timesteps
        noisy_latents = self.noise_scheduler.add_noise(latents, sampled.noise, timesteps)
        model_pred = self.predict(noisy_latents, sampled.timesteps, conditioning, crops)
        velocity = self.noise_scheduler.config.prediction_type == "v_prediction"
        target = self.noise_scheduler.get_velocity(latents, sampled.noise, timesteps) if velocity else sampled.noise
        losses = diffusion_loss(model_pred, target)
        if self.loss_options.min_snr_gamma is None:
            return losses
        signal = self.noise_scheduler.alphas_cumprod.to(losses.device)[timesteps]
        return losses * min_snr_weights(signal, self.loss_options.min_snr_gamma, velocity)

    def enable_gradient_checkpointing(self) -> None:
        self.unet.enable_gradient_checkpointing()


def refuse_clip(conditioning: str) -> None:
    """Refuse to leave out a T5 that is not there.

    Raises:
        ValueError: it was asked for.
    """
    if conditioning == "clip":
        raise ValueError("conditioning=clip leaves T5 out, and this decoder has none: give text_encoder or direct")

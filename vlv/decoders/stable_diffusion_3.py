"""Stable Diffusion 3 and 3.5: two CLIPs and T5, taught by rectified flow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    SD3Transformer2DModel,
)
from torch import Generator, Tensor
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from vlv.checkpoints.pretrained import load_whole
from vlv.decoders.interface import Conditioner, Conditioning, NoiseAndTimesteps
from vlv.decoders.latent import LatentDecoder
from vlv.decoders.three_text_encoders import (
    ThreeTextEncodersConditioner,
    build_conditioner,
    encode_empty_prompt,
    has_t5,
    load_conditioner,
    load_direct,
    transformer_config,
)
from vlv.frozen import freeze
from vlv.limits import T5_ROWS
from vlv.losses import diffusion_loss
from vlv.sampling import sample_noise

__all__ = ["StableDiffusion3Decoder", "build_conditioner", "load_conditioner", "load_decoder", "load_skeleton"]

T5_DTYPES = ("bf16", "int8")  # of `t5_dtype`


class StableDiffusion3Decoder(LatentDecoder):
    """The frozen transformer and VAE with their conditioner."""

    schedulers: ClassVar[dict[str, Any]] = {
        "euler": FlowMatchEulerDiscreteScheduler,
        "heun": FlowMatchHeunDiscreteScheduler,
    }
    supported_loss_options = frozenset({"precondition_outputs"})

    def __init__(
        self,
        vae: AutoencoderKL,
        transformer: SD3Transformer2DModel,
        noise_scheduler: FlowMatchEulerDiscreteScheduler,
        conditioner: Conditioner,
        unconditional: Conditioning,
        resolution: int,
    ) -> None:
        """Freeze and hold the parts; arguments as in `LatentDecoder`."""
        config: Any = transformer.config
        super().__init__(vae, conditioner, unconditional, resolution, patch=config.patch_size)
        self.transformer: Any = freeze(transformer)
        self._below: dict[int, Tensor] = {}
        self.noise_scheduler = noise_scheduler
        if self.noise_scheduler.config.use_dynamic_shifting:
            raise ValueError("scheduler says use_dynamic_shifting: Stable Diffusion 3 and 3.5 have a fixed shift")
        if conditioner.width != config.joint_attention_dim:
            raise ValueError(
                f"the conditioning's width {conditioner.width} is not the transformer's {config.joint_attention_dim}: "
                "the folder mixes two models"
            )

    def unconditional(self, like: Conditioning) -> Conditioning:
        texts = self.conditioner
        states = self.unconditional_states  # the whole of it where no text encoder made the rows: T5's stand at its end
        if isinstance(texts, ThreeTextEncodersConditioner):
            # The CLIPs are causal, so their first rows stay the same; T5 looks both ways, so each length is another.
            clip_rows = states.shape[1] - T5_ROWS
            below_rows = like.states.shape[1] // 2 if texts.t5 is not None else T5_ROWS
            below = states[:, clip_rows:]
            if below_rows != T5_ROWS:
                if below_rows not in self._below:
                    self._below[below_rows] = texts.encode_empty_t5(below_rows)
                below = self._below[below_rows]
            states = torch.cat([states[:, : like.states.shape[1] - below_rows], below.to(states)], dim=1)
        assert like.pooled is not None
        assert self.unconditional_pooled is not None
        batch = len(like.states)
        return Conditioning(
            states.to(like.states.dtype).expand(batch, -1, -1),
            self.unconditional_pooled.to(like.pooled.dtype).expand(batch, -1),
        )

    def sample_noise_and_timesteps(self, generators: Sequence[Generator]) -> NoiseAndTimesteps:
        """Timesteps are indices into the scheduler's shifted tables, logit-normal (arXiv 2403.03206)."""
        posterior_noise = sample_noise(self.latent_shape, generators)
        normal = torch.stack([torch.randn((), generator=generator) for generator in generators])
        count = self.noise_scheduler.config.num_train_timesteps
        index = (normal.sigmoid() * count).long().clamp(max=count - 1)
        return NoiseAndTimesteps(posterior_noise, index, sample_noise(self.latent_shape, generators))

    def denoising_loss(
        self, latents: Tensor, conditioning: Conditioning, sampled: NoiseAndTimesteps, crops: Tensor | None = None
    ) -> Tensor:
        index = sampled.timesteps
        sigmas = self.noise_scheduler.sigmas.to(latents.device)[index][:, None, None, None]  # [B, 1, 1, 1]
        timesteps = self.noise_scheduler.timesteps.to(latents.device)[index]
        noisy_latents = (1 - sigmas) * latents + sigmas * sampled.noise
        velocity = self.predict(noisy_latents, timesteps, conditioning, crops).float()
        losses = diffusion_loss(velocity, sampled.noise - latents)
        return losses * sigmas.flatten() ** 2 if self.loss_options.precondition_outputs else losses

    def predict(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning, crops: Tensor | None
    ) -> Tensor:
        dtype = self.transformer.dtype
        assert conditioning.pooled is not None
        return self.transformer(
            hidden_states=noisy_latents.to(dtype),
            timestep=timesteps.expand(len(noisy_latents)),
            encoder_hidden_states=conditioning.states.to(dtype),
            pooled_projections=conditioning.pooled.to(dtype),
        ).sample

    def enable_gradient_checkpointing(self) -> None:
        self.transformer.enable_gradient_checkpointing()


def load_decoder(
    folder: Path, conditioning: str, resolution: int, t5_dtype: str | None = None
) -> StableDiffusion3Decoder:
    """The whole decoder of a diffusers SD3 folder, in fp32 on the CPU; `t5_dtype` bf16 or int8 is T5's alone."""
    texts: Any = load_conditioner(folder, "clip" if conditioning == "clip" else "text_encoder", torch.float32, t5_dtype)
    scheduler: Any = FlowMatchEulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
    return StableDiffusion3Decoder(
        vae=load_whole(AutoencoderKL.from_pretrained, folder / "vae", torch_dtype=torch.float32),
        transformer=load_whole(
            SD3Transformer2DModel.from_pretrained, folder / "transformer", torch_dtype=torch.float32
        ),
        noise_scheduler=scheduler,
        conditioner=load_direct(folder) if conditioning == "direct" else texts,
        unconditional=encode_empty_prompt(folder, texts),
        resolution=resolution,
    )


def load_skeleton(folder: Path, conditioning: str, resolution: int, device: str = "meta") -> StableDiffusion3Decoder:
    """The decoder of a folder without its weights: names and shapes alone, or random ones on another device."""
    vae: Any = AutoencoderKL.load_config(folder, subfolder="vae")
    config = transformer_config(folder)
    scheduler: Any = FlowMatchEulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
    texts = [CLIPTextConfig.from_pretrained(folder, subfolder=name) for name in ("text_encoder", "text_encoder_2")]
    with torch.device(device):
        clips = [CLIPTextModelWithProjection._from_config(text) for text in texts]
        t5 = None
        if conditioning == "text_encoder" and has_t5(folder):
            t5 = T5EncoderModel._from_config(T5Config.from_pretrained(folder, subfolder="text_encoder_3"))
        conditioner = ThreeTextEncodersConditioner(clips[0], clips[1], t5, config["joint_attention_dim"])
        rows, pooled = conditioner.clip_l.max_length + T5_ROWS, config["pooled_projection_dim"]
        vae = AutoencoderKL.from_config(vae)
        transformer: Any = SD3Transformer2DModel.from_config(config)
        return StableDiffusion3Decoder(
            vae=vae,
            transformer=transformer,
            noise_scheduler=scheduler,
            conditioner=load_direct(folder) if conditioning == "direct" else conditioner,
            unconditional=Conditioning(torch.zeros(1, rows, conditioner.width), torch.zeros(1, pooled)),
            resolution=resolution,
        )

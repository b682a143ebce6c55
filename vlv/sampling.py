"""Random numbers that depend on a sample's position alone, and the denoising loop. Pure torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

_MASK = (1 << 64) - 1


def mix_seed(*numbers: int) -> int:
    """Mix integers into one 63-bit seed, so that neighbours get unrelated streams.

    The finaliser of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014) over
    each number in turn. With `seed + position` sample 1 of seed 0 would have the noise of sample 0 of seed 1; and
    torch's CPU generator keeps 32 bits of a seed, over which mixing spreads the positions evenly.
    """
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def sample_generators(seed: int, positions: Sequence[int]) -> list[Generator]:
    """One CPU generator a sample, a function of (seed, position in the data order) alone.

    On the CPU, because GPUs' generators give other numbers by model and by launch size; so a run is the same on every
    device, for any number of processes, and after resuming, without any generator's state in a checkpoint.
    """
    return [Generator().manual_seed(mix_seed(seed, position)) for position in positions]


def sample_noise(shape: Sequence[int], generators: Sequence[Generator]) -> Tensor:
    """Standard normal noise [B, *shape] on the CPU, row b from generator b: a row does not depend on the others."""
    return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators])


def sample_timesteps(num_timesteps: int, generators: Sequence[Generator]) -> Tensor:
    """Timesteps [B] (int64, CPU), row b from generator b: t ~ U{0..T-1} (DDPM, arXiv 2006.11239, algorithm 1)."""
    return torch.stack([torch.randint(num_timesteps, (), generator=generator) for generator in generators])


def denoise(
    predict: Callable[[Tensor, Tensor], Tensor],
    scheduler: Any,  # diffusers has no type for what its schedulers share
    latents: Tensor,
    num_inference_steps: int,
    generators: Sequence[Generator],
) -> Tensor:
    """Run a diffusers scheduler from noise to clean latents.

    The loop of diffusers' pipelines, which cannot be called with embeddings in place of a prompt.

    Args:
        predict: (scaled latents [B, C, h, w], timestep []) -> prediction [B, C, h, w], guidance included.
        scheduler: a diffusers scheduler that `set_timesteps` may be called on.
        latents: [B, C, h, w], standard normal noise.
        num_inference_steps: denoising steps.
        generators: one an image, for samplers that add noise on the way.

    Returns:
        [B, C, h, w], the clean latents.

    Raises:
        ValueError: fewer steps than 1, or more than the model was trained with.
    """
    limit = scheduler.config.num_train_timesteps
    if not 1 <= num_inference_steps <= limit:
        raise ValueError(f"num_inference_steps={num_inference_steps} cannot be used: give 1 to {limit}")
    scheduler.set_timesteps(num_inference_steps, device=latents.device)
    # Rectified flow's schedulers neither scale the first noise nor what the denoiser sees.
    latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
    scale = getattr(scheduler, "scale_model_input", lambda latents, timestep: latents)
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": list(generators)} if takes_generator else {}
    for timestep in scheduler.timesteps:
        model_pred = predict(scale(latents, timestep), timestep)
        latents = scheduler.step(model_pred, timestep, latents, **extra).prev_sample
    return latents


def guide(unconditional: Tensor, conditional: Tensor, guidance_scale: float) -> Tensor:
    """Classifier-free guidance of predictions [B, C, h, w], u + g * (c - u); a scale of 1 is none.

    arXiv 2207.12598, equation 6 with g = 1 + w.
    """
    return unconditional + guidance_scale * (conditional - unconditional)

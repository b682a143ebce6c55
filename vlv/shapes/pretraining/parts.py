"""The parts of the family: each built with what it is trained on, and written where its folder has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import nn
from transformers import AutoTokenizer, CLIPTextModel, Florence2ForConditionalGeneration

from vlv.shapes.pretraining import architecture, objectives, samples
from vlv.shapes.render import render
from vlv.shapes.scene import make_scene


@dataclass(frozen=True)
class Part:
    """objective: what is trained. sample: scene number -> training sample. save: writes the finished part."""

    objective: nn.Module
    sample: Callable[[int], dict[str, Any]]
    save: Callable[[], None]


def build(name: str, out: Path, work: Path, seed: int, latent_scenes: int) -> Part:
    """One part of the family, ready to be trained.

    Args:
        out: the family's folder; parts that this one stands on are read from there.
        work: where cached latents go.
        latent_scenes: how many training scenes the UNet's latents are cached for.
    """
    sd, florence2 = out / "stable-diffusion", out / "florence2"
    save = architecture.save_component
    if name == "vae":
        vae = architecture.build_vae()
        return Part(objectives.AutoencoderObjective(vae), samples.picture_sample, lambda: save_vae(vae, sd / "vae"))
    if name == "vae_crowded":
        vae = AutoencoderKL.from_pretrained(sd / "vae", torch_dtype=torch.float32)
        objective = objectives.AutoencoderObjective(vae, squared_weight=2.0)
        return Part(objective, samples.crowded_sample, lambda: save_vae(vae, sd / "vae"))
    if name == "text_encoder":
        tokenizer = _tokenizer(sd / "tokenizer")
        encoder = architecture.build_text_encoder(tokenizer)
        objective = objectives.TextReadOut(encoder)
        return Part(objective, samples.TextSamples(tokenizer), lambda: save(encoder, sd / "text_encoder"))
    if name == "tower":
        model = architecture.build_florence2(_tokenizer(florence2))
        return Part(objectives.TowerReadOut(model), samples.tower_sample, lambda: save(model, florence2))
    if name == "florence2":
        tokenizer = _tokenizer(florence2)
        model = Florence2ForConditionalGeneration.from_pretrained(florence2, dtype=torch.float32)
        objective = objectives.TaskObjective(model, train_tower=False)
        return Part(objective, samples.TaskSamples(tokenizer), lambda: save(model, florence2))
    if name == "qwen":
        tokenizer = _tokenizer(out / "qwen")
        llm = architecture.build_qwen(tokenizer)
        objective = objectives.LanguageObjective(llm)
        return Part(objective, samples.SentenceSamples(tokenizer), lambda: save(llm, out / "qwen"))
    assert name == "unet", name
    unet = architecture.build_unet()
    encoder = CLIPTextModel.from_pretrained(sd / "text_encoder", dtype=torch.float32)
    scheduler = architecture.build_scheduler()
    cache = cache_latents(sd / "vae", work / "latents.safetensors", latent_scenes)
    return Part(
        objectives.TextToImageObjective(unet, encoder, scheduler, seed),
        samples.LatentSamples(_tokenizer(sd / "tokenizer"), cache),
        lambda: save(unet, sd / "unet"),
    )


def _tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def save_vae(vae: Any, folder: Path, count: int = 512) -> None:
    """Write the VAE with the scaling factor that gives its latents unit variance over training scenes."""
    means = [_encode(vae, range(start, start + 64)).sample() for start in range(0, count, 64)]
    vae.register_to_config(scaling_factor=round(1 / float(torch.cat(means).std()), 5))
    architecture.save_component(vae, folder)


@torch.no_grad()
def cache_latents(folder: Path, path: Path, count: int) -> Path:
    """Scaled latents of the first training scenes, mean and deviation, fp16 [count, C, h, w]; made once."""
    if path.is_file():
        return path
    vae: Any = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32)
    means, deviations = [], []
    for start in range(0, count, 64):
        posterior = _encode(vae.eval(), range(start, min(count, start + 64)))
        means.append((posterior.mean * vae.config.scaling_factor).half())
        deviations.append((posterior.std * vae.config.scaling_factor).half())
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"mean": torch.cat(means), "std": torch.cat(deviations)}, path)
    return path


def _encode(vae: Any, numbers: range) -> Any:
    pictures = [samples.to_pixels(render(make_scene("train", number), number)) for number in numbers]
    return vae.encode(2 * torch.stack(pictures).float() / 255 - 1).latent_dist
